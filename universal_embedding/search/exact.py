"""Exact search: ScaNN's brute force on a CPU, a blocked top-k in TensorFlow elsewhere."""

import importlib.util
from typing import TYPE_CHECKING

import numpy as np

from universal_embedding.search import scann_ops
from universal_embedding.search.rescored import RescoredSearch

if TYPE_CHECKING:
    import tensorflow as tf


def exact_search() -> RescoredSearch:
    """Makes the fastest exact search of this machine."""
    if importlib.util.find_spec("scann") is None:
        return BlockedTopK()
    import tensorflow as tf

    return BlockedTopK() if tf.config.list_physical_devices("GPU") else BruteForce()


class BruteForce(RescoredSearch):
    """ScaNN's brute force, which runs near the arithmetic limit of the processor."""

    is_exact = True

    def _build(self, rows: np.ndarray) -> None:
        self._searcher = scann_ops.build_brute_force(rows)

    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        return scann_ops.search(self._searcher, queries, k)


class BlockedTopK(RescoredSearch):
    """Matrix product and top-k in TensorFlow, on any device, over blocks of the index.

    Attributes:
        index_block_size: Index rows multiplied at once.
        query_block_size: Queries multiplied at once.
    """

    is_exact = True
    index_block_size = 1 << 16
    query_block_size = 1024

    def _build(self, rows: np.ndarray) -> None:
        import tensorflow as tf

        size = self.index_block_size
        self._blocks = [(s, tf.constant(rows[s : s + size])) for s in range(0, len(rows), size)]

    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        size = self.query_block_size
        starts = range(0, len(queries), size)
        return np.concatenate([self._top_k(queries[s : s + size], k) for s in starts])

    def _top_k(self, queries: np.ndarray, k: int) -> np.ndarray:
        import tensorflow as tf

        uses_tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
        # A GPU's default, with 10 bits of each number, does not find the exact neighbors.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            return self._top_k_float32(tf.constant(queries), k)
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(uses_tf32)

    def _top_k_float32(self, queries: "tf.Tensor", k: int) -> np.ndarray:
        import tensorflow as tf

        scores, ids = tf.zeros((len(queries), 0)), tf.zeros((len(queries), 0), tf.int32)
        for start, rows in self._blocks:
            block = tf.math.top_k(tf.matmul(queries, rows, transpose_b=True), min(k, len(rows)))
            scores = tf.concat([scores, block.values], 1)
            ids = tf.concat([ids, block.indices + start], 1)
            best = tf.math.top_k(scores, min(k, scores.shape[1]))
            scores, ids = best.values, tf.gather(ids, best.indices, batch_dims=1)
        return ids.numpy().astype(np.int64)
