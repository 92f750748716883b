"""A searchable index of vectors in shards, made from files of embeddings; the rows stay on disk."""

import json
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from universal_embedding.app.index_files import META
from universal_embedding.app.searchable import (
    METRICS,
    ImageEncoder,
    Query,
    SearchHit,
    check_vector,
    distances,
    nearest_first,
    path_within,
)
from universal_embedding.app.stored_names import StoredNames
from universal_embedding.errors import UserError, printable
from universal_embedding.search.checksums import check_files
from universal_embedding.search.sharded import ShardedIndex

KIND = "embeddings"
FORMAT = 1
_NUM_ATTEMPTS = 20  # of a reader whose version is replaced while it reads


@dataclass(frozen=True)
class VectorIndexMeta:
    """The content of the index.json of an index of embeddings.

    Attributes:
        version: Names the folder of the shards, `shards-<version>`: a hash of the files of
            embeddings and of the settings.
        source: Where the files of embeddings were.
        images_dir: Folder that the names are relative to; empty if it is not known.
        model: Where the model was opened from; empty if it is not known.
        fingerprint: sha256 of the model; empty if it is not known.
        embedding_dim: D.
        num_rows: Rows in the files; those without an embedding are not found.
        target_recall: Recall@5 that approximate search is tuned to reach; 1 is exact.
        dtype: Format of the rows.
        files: Checksums of the files of names.
    """

    version: str
    source: str
    images_dir: str
    model: str
    fingerprint: str
    embedding_dim: int
    num_rows: int
    target_recall: float
    dtype: str
    files: dict[str, list[int]]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads index.json.

        Raises:
            OSError, ValueError, KeyError, TypeError, RecursionError: It is missing, damaged or of
                another kind.
        """
        content = json.loads((directory / META).read_text("utf-8"))
        if content.pop("kind") != KIND or content.pop("format") != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        meta = cls(**content)
        if not re.fullmatch("[0-9a-f]{16}", meta.version):
            raise ValueError("its version is not one")
        return meta

    def to_json(self) -> str:
        """The text of index.json."""
        return json.dumps({"kind": KIND, "format": FORMAT, **vars(self)}, indent=1)

    def folder(self, directory: Path) -> Path:
        """The folder of the shards."""
        return directory / f"shards-{self.version}"


class VectorIndex:
    """Named embeddings in shards, ready to search; safe to use from several threads.

        index = VectorIndex.load("vectors.index")
        hits = index.search(7, k=5)  # the neighbors of row 7

    A row is known by its position among all, or by its shard and its place there.

    Args:
        directory: The index; `build_vector_index` makes one.
        meta: Its description.
        model: The model of image queries; None to open the one that made the embeddings when it is
            needed.

    Raises:
        UserError: A shard is missing or damaged, or the model made other embeddings.
    """

    def __init__(
        self, directory: Path, meta: VectorIndexMeta, model: ImageEncoder | None = None
    ) -> None:
        self.meta = meta
        self._model = model
        self._lock = threading.Lock()  # one call of the model or of ScaNN uses all cores
        folder = meta.folder(directory)
        try:
            check_files(folder, meta.files)
            self.names = StoredNames([folder / name for name in sorted(meta.files)])
        except Exception as error:  # damaged files cause errors of every kind
            raise UserError(
                f"the names in {folder} are missing or damaged ({printable(error)}); remove "
                f"{directory} and make it again with `universal-embedding index --embeddings=...`"
            ) from error
        self.neighbors = ShardedIndex.load(folder)
        if not len(self.names) == self.neighbors.next_id == meta.num_rows:
            raise UserError(
                f"{folder} has {len(self.names)} names, {self.neighbors.next_id} rows, not "
                f"{meta.num_rows}; remove {directory} and make it again"
            )
        if model is not None:
            self._check_model(model)

    @classmethod
    def load(cls, directory: str | Path, model: ImageEncoder | str | Path | None = None) -> Self:
        """Reads an index.

        Args:
            directory: The index.
            model: Embeds images to search with; by default the model that made the embeddings.

        Raises:
            UserError: There is no index, it is damaged, or the model made other embeddings.
        """
        directory = Path(directory)
        for attempt in range(_NUM_ATTEMPTS):
            try:
                meta = VectorIndexMeta.read(directory)
            except Exception as error:  # damaged files cause errors of every kind
                raise UserError(
                    f"{directory} holds no index of embeddings ({printable(error)}); make one with "
                    f"`universal-embedding index --embeddings=... --output={directory}`"
                ) from None
            if meta.folder(directory).is_dir():
                break
            time.sleep(0.01 * attempt)  # replaced since index.json was read
        if isinstance(model, str | Path):
            from universal_embedding.export.embedder import Embedder

            model = Embedder.from_pretrained(model, dimension=meta.embedding_dim)
        return cls(directory, meta, model)

    def __len__(self) -> int:
        return self.meta.num_rows

    def __repr__(self) -> str:
        return (
            f"VectorIndex({len(self)} rows of {self.meta.source!r} in "
            f"{len(self.neighbors.shards)} shards)"
        )

    @property
    def is_exact(self) -> bool:
        """Whether the search is exact."""
        return self.neighbors.is_exact

    @property
    def title(self) -> str:
        """The name of the files of embeddings."""
        return Path(self.meta.source).name

    @property
    def category_sizes(self) -> dict[str, int]:
        """Empty: an index of embeddings is searched as a whole."""
        return {}

    def find_examples(self, category: str | None, count: int) -> list[int]:
        """Positions of at most `count` rows, spread evenly."""
        del category
        return list(range(0, len(self), max(1, len(self) // count)))[:count]

    def hit(self, index: int, distance: float) -> SearchHit:
        """The match of a row."""
        return SearchHit(index, self.names[index], self.names.category(index), distance)

    def row(self, index: int) -> np.ndarray:
        """The embedding `[D]` float32 of a row.

        Raises:
            UserError: It has none.
        """
        return self.neighbors.rows(np.array([index]))[0]

    def image_path(self, index: int) -> Path | None:
        """The file of the image that a row was made of; None if it is not there."""
        if not self.meta.images_dir:
            return None
        path = path_within(Path(self.meta.images_dir), self.names[index])
        return path if path is not None and path.is_file() else None

    def position(self, row: str) -> int:
        """The position of `ROW`, or of `SHARD/ROW`.

        Raises:
            UserError: There is no such row.
        """
        match = re.fullmatch(r"(?:([0-9]{1,9})/)?([0-9]{1,18})", row)
        if match:
            sizes = [shard.next_id for shard in self.neighbors.shards]
            if match[1] is None:
                first, size = 0, len(self)
            else:
                shard = int(match[1])
                first, size = sum(sizes[:shard]), sum(sizes[shard : shard + 1])
            if int(match[2]) < size:
                return first + int(match[2])
        raise UserError(
            f"there is no row {row[:40]!r}; give ROW, 0 to {len(self) - 1}, or SHARD/ROW"
        )

    def encode(self, image: Query) -> np.ndarray:
        """Embeds one image, `[D]` float32; one call at a time.

        Raises:
            UserError: The image cannot be read, or there is no model for it.
        """
        from universal_embedding.datasets.image_files import read_image

        pixels = read_image(image)  # type: ignore[arg-type]
        with self._lock:
            if self._model is None:
                self._model = self._open_model()
            row = self._model.encode([pixels], batch_size=1, show_progress_bar=False)[0]
        return check_vector(row, self.meta.embedding_dim)

    def search(
        self,
        query: Query,
        k: int = 5,
        metric: str = "euclidean",
        category: str | None = None,
        max_distance: float | None = None,
    ) -> list[SearchHit]:
        """Finds the rows nearest to a query, nearest first.

        Args:
            query: An image (path, bytes, PIL image, uint8 array), an embedding `[D]`, or the
                position of a row, which is not among its own matches.
            k: Maximum number of matches.
            metric: `euclidean`, 0..2, or `cosine` (1 - cosine), 0..2. Their order is the same.
            category: Must be None.
            max_distance: Leave out matches farther than this.

        Raises:
            UserError: The query cannot be read, or is not of this size, or the row has no
                embedding; or there is no such metric.
        """
        if metric not in METRICS:
            raise UserError(f"metric is {metric!r}; it must be one of {', '.join(METRICS)}")
        if category is not None:
            raise UserError("an index of embeddings is searched as a whole: name no category")
        if isinstance(query, int):
            embedding = self.row(query)
        elif isinstance(query, np.ndarray) and query.ndim == 1:
            embedding = check_vector(query, self.meta.embedding_dim)
        else:
            embedding = self.encode(query)
        exclude = np.array([query if isinstance(query, int) else -1])
        with self._lock:
            found = self.neighbors.query(embedding[None], min(k, len(self)), exclude)[0][0]
        found = found[found >= 0]
        found_distances = distances(self.neighbors.rows(found), embedding, metric)
        return nearest_first(self, found, found_distances, max_distance)

    def describe_approximation(self) -> str:
        """One line on the shards and on the recall that they were tuned to reach."""
        return (
            f"approximate search of {len(self.neighbors):,} {self.meta.dtype} rows in "
            f"{len(self.neighbors.shards)} shards, tuned to recall@5 {self.meta.target_recall}"
        )

    def _open_model(self) -> ImageEncoder:
        if not self.meta.model:
            raise UserError(
                "the index does not know the model of its embeddings: give --model to search with "
                "an image, or search with a row or a vector"
            )
        from universal_embedding.export.embedder import Embedder

        model = Embedder.from_pretrained(self.meta.model, dimension=self.meta.embedding_dim)
        self._check_model(model)
        return model

    def _check_model(self, model: ImageEncoder) -> None:
        if self.meta.fingerprint and model.fingerprint != self.meta.fingerprint:
            raise UserError(
                f"the model {model.name} (sha256 {model.fingerprint[:12]}) did not make these "
                f"embeddings (sha256 {self.meta.fingerprint[:12]}, from {self.meta.model}): give "
                "that model with --model"
            )


def is_vector_index(directory: Path) -> bool:
    """Whether `directory` holds an index of embeddings, not one of images."""
    try:
        return json.loads((directory / META).read_text("utf-8"))["kind"] == KIND
    except Exception:  # there is none, or it is damaged
        return False
