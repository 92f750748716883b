"""The index that queries are searched in: one domain's, or those of several domains merged."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from universal_embedding.datasets.labels import Labels


@dataclass(frozen=True)
class DomainEmbeddings:
    """Queries and index of one domain.

    Attributes:
        query: `[Q, D]` float32, unit rows.
        query_labels: Labels of the Q queries.
        index: `[N, D]` float32, unit rows; None if the queries are the index.
        index_labels: Labels of the N index pictures; None if the queries are the index.
        query_ids: `[Q]` str, what identifies a query, or None.
        index_ids: `[N]` str, what identifies an index picture, or None. A query that stands in an
            index of its own is recognised by them.
    """

    query: np.ndarray
    query_labels: Labels
    index: np.ndarray | None = None
    index_labels: Labels | None = None
    query_ids: np.ndarray | None = None
    index_ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        if (self.index is None) != (self.index_labels is None):
            raise ValueError("index and index_labels are given together, or neither")
        for what, rows, labels in (
            ("query", self.query, self.query_labels),
            ("index", *self.searched),
        ):
            if np.ndim(rows) != 2 or len(rows) != len(labels):
                raise ValueError(f"{what} has shape {np.shape(rows)} and {len(labels)} labels")
            if not np.isfinite(rows).all():
                bad = int((~np.isfinite(rows).all(1)).sum())
                raise ValueError(f"{bad} of {len(rows)} {what} embeddings are not finite numbers")

    @property
    def searched(self) -> tuple[np.ndarray, Labels]:
        """Embeddings and labels of the index, which may be the queries."""
        if self.index is None:
            return self.query, self.query_labels
        return self.index, self.index_labels

    @cached_property
    def own(self) -> np.ndarray:
        """`[Q]` int64: the index picture that is the query itself, or -1."""
        if self.index is None:
            return np.arange(len(self.query))
        if self.query_ids is None or self.index_ids is None:
            return np.full(len(self.query), -1)
        place = {name: i for i, name in enumerate(self.index_ids)}
        return np.array([place.get(name, -1) for name in self.query_ids], np.int64)


@dataclass(frozen=True)
class Gallery:
    """One index of the pictures of one or more domains.

    The rows are ordered by domain and labels, so that which of two equal pictures comes first,
    and with it every metric, does not depend on the order of the records.

    Attributes:
        embeddings: `[N, D]` float32.
        domains: `[N]` int16, position of the domain among the sorted keys.
        records: `[N]` int64, number of the picture within its domain's index.
        places: The inverse: for each domain key the `[N_d]` row of each of its pictures.
    """

    embeddings: np.ndarray
    domains: np.ndarray
    records: np.ndarray
    places: dict[str, np.ndarray]

    @classmethod
    def of(cls, domains: Mapping[str, DomainEmbeddings]) -> "Gallery":
        """Merges the indexes of `domains`."""
        sizes = {key: domains[key].searched[0].shape[1] for key in domains}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"one index needs embeddings of one size; these have {sizes}")
        total = sum(len(domain.searched[0]) for domain in domains.values())
        gallery = cls(
            np.empty((total, next(iter(sizes.values()))), np.float32),
            np.empty(total, np.int16),
            np.empty(total, np.int64),
            {},
        )
        start = 0
        for number, key in enumerate(sorted(domains)):
            rows, labels = domains[key].searched
            order = _by_label(labels)
            here = slice(start, start + len(rows))
            np.take(rows.astype(np.float32, copy=False), order, 0, gallery.embeddings[here])
            gallery.domains[here] = number
            gallery.records[here] = order
            gallery.places[key] = np.empty(len(rows), np.int64)
            gallery.places[key][order] = np.arange(here.start, here.stop)
            start = here.stop
        return gallery


def _by_label(labels: Labels) -> np.ndarray:
    if labels.single:
        return np.argsort(labels.values, kind="stable")
    return np.array(sorted(range(len(labels)), key=lambda i: (tuple(labels[i]), i)), np.int64)
