"""The interface of the indexes that `query`, `serve` and `evaluate-index` read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from universal_embedding.errors import UserError

if TYPE_CHECKING:
    from universal_embedding.app.image_index import ImageIndex
    from universal_embedding.app.vector_index import VectorIndex

METRICS = ("euclidean", "cosine")
Query = int | str | Path | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class SearchHit:
    """A match.

    Attributes:
        index: Position of the image in the index.
        name: Its name, such as its path relative to the folder of the images.
        category: The first folder of its name, or its label; empty for an image without any.
        distance: Its distance from the query.
    """

    index: int
    name: str
    category: str
    distance: float


class ImageEncoder(Protocol):
    """The model behind an index; `Embedder` is one."""

    @property
    def name(self) -> str:
        """The path or name from which the model can be opened again."""

    @property
    def fingerprint(self) -> str:
        """sha256 that identifies the model."""

    def encode(
        self,
        images: Sequence[np.ndarray],
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        """Embeds `[H, W, 3]` uint8 images of any sizes: `[N, D]` float32, unit rows."""


class SearchableIndex(Protocol):
    """Named rows that can be searched."""

    def __len__(self) -> int:
        """Number of positions; some may hold nothing."""

    @property
    def is_exact(self) -> bool:
        """Whether the search is exact."""

    @property
    def title(self) -> str:
        """Its name for people."""

    @property
    def category_sizes(self) -> dict[str, int]:
        """Number of images by category, sorted by category; empty if they cannot be searched."""

    def position(self, row: str) -> int:
        """The position that a user names.

        Raises:
            UserError: There is no such row.
        """

    def find_examples(self, category: str | None, count: int) -> list[int]:
        """Positions of at most `count` images of a category, or of all, spread evenly."""

    def hit(self, index: int, distance: float) -> SearchHit:
        """The match of the image at a position."""

    def row(self, index: int) -> np.ndarray:
        """The embedding `[D]` float32 of the image at a position."""

    def image_path(self, index: int) -> Path | None:
        """The file of an image; None if there is none, or it leads out of the images' folder."""

    def describe_approximation(self) -> str:
        """One line on the recall and speed of approximate search."""

    def encode(self, image: Query) -> np.ndarray:
        """Embeds one image, `[D]` float32."""

    def search(
        self,
        query: Query,
        k: int = 5,
        metric: str = "euclidean",
        category: str | None = None,
        max_distance: float | None = None,
    ) -> list[SearchHit]:
        """Finds the images nearest to an image, an embedding or a position; nearest first."""


def distances(embeddings: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """`[N]` float64 distances of unit rows `[N, D]` from `[D]`; exactly 0 for equal rows."""
    difference = embeddings.astype(np.float64) - query.astype(np.float64)
    euclidean = np.linalg.norm(difference, axis=-1)
    return euclidean if metric == "euclidean" else euclidean**2 / 2


def check_vector(vector: np.ndarray, dim: int) -> np.ndarray:
    """A query `[D]` as float32 at unit length.

    Raises:
        UserError: It has another size, is not finite or all zero.
    """
    norm = np.linalg.norm(vector.astype(np.float32))
    if vector.shape != (dim,) or not 0 < norm < np.inf:
        raise UserError(
            f"the query has shape {vector.shape} and length {norm:g}; it must be a vector of {dim} "
            "finite numbers, not all zero"
        )
    return (vector / norm).astype(np.float32)


def nearest_first(
    index: SearchableIndex,
    found: np.ndarray,
    found_distances: np.ndarray,
    max_distance: float | None,
) -> list[SearchHit]:
    """The hits at positions `[n]` with distances `[n]`, ordered, within `max_distance`."""
    order = np.argsort(found_distances, kind="stable")
    return [
        index.hit(position, distance)
        for position, distance in zip(
            found[order].tolist(), found_distances[order].tolist(), strict=True
        )
        if max_distance is None or distance <= max_distance
    ]


def path_within(folder: Path, name: str) -> Path | None:
    """The file `name` of a folder; None if it leads out of the folder, perhaps by a link."""
    root = folder.resolve()
    path = (root / name).resolve()
    return path if path.is_relative_to(root) else None


def open_index(
    directory: str | Path, model: str | Path | None = None, exact_search_below: int | None = None
) -> "ImageIndex | VectorIndex":
    """Reads an index of images, or one of embeddings.

    Args:
        directory: The index.
        model: The index's model; by default where it was when the index was made.
        exact_search_below: Search an index of fewer images exactly; one of embeddings is exact or
            not since it was made.

    Raises:
        UserError: There is no index, or the model is not the one that made it.
    """
    from universal_embedding.app.image_index import ImageIndex
    from universal_embedding.app.vector_index import VectorIndex, is_vector_index

    if is_vector_index(Path(directory)):
        return VectorIndex.load(directory, model)
    return ImageIndex.load(directory, model, exact_search_below)
