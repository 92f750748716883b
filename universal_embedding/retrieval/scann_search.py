"""The calls of ScaNN that the package makes. ScaNN is imported by the first."""

import os
from pathlib import Path
from typing import Any

import numpy as np

_BATCH = 1250  # queries that one thread scores at once: faster than ScaNN's own 256


def brute_force(rows: np.ndarray) -> Any:
    """An exact searcher of `rows` `[N, D]` float32."""
    return _builder(rows, min(10, len(rows))).score_brute_force().build()


def tree(rows: np.ndarray, leaves: int, k: int) -> Any:
    """An approximate searcher: `leaves` parts, every row in the two that complement each other."""
    sample = min(len(rows), max(100_000, 50 * leaves))
    partitioned = _builder(rows, k).tree(
        leaves,
        leaves,
        training_sample_size=sample,
        soar_lambda=1.5,
        overretrieve_factor=2.0,
    )
    return partitioned.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()


def search(searcher: Any, queries: np.ndarray, k: int, **settings: int) -> np.ndarray:
    """`[Q, k]` int64 row numbers of the best, -1 where fewer were found."""
    threads = max(1, len(os.sched_getaffinity(0)))
    rounds = -(-len(queries) // (threads * _BATCH))
    found, scores = searcher.search_batched_parallel(
        queries,
        final_num_neighbors=k,
        batch_size=max(1, -(-len(queries) // (threads * rounds))),
        **settings,
    )
    return np.where(np.isnan(scores), -1, found.astype(np.int64))


def save(searcher: Any, folder: Path) -> None:
    """Writes a searcher, which `load` reads, wherever the folder is moved to."""
    (folder / "scann").mkdir(exist_ok=True)
    searcher.serialize(str(folder / "scann"), relative_path=True)


def load(folder: Path) -> Any:
    """Reads what `save` wrote."""
    from scann.scann_ops.py import scann_ops_pybind

    return scann_ops_pybind.load_searcher(str(folder / "scann"))


def _builder(rows: np.ndarray, k: int) -> Any:
    from scann.scann_ops.py import scann_ops_pybind

    return scann_ops_pybind.builder(rows, k, "dot_product")
