"""The ScaNN calls that the package makes. The first call imports ScaNN."""

import os
from pathlib import Path
from typing import Any

import numpy as np

_BATCH_SIZE = 1250  # queries that one thread scores at once: faster than ScaNN's default of 256


def build_brute_force(rows: np.ndarray) -> Any:
    """Builds an exact searcher of `rows` `[N, D]` float32."""
    return _builder(rows, min(10, len(rows))).score_brute_force().build()


def build_tree(rows: np.ndarray, leaves: int, k: int) -> Any:
    """Builds an approximate searcher of `leaves` partitions, each row in two that complement."""
    sample_size = min(len(rows), max(100_000, 50 * leaves))
    partitioned = _builder(rows, k).tree(
        leaves,
        leaves,
        training_sample_size=sample_size,
        soar_lambda=1.5,
        overretrieve_factor=2.0,
    )
    return partitioned.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()


def search(searcher: Any, queries: np.ndarray, k: int, **settings: int) -> np.ndarray:
    """Finds `[Q, k]` int64, the row ids of the best; -1 where there are fewer."""
    threads = max(1, len(os.sched_getaffinity(0)))
    rounds = -(-len(queries) // (threads * _BATCH_SIZE))
    ids, scores = searcher.search_batched_parallel(
        queries,
        final_num_neighbors=k,
        batch_size=max(1, -(-len(queries) // (threads * rounds))),
        **settings,
    )
    return np.where(np.isnan(scores), -1, ids.astype(np.int64))


def save(searcher: Any, folder: Path) -> None:
    """Writes a searcher into `folder`, which may be moved before `load` reads it."""
    (folder / "scann").mkdir(exist_ok=True)
    searcher.serialize(str(folder / "scann"), relative_path=True)


def load(folder: Path) -> Any:
    """Reads the searcher that `save` wrote."""
    from scann.scann_ops.py import scann_ops_pybind

    return scann_ops_pybind.load_searcher(str(folder / "scann"))


def _builder(rows: np.ndarray, k: int) -> Any:
    from scann.scann_ops.py import scann_ops_pybind

    return scann_ops_pybind.builder(rows, k, "dot_product")
