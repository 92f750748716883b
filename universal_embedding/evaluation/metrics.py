"""Retrieval metrics of single queries, and which index images are relevant to a query."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from universal_embedding.datasets.examples import Labels
from universal_embedding.errors import UserError

DEFAULT_METRICS = ("r_at_1", "mmp_at_5")
_QUERY_PADDING, _INDEX_PADDING = np.iinfo(np.int64).min, np.iinfo(np.int64).min + 1


@dataclass(frozen=True)
class Metric:
    """A number per query, between 0 and 1; means over queries are taken of unrounded values.

    With n relevant index images, and precision@i the fraction of relevant images among the first
    i neighbors:

    - `r_at_K`: 1 if any of the first K neighbors is relevant, else 0.
    - `mmp_at_K`: precision@min(K, n).
    - `map_at_K`: sum of precision@i over the ranks i <= K of relevant neighbors, over min(K, n).
    - `map_at_r`: the same with K = n.

    Attributes:
        name: `r_at_K`, `mmp_at_K`, `map_at_K` (K >= 1) or `map_at_r`.
        k: Number of neighbors that the metric reads; None for n.
        compute: `(relevant [Q, k] bool, n [Q] int) -> [Q] float64`: the flags of each query's
            first neighbors and its number of relevant index images, n >= 1.
    """

    name: str
    k: int | None
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def depth(self, num_positives: np.ndarray) -> int:
        """Number of neighbors needed for queries with `num_positives [Q]` relevant images."""
        return int(num_positives.max(initial=1)) if self.k is None else self.k


def parse_metric(name: str) -> Metric:
    """Makes the metric called `name`.

    Raises:
        UserError: There is no such metric.
    """
    if name == "map_at_r":
        return Metric(name, None, lambda relevant, n: _average_precision(relevant, n, n))
    match = re.fullmatch(r"(r|mmp|map)_at_([1-9]\d{0,5})", name)
    if not match:
        raise UserError(
            f"unknown metric {name!r}: use r_at_K, mmp_at_K or map_at_K (K = 1, 2, ...) or map_at_r"
        )
    k = int(match[2])
    functions: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "r": lambda relevant, n: np.asarray(relevant[:, :k].any(1), np.float64),
        "mmp": lambda relevant, n: _precision(relevant, np.minimum(n, k)),
        "map": lambda relevant, n: _average_precision(relevant, np.minimum(n, k), k),
    }
    return Metric(name, k, functions[match[1]])


def _precision(relevant: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Fraction of the first `depth` `[Q]` neighbors that is relevant."""
    is_counted = np.arange(relevant.shape[1]) < depth[:, None]
    return (relevant & is_counted).sum(1) / depth


def _average_precision(
    relevant: np.ndarray, best: np.ndarray, depth: np.ndarray | int
) -> np.ndarray:
    """Sum of the precisions at the relevant ranks up to `depth`, over the `best` possible sum."""
    ranks = np.arange(1, relevant.shape[1] + 1)
    is_counted = relevant & (ranks <= np.reshape(depth, (-1, 1)))
    return (is_counted * np.cumsum(relevant, 1) / ranks).sum(1) / best


class RelevanceLookup:
    """Tells which index images of one domain are relevant: those that share a label with the query.

    Args:
        query_labels: Labels of Q queries.
        index_labels: Labels of N index images.
        self_index: `[Q]` int64, the index image that is the query itself, or -1.

    Attributes:
        num_positives: `[Q]` int64, the number of relevant index images of each query (n_q), the
            query itself left out.
    """

    def __init__(self, query_labels: Labels, index_labels: Labels, self_index: np.ndarray) -> None:
        self._query_labels = _pad(query_labels, _QUERY_PADDING)
        self._index_labels = _pad(index_labels, _INDEX_PADDING)
        is_self = self.relevant(np.arange(len(query_labels)), self_index[:, None])[:, 0]
        self.num_positives = _count_sharing(query_labels, index_labels) - is_self

    def relevant(self, queries: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
        """Returns `[q, k]` bool for query ids `[q]` and index ids `[q, k]`, -1 for none."""
        query_labels = self._query_labels[queries][:, None, :, None]
        is_shared = query_labels == self._index_labels[neighbors][:, :, None, :]
        return is_shared.any((2, 3)) & (neighbors >= 0)


def _pad(labels: Labels, padding: int) -> np.ndarray:
    """Labels as a `[N, most labels of an image]` array."""
    lengths = np.diff(labels.splits)
    rows = np.full((len(labels), max(1, lengths.max(initial=1))), padding)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = labels.values
    return rows


def _count_sharing(query_labels: Labels, index_labels: Labels) -> np.ndarray:
    """`[Q]` int64, the number of index images that share a label with each query."""
    values, rows = index_labels.values, index_labels.row_ids
    if not index_labels.is_single_label:
        values, rows = np.unique(np.stack([values, rows]), axis=1)
    order = np.argsort(values, kind="stable")
    values, rows = values[order], rows[order]
    start = np.searchsorted(values, query_labels.values, "left")
    stop = np.searchsorted(values, query_labels.values, "right")
    if not len(query_labels):
        return start
    counts = np.add.reduceat(stop - start, query_labels.splits[:-1])
    for i in np.flatnonzero(np.diff(query_labels.splits) > 1):  # an image may share several labels
        entries = slice(query_labels.splits[i], query_labels.splits[i + 1])
        sharing = [rows[a:b] for a, b in zip(start[entries], stop[entries], strict=True)]
        counts[i] = len(np.unique(np.concatenate(sharing)))
    return counts
