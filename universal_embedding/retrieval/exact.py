"""Exact neighbours: ScaNN's brute force on a CPU, a blocked top-k in TensorFlow elsewhere."""

import importlib.util
from pathlib import Path

import numpy as np

from universal_embedding.retrieval import scann_search
from universal_embedding.retrieval.neighbours import Neighbours


def exact() -> Neighbours:
    """The fastest exact search of this machine."""
    if importlib.util.find_spec("scann") is None:
        return BlockedTopK()
    import tensorflow as tf

    return BlockedTopK() if tf.config.list_physical_devices("GPU") else BruteForce()


class BruteForce(Neighbours):
    """ScaNN's brute force, which runs near the arithmetic limit of the processor."""

    is_exact = True

    def _build(self, rows: np.ndarray) -> None:
        self._searcher = scann_search.brute_force(rows)

    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        return scann_search.search(self._searcher, queries, k)

    def _save(self, folder: Path) -> dict:
        return {}  # built from the rows in less time than read

    @classmethod
    def _load(cls, folder: Path, description: dict, rows: np.ndarray) -> "BruteForce":
        made = cls()
        made._build(rows)
        return made


class BlockedTopK(Neighbours):
    """Matrix product and top-k in TensorFlow, on any device, over blocks of the index."""

    is_exact = True
    rows_at_once = 1 << 16
    queries_at_once = 1024

    def _build(self, rows: np.ndarray) -> None:
        import tensorflow as tf

        starts = range(0, len(rows), self.rows_at_once)
        self._blocks = [(s, tf.constant(rows[s : s + self.rows_at_once])) for s in starts]

    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        steps = range(0, len(queries), self.queries_at_once)
        return np.concatenate([self._best(queries[s : s + self.queries_at_once], k) for s in steps])

    def _best(self, queries: np.ndarray, k: int) -> np.ndarray:
        import tensorflow as tf

        queries = tf.constant(queries)
        scores, ids = tf.zeros((len(queries), 0)), tf.zeros((len(queries), 0), tf.int32)
        for start, rows in self._blocks:
            some = tf.math.top_k(tf.matmul(queries, rows, transpose_b=True), min(k, len(rows)))
            scores = tf.concat([scores, some.values], 1)
            ids = tf.concat([ids, some.indices + start], 1)
            best = tf.math.top_k(scores, min(k, scores.shape[1]))
            scores, ids = best.values, tf.gather(ids, best.indices, batch_dims=1)
        return ids.numpy().astype(np.int64)

    _save = BruteForce._save
    _load = classmethod(BruteForce._load.__func__)
