"""A searchable index of a folder of images, bound to the model that embedded them."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from universal_embedding.app.index_files import IndexFiles, find_category, open_model
from universal_embedding.app.live_search import LiveSearch
from universal_embedding.errors import UserError
from universal_embedding.search.neighbors import recall

METRICS = ("euclidean", "cosine")
EXACT_SEARCH_BELOW = 500_000
NUM_RECALL_QUERIES = 1000
MAX_NAMED_CATEGORIES = 20


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


Query = int | str | Path | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class SearchHit:
    """A match.

    Attributes:
        index: Position of the image in the index.
        name: Its path relative to the folder of the images.
        category: The first folder of its name; empty for an image outside any.
        distance: Its distance from the query.
    """

    index: int
    name: str
    category: str
    distance: float


class ImageIndex:
    """Embeddings of the images of a folder, ready to search; safe to use from several threads.

        index = ImageIndex.build(model, "photos/")
        index.save("photos.index")
        hits = index.search("query.jpg", k=5)

    `build`, `load` and `update_index` make one.

    Args:
        files: Names, embeddings and origin of the images.
        model: The model that embedded them; None to open it from `files.model` when it is needed.
        exact_search_below: Indexes smaller than this are searched exactly, others by ScaNN.

    Raises:
        UserError: The index was made by another model.
    """

    def __init__(
        self,
        files: IndexFiles,
        model: ImageEncoder | None = None,
        exact_search_below: int = EXACT_SEARCH_BELOW,
    ) -> None:
        if model is not None:
            files.check_model(model.fingerprint, model.name)
        self._model = model
        self._exact_search_below = exact_search_below
        self._lock = threading.Lock()  # one call of the model or of ScaNN uses all cores
        self._searches: dict[str | None, LiveSearch] = {}
        self._categories: np.ndarray | None = None
        self.files = files

    @classmethod
    def build(
        cls, model: ImageEncoder, images_dir: str | Path, batch_size: int = 32
    ) -> "ImageIndex":
        """Embeds the images of a folder; its sub-folders are the categories.

        Args:
            model: Embeds the images.
            images_dir: The folder.
            batch_size: Images per batch.

        Raises:
            UserError: The folder holds no images, or none that can be read.
        """
        index = cls(IndexFiles.empty(Path(images_dir), model), model)
        index.update(batch_size)
        return index

    @classmethod
    def load(
        cls,
        directory: str | Path,
        model: ImageEncoder | str | Path | None = None,
        exact_search_below: int = EXACT_SEARCH_BELOW,
    ) -> "ImageIndex":
        """Reads an index that `save` wrote.

        Args:
            directory: The index.
            model: The index's model, or where it is; by default where it was when it was made.
            exact_search_below: Use exact search below this many images.

        Raises:
            UserError: There is no index, or the model is not the one that made it.
        """
        files = IndexFiles.read(Path(directory))
        if isinstance(model, str | Path):
            model = open_model(model, files)
        return cls(files, model, exact_search_below)

    def save(self, directory: str | Path) -> None:
        """Writes the index; an older one is replaced only when all is written."""
        self.files.write(Path(directory))

    def __len__(self) -> int:
        return len(self.files.names)

    def __repr__(self) -> str:
        return (
            f"ImageIndex({len(self)} images of {str(self.files.images_dir)!r}, "
            f"model={self.files.model!r})"
        )

    @property
    def names(self) -> list[str]:
        """Paths of the images, relative to their folder."""
        return self.files.names

    @property
    def categories(self) -> np.ndarray:
        """`[N]` object array of str: the first folder of each image's name."""
        if self._categories is None:  # not of dtype str, where the longest name sets the width
            self._categories = np.array([find_category(name) for name in self.names], dtype=object)
        return self._categories

    @property
    def embeddings(self) -> np.ndarray:
        """`[N, D]` float32, unit rows."""
        return self.files.embeddings

    @property
    def corrupt(self) -> dict[str, str]:
        """Reasons by name, of images that could not be embedded."""
        return self.files.corrupt

    @property
    def is_exact(self) -> bool:
        """Whether the search of all images is exact."""
        return len(self) < self._exact_search_below

    @property
    def model(self) -> ImageEncoder:
        """The model; opened when it is first needed.

        Raises:
            UserError: It is not where it was, or is another one now.
        """
        if self._model is None:
            model = open_model(self.files.model, self.files)
            self.files.check_model(model.fingerprint, model.name)
            self._model = model
        return self._model

    def update(self, batch_size: int = 32, save_to: Path | None = None) -> Any:
        """Embeds what is new or changed in the folder and drops what is gone.

        Args:
            batch_size: Images per batch.
            save_to: Save there now and then, so that an interrupted call loses little.

        Returns:
            An `IndexUpdate` with the counts.

        Raises:
            UserError: The folder holds no images, or none that can be read.
        """
        from universal_embedding.app.index_update import update_files

        files, update = update_files(self.files, self.model, batch_size, save_to)
        self._set_files(files, None)
        return update

    def add(self, names: Sequence[str | Path], batch_size: int = 32) -> None:
        """Embeds images of the folder and adds them, or replaces those of the same name.

        Args:
            names: Paths within the folder of the images, or relative to it.
            batch_size: Images per batch.

        Raises:
            UserError: A path is outside the folder, or an image cannot be read.
        """
        from universal_embedding.app.index_update import embed_named

        relative = [self.files.relative_name(name) for name in names]
        files, corrupt = embed_named(self.files, self.model, relative, batch_size)
        if corrupt:
            name, reason = next(iter(corrupt.items()))
            raise UserError(f"{name} cannot be added: {reason}")
        self._set_files(files, set(relative))

    def remove(self, names: Sequence[str | Path]) -> None:
        """Drops images from the index; their files stay.

        Raises:
            UserError: The index has no such image.
        """
        relative = {self.files.relative_name(name) for name in names}
        unknown = relative - set(self.names)
        if unknown:
            raise UserError(f"{min(unknown)} is not in the index of {self.files.images_dir}")
        self._set_files(self.files.without(relative), relative)

    def encode(self, image: Query) -> np.ndarray:
        """Embeds one image, `[D]` float32; one call at a time."""
        from universal_embedding.datasets.image_files import read_image

        pixels = read_image(image)  # type: ignore[arg-type]
        with self._lock:
            return self.model.encode([pixels], batch_size=1, show_progress_bar=False)[0]

    def search(
        self,
        query: Query,
        k: int = 5,
        metric: str = "euclidean",
        category: str | None = None,
        max_distance: float | None = None,
    ) -> list[SearchHit]:
        """Finds the images nearest to a query, nearest first.

        Args:
            query: An image (path, bytes, PIL image, uint8 array), an embedding `[D]`, or the
                position of an image of the index, which is not among its own matches.
            k: Maximum number of matches.
            metric: `euclidean`, 0..2, or `cosine` (1 - cosine), 0..2. Their order is the same.
            category: Search only this category.
            max_distance: Leave out matches farther than this.

        Raises:
            UserError: The image cannot be read, or there is no such category or metric.
        """
        if metric not in METRICS:
            raise UserError(f"metric is {metric!r}; it must be one of {', '.join(METRICS)}")
        exclude = query if isinstance(query, int) else -1
        if isinstance(query, int):
            embedding = self.embeddings[query]
        elif isinstance(query, np.ndarray) and query.ndim == 1:
            embedding = query
        else:
            embedding = self.encode(query)
        with self._lock:
            found = self._search(category).query(embedding[None], min(k, len(self)), exclude)[0]
        found = found[found >= 0]
        found_distances = distances(self.embeddings[found], embedding, metric)
        order = np.argsort(found_distances, kind="stable")
        return [
            self.hit(index, distance)
            for index, distance in zip(
                found[order].tolist(), found_distances[order].tolist(), strict=True
            )
            if max_distance is None or distance <= max_distance
        ]

    def hit(self, index: int, distance: float) -> SearchHit:
        """The match of an image of the index."""
        return SearchHit(index, self.names[index], find_category(self.names[index]), distance)

    def describe_approximation(self) -> str:
        """One line on the recall, build time and speed of approximate search, measured here."""
        from universal_embedding.search.exact import exact_search

        sample = np.random.default_rng(0).permutation(len(self))[:NUM_RECALL_QUERIES]
        queries = self.embeddings[sample]
        exact = exact_search()
        exact.index(self.embeddings)
        truth, _ = exact.query(queries, min(5, len(self)))
        start = time.perf_counter()
        with self._lock:
            search = self._search(None)
        built = time.perf_counter()
        found = search.query(queries, truth.shape[1])
        rate = len(queries) / (time.perf_counter() - built)
        return (
            f"approximate search: recall@5 {recall(found, truth):.4f} against exact on "
            f"{len(queries)} images, built in {built - start:.1f} s, {rate:,.0f} queries per second"
        )

    def _set_files(self, files: IndexFiles, changed: set[str] | None) -> None:
        """Takes another content, in which only the images `changed` differ; None: any may."""
        with self._lock:
            search, self._searches = self._searches.get(None), {}
            if search and files.names and changed is not None:
                search.change(~self.files.find(changed), files.find(changed), files.embeddings)
                self._searches[None] = search
            self.files, self._categories = files, None

    def _search(self, category: str | None) -> LiveSearch:
        """The search of a category's images; None: of all."""
        if category not in self._searches:
            members = np.arange(len(self))
            if category is not None:
                members = np.flatnonzero(self.categories == category)
            if not len(members):
                known = sorted(set(self.categories.tolist()))
                names = ", ".join(map(repr, known[:MAX_NAMED_CATEGORIES]))
                more = f" and {len(known) - MAX_NAMED_CATEGORIES} more"
                raise UserError(
                    f"there is no category {str(category)[:100]!r} in the index; it has {names}"
                    f"{more if len(known) > MAX_NAMED_CATEGORIES else ''}"
                )
            is_exact = len(members) < self._exact_search_below
            self._searches[category] = LiveSearch(self.embeddings, members, is_exact)
        return self._searches[category]


def distances(embeddings: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """`[N]` float64 distances of unit rows `[N, D]` from `[D]`; exactly 0 for equal rows."""
    difference = embeddings.astype(np.float64) - query.astype(np.float64)
    euclidean = np.linalg.norm(difference, axis=-1)
    return euclidean if metric == "euclidean" else euclidean**2 / 2
