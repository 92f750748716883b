"""Exact neighbours: ScaNN's brute force on a CPU, a blocked top-k in TensorFlow elsewhere."""

import importlib.util

import numpy as np

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
        from scann.scann_ops.py import scann_ops_pybind

        self._searcher = (
            scann_ops_pybind.builder(rows, min(10, len(rows)), "dot_product")
            .score_brute_force()
            .build()
        )

    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        found, _ = self._searcher.search_batched_parallel(queries, final_num_neighbors=k)
        return found.astype(np.int64)


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
        import tensorflow as tf

        steps = range(0, len(queries), self.queries_at_once)
        parts = [tf.constant(queries[s : s + self.queries_at_once]) for s in steps]
        return np.concatenate([self._best(part, k).numpy() for part in parts])

    def _best(self, queries: "tf.Tensor", k: int) -> "tf.Tensor":  # noqa: F821
        import tensorflow as tf

        scores = ids = None
        for start, rows in self._blocks:
            some = tf.math.top_k(tf.matmul(queries, rows, transpose_b=True), min(k, len(rows)))
            new_ids = some.indices + start
            if scores is None:
                scores, ids = some.values, new_ids
                continue
            both = tf.math.top_k(tf.concat([scores, some.values], 1), k)
            ids = tf.gather(tf.concat([ids, new_ids], 1), both.indices, batch_dims=1)
            scores = both.values
        return ids
