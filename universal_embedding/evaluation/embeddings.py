"""Embeddings of queries and indexes in memory, and merged over domains."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from universal_embedding.datasets.examples import Labels
from universal_embedding.search.score_correction import correct_index, correct_queries


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
