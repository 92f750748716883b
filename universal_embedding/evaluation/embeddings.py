"""Embeddings of queries and indexes: in memory, merged over domains, and in `.npz` files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from universal_embedding.datasets.examples import Labels
from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write, reporting_unreadable
from universal_embedding.search.score_correction import correct_index, correct_queries

if TYPE_CHECKING:
    from universal_embedding.datasets.records import Records

_NPZ_ARRAYS = ("domain", "image_id", "embedding")


@dataclass(frozen=True)
class DomainEmbeddings:
    """Queries and index of one domain.

    Attributes:
        query: `[Q, D]` float32, unit rows.
        query_labels: Labels of the Q queries.
        index: `[N, D]` float32, unit rows; None if the queries are the index.
        index_labels: Labels of the N index images; None if the queries are the index.
        query_ids: `[Q]` unique ids of the queries, or None.
        index_ids: `[N]` unique ids of the index images, or None. By its id, a query that is also
            in an index of its own is recognized as itself.

    Raises:
        ValueError: Shapes do not fit each other, or a number is not finite.
    """

    query: np.ndarray
    query_labels: Labels
    index: np.ndarray | None = None
    index_labels: Labels | None = None
    query_ids: np.ndarray | None = None
    index_ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        if (self.index is None) != (self.index_labels is None):
            raise ValueError("index and index_labels must both be given, or both be None")
        index, index_labels = self.index_embeddings
        _check_rows("query", self.query, self.query_labels)
        _check_rows("index", index, index_labels)
        if self.query.shape[1] != index.shape[1]:
            raise ValueError(
                f"query has shape {self.query.shape} and index {index.shape}: embeddings must be "
                "of one size"
            )

    @property
    def index_embeddings(self) -> tuple[np.ndarray, Labels]:
        """Embeddings and labels of the index, which may be the queries."""
        if self.index is None or self.index_labels is None:
            return self.query, self.query_labels
        return self.index, self.index_labels

    @cached_property
    def self_index(self) -> np.ndarray:
        """`[Q]` int64: the index image that is the query itself, or -1."""
        if self.index is None:
            return np.arange(len(self.query))
        if self.query_ids is None or self.index_ids is None:
            return np.full(len(self.query), -1)
        positions = {image_id: i for i, image_id in enumerate(self.index_ids)}
        return np.array([positions.get(image_id, -1) for image_id in self.query_ids], np.int64)


@dataclass(frozen=True)
class MergedIndex:
    """One index of the images of one or more domains.

    The rows are ordered by domain and labels, so that which of two equal images comes first, and
    with it every metric, does not depend on the order of the records.

    Attributes:
        embeddings: `[N, D]` float32.
        domains: `[N]` int16, position of the image's domain among the sorted keys.
        records: `[N]` int64, position of the image in its domain's index.
        rows_by_domain: The inverse: for each domain key `[N_d]` int64, the row of each image.
    """

    embeddings: np.ndarray
    domains: np.ndarray
    records: np.ndarray
    rows_by_domain: dict[str, np.ndarray]

    @classmethod
    def from_domains(cls, domains: Mapping[str, DomainEmbeddings]) -> "MergedIndex":
        """Merges the indexes of `domains`.

        Raises:
            ValueError: Their embeddings differ in size.
        """
        sizes = {key: domain.index_embeddings[0].shape[1] for key, domain in domains.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"a merged index needs embeddings of one size; the sizes are {sizes}")
        total = sum(len(domain.index_embeddings[0]) for domain in domains.values())
        merged = cls(
            np.empty((total, next(iter(sizes.values()))), np.float32),
            np.empty(total, np.int16),
            np.empty(total, np.int64),
            {},
        )
        start = 0
        for domain_id, key in enumerate(sorted(domains)):
            embeddings, labels = domains[key].index_embeddings
            order = _order_by_label(labels)
            stop = start + len(embeddings)
            embeddings = embeddings.astype(np.float32, copy=False)
            np.take(embeddings, order, 0, merged.embeddings[start:stop])
            merged.domains[start:stop] = domain_id
            merged.records[start:stop] = order
            merged.rows_by_domain[key] = np.empty(len(order), np.int64)
            merged.rows_by_domain[key][order] = np.arange(start, stop)
            start = stop
        return merged


class NpzEmbeddings:
    """Embeddings in an `.npz` file, from any framework, looked up by domain and image id.

    Args:
        path: An `.npz` with `domain` `[N]` and `image_id` `[N]`, strings, and `embedding` `[N, D]`,
            floating point.

    Raises:
        UserError: The file is missing or of another format, or has two rows for one image.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        domains, ids, self.embeddings = _read_npz(Path(path))
        keys = zip(domains.tolist(), ids.tolist(), strict=True)
        self._rows = {key: row for row, key in enumerate(keys)}
        if len(self._rows) < len(ids):
            num_repeated = len(ids) - len(self._rows)
            raise UserError(
                f"{path} has more than one row for {num_repeated} images: keep one of each"
            )

    def __call__(self, records: "Records") -> np.ndarray:
        """Looks up `[N, D]` float32, the rows of the N records in their order.

        Raises:
            UserError: A record has no row.
        """
        keys = [(records.domain, str(image_id)) for image_id in records.image_ids]
        missing = [key for key in keys if key not in self._rows]
        if missing:
            raise UserError(
                f"{self.path} has no row for {len(missing)} of the {len(keys)} images of "
                f"{records.domain} {records.split}, the first being image_id={missing[0][1]!r}: "
                "add rows with the image ids of the records"
            )
        return np.asarray(self.embeddings[[self._rows[key] for key in keys]], np.float32)


def write_npz(path: str | Path, record_embeddings: Sequence[tuple["Records", np.ndarray]]) -> None:
    """Writes the `[N, D]` embeddings of records as a file that `NpzEmbeddings` reads."""
    rows = {}
    for records, embeddings in record_embeddings:
        for image_id, embedding in zip(records.image_ids, embeddings, strict=True):
            rows[records.domain, str(image_id)] = embedding
    with atomic_write(path, "wb") as file:
        np.savez(
            file,
            domain=np.array([domain for domain, _ in rows], str),
            image_id=np.array([image_id for _, image_id in rows], str),
            embedding=np.stack(list(rows.values())),
        )


def correct_scores(
    domains: Mapping[str, DomainEmbeddings], bank: np.ndarray
) -> dict[str, DomainEmbeddings]:
    """Adds the coordinate of `search.score_correction` to queries and indexes.

    Args:
        domains: Queries and indexes.
        bank: `[B, D]` float32 unit rows of other images.
    """
    corrected = {}
    for key, domain in domains.items():
        index, index_labels = domain.index_embeddings
        query_ids, index_ids = domain.query_ids, domain.index_ids
        if domain.index is None:
            query_ids = index_ids = np.arange(len(index))
        corrected[key] = DomainEmbeddings(
            correct_queries(domain.query),
            domain.query_labels,
            correct_index(index, bank),
            index_labels,
            query_ids,
            index_ids,
        )
    return corrected


def normalize_rows(embeddings: np.ndarray) -> np.ndarray:
    """Scales `[N, D]` rows to unit length; rows of zeros stay."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(norms, 1e-12)


def _check_rows(name: str, embeddings: np.ndarray, labels: Labels) -> None:
    if np.ndim(embeddings) != 2 or len(embeddings) != len(labels):
        raise ValueError(f"{name} has shape {np.shape(embeddings)} and {len(labels)} labels")
    finite = np.isfinite(embeddings).all(1)
    if not finite.all():
        raise ValueError(
            f"{int((~finite).sum())} of {len(embeddings)} {name} embeddings are not finite numbers"
        )


def _order_by_label(labels: Labels) -> np.ndarray:
    if labels.is_single_label:
        return np.argsort(labels.values, kind="stable")
    return np.array(sorted(range(len(labels)), key=lambda i: (tuple(labels[i]), i)), np.int64)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    needs = "it must be an .npz of string arrays `domain` and `image_id` and a floating point array"
    try:
        with (
            reporting_unreadable(path, f"{needs} `embedding`"),
            np.load(path, allow_pickle=False) as file,
        ):
            missing = [name for name in _NPZ_ARRAYS if name not in file]
            if missing:
                raise UserError(
                    f"{path} has the arrays {file.files} but none called {missing[0]!r}: an .npz "
                    f"of embeddings needs {', '.join(_NPZ_ARRAYS)}"
                )
            domains, ids, embeddings = (file[name] for name in _NPZ_ARRAYS)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {needs} `embedding`") from None
    is_matrix = embeddings.ndim == 2 and np.issubdtype(embeddings.dtype, np.floating)
    if not is_matrix or not domains.shape == ids.shape == embeddings.shape[:1]:
        raise UserError(
            f"{path} has domain {domains.shape}, image_id {ids.shape} and embedding "
            f"{embeddings.shape} {embeddings.dtype}; they must be [N], [N] and [N, D] floating "
            "point"
        )
    return domains.astype(str), ids.astype(str), embeddings
