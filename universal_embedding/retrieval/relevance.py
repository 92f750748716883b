"""Which index pictures are relevant to a query: those that share a label with it."""

import numpy as np

from universal_embedding.datasets.labels import Labels

_NO_QUERY, _NO_INDEX = np.iinfo(np.int64).min, np.iinfo(np.int64).min + 1


class Relevance:
    """Relevance of the index pictures of one domain to its queries.

    Args:
        queries: Labels of Q queries.
        index: Labels of N index pictures.
        own: `[Q]` int64, the index picture that is the query itself, or -1.
    """

    def __init__(self, queries: Labels, index: Labels, own: np.ndarray) -> None:
        self._queries = _padded(queries, _NO_QUERY)
        self._index = _padded(index, _NO_INDEX)
        itself = self.of(np.arange(len(queries)), own[:, None])[:, 0]
        self.counts = _counts(queries, index) - itself
        """`[Q]` int64: the relevant index pictures of each query (n_q), itself left out."""

    def of(self, queries: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
        """`[q, k]` bool for query numbers `[q]` and index numbers `[q, k]`, -1 for none."""
        asked = self._queries[queries][:, None, :, None]
        shared = asked == self._index[neighbours][:, :, None, :]
        return shared.any((2, 3)) & (neighbours >= 0)


def _padded(labels: Labels, nothing: int) -> np.ndarray:
    lengths = np.diff(labels.splits)
    rows = np.full((len(labels), max(1, lengths.max(initial=1))), nothing)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = labels.values
    return rows


def _counts(queries: Labels, index: Labels) -> np.ndarray:
    pairs = np.unique(np.stack([index.values, index.rows]), axis=1) if not index.single else None
    values, rows = pairs if pairs is not None else (index.values, index.rows)
    order = np.argsort(values, kind="stable")
    values, rows = values[order], rows[order]
    start = np.searchsorted(values, queries.values, "left")
    stop = np.searchsorted(values, queries.values, "right")
    counts = np.add.reduceat(stop - start, queries.splits[:-1]) if len(queries) else start
    for i in np.flatnonzero(np.diff(queries.splits) > 1):
        mine = slice(queries.splits[i], queries.splits[i + 1])
        parts = [rows[a:b] for a, b in zip(start[mine], stop[mine], strict=True)]
        counts[i] = len(np.unique(np.concatenate(parts)))
    return counts
