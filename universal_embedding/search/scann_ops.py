"""The ScaNN calls that the package makes. The first call imports ScaNN."""

import os
from pathlib import Path
from typing import Any

import numpy as np

_BATCH_SIZE = 1250  # queries that one thread scores at once: faster than ScaNN's default of 256

_ROW_BLOCK = 1 << 20
_UPSERT_BATCH_SIZE = 256
TRAINING_ITERATIONS = 10


def build_brute_force(rows: np.ndarray) -> Any:
    """Builds an exact searcher of `rows` `[N, D]` float32."""
    return _builder(rows, min(10, len(rows))).score_brute_force().build()


def build_tree(
    rows: np.ndarray, leaves: int, dims_per_block: int, dtype: str | None = "float32"
) -> Any:
    """Builds an approximate searcher of `leaves` partitions, each row in two that complement.

    Args:
        rows: `[N, D]` float32.
        leaves: Number of partitions.
        dims_per_block: Dimensions that share a 4-bit code.
        dtype: Format of the rows that ScaNN keeps to score candidates again; None: it keeps none.
    """
    from scann.scann_ops.py.scann_builder import ReorderType

    partitioned = _builder(rows, 10).tree(
        leaves,
        leaves,
        training_sample_size=training_sample_size(len(rows), leaves),
        training_iterations=TRAINING_ITERATIONS,
        min_partition_size=10,
        soar_lambda=1.3,
        overretrieve_factor=1.2,
    )
    hashed = partitioned.score_ah(dims_per_block, anisotropic_quantization_threshold=0.2)
    if dtype is None:
        return hashed.build()
    kept = {"float16": "bfloat16"}.get(dtype, dtype)  # ScaNN knows no float16
    return hashed.reorder(100, quantize=ReorderType[kept.upper()]).build()


def training_sample_size(num_rows: int, leaves: int) -> int:
    """Number of rows that the partitions are trained on."""
    return min(num_rows, max(100_000, 40 * leaves))


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


def search_exactly(rows: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Finds `[Q, k]` int64, the positions of the best of `rows` `[N, D]`; -1 where N < k.

    Blocks of the rows are searched one after the other, so memory does not grow with N.
    """
    ids = np.full((len(queries), k), -1)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(rows), _ROW_BLOCK):
        block = rows[start : start + _ROW_BLOCK]
        found = search(build_brute_force(block), queries, min(k, len(block)))
        found_scores = np.einsum("qd,qkd->qk", queries, block[found])
        scores = np.concatenate([scores, found_scores], 1)
        order = np.argsort(-scores, 1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, order, 1)
        ids = np.take_along_axis(np.concatenate([ids, found + start], 1), order, 1)
    return ids


def append(searcher: Any, rows: np.ndarray) -> None:
    """Adds `rows` `[V, D]` after the last; they take the ids that follow."""
    searcher.searcher.upsert([None] * len(rows), rows, _UPSERT_BATCH_SIZE)


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
