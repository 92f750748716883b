"""Settings of a ScaNN tree, chosen on a sample of the rows and then on the built tree."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from absl import logging

from universal_embedding.search import scann_ops
from universal_embedding.search.rescored import NUM_SPARE

K = 5  # recall@5 is tuned
NUM_TUNING_QUERIES = 2000
NUM_TUNING_STEPS = 48
# Rows of the index find their neighbors a little more easily than new queries do: measured at 1.4
# million rows, 0.990 of them against 0.988. So this fraction of the target's misses is aimed at.
MISSES = 0.75
REORDER = {2: (24, 60, 150, 400), 4: (60, 150, 400)}  # candidates to try, by dims_per_block
ROWS_PER_LEAF = (175, 350, 700, 1400)  # the first two that the build may cost are tried
SAMPLE_SIZE = 30_000
MIN_SAMPLED_INDEX = 500_000  # below, trying settings takes longer than it saves

# Microseconds of one core of a Xeon (Sapphire Rapids, 2.1 GHz) per query, fitted to trees of
# 350,000 and 1.4 million rows x 64; see benchmarks/results/search.md.
_PER_LEAF_AND_DIM = 3e-5
_PER_VISIT = 0.12
_PER_LOOKUP = 3.2e-5
_PER_REORDERED = 0.1
# Visits grow with this power of the number of rows where the rows per leaf stay.
_VISIT_GROWTH = 0.6


@dataclass(frozen=True)
class ScannConfig:
    """Settings of a ScaNN search.

    Attributes:
        leaves: Number of partitions of the index; 0 for none (exact).
        leaves_to_search: Number of partitions that a query visits.
        reorder: Number of candidates scored again with full precision.
        dims_per_block: Dimensions that share a 4-bit code.
    """

    leaves: int
    leaves_to_search: int = 0
    reorder: int = 0
    dims_per_block: int = 2


def choose_tree(
    rows: np.ndarray, target_recall: float, build_gflop: float | None = None
) -> ScannConfig:
    """Chooses the number of leaves and the size of the codes for `rows` `[N, D]`.

    Trees of a sample with the same number of rows per leaf are tuned; the time of a query is
    predicted from their visits.

    Args:
        rows: Float32 rows.
        target_recall: Recall@5 to reach.
        build_gflop: Largest cost of assigning rows to leaves; see `build_cost`. None: no limit.
    """
    if len(rows) < MIN_SAMPLED_INDEX:
        return ScannConfig(int(2 * math.sqrt(len(rows))))
    rng = np.random.default_rng(0)
    sample = rows[np.sort(rng.choice(len(rows), SAMPLE_SIZE, replace=False))]
    queries = TuningQueries.from_rows(sample)
    best, lowest = ScannConfig(int(2 * math.sqrt(len(rows)))), math.inf
    affordable = [
        rows_per_leaf
        for rows_per_leaf in ROWS_PER_LEAF
        if not build_gflop
        or build_cost(len(rows), len(rows) // rows_per_leaf, rows.shape[1]) <= build_gflop
    ]
    for rows_per_leaf in affordable[:2]:
        for block in (2, 4):
            tree = ScannConfig(len(sample) // rows_per_leaf, dims_per_block=block)
            searcher = scann_ops.build_tree(sample, tree.leaves, block)
            tuned = tune_visits(partial(search_tree, searcher), tree, queries, target_recall)
            microseconds = predict_microseconds(tuned, len(sample), len(rows), rows.shape[1])
            logging.info("%s on a sample: %.0f us a query", tuned, microseconds)
            if microseconds < lowest:
                leaves = len(rows) // rows_per_leaf
                best, lowest = replace(tuned, leaves=leaves), microseconds
    return best


def build_cost(num_rows: int, leaves: int, dim: int) -> float:
    """GFLOP of training the leaves and assigning the rows to them."""
    trained = scann_ops.TRAINING_ITERATIONS * scann_ops.training_sample_size(num_rows, leaves)
    return 2 * leaves * dim * (trained + num_rows) / 1e9


def predict_microseconds(tuned: ScannConfig, sampled: int, num_rows: int, dim: int) -> float:
    """Time of a query to `num_rows` rows, from settings tuned on a sample of them."""
    rows_per_leaf = sampled / tuned.leaves
    visits = tuned.leaves_to_search * (num_rows / sampled) ** _VISIT_GROWTH
    lookups = 2 * rows_per_leaf * dim / tuned.dims_per_block  # each row is in two leaves
    return (
        _PER_LEAF_AND_DIM * dim * num_rows / rows_per_leaf
        + visits * (_PER_VISIT + _PER_LOOKUP * lookups)
        + _PER_REORDERED * tuned.reorder
    )


@dataclass(frozen=True)
class TuningQueries:
    """Rows that are searched among all rows.

    Attributes:
        embeddings: `[Q, D]` float32.
        truth: `[Q, K + 1]` their exact neighbors, themselves included.
        counted: `[Q, K + 1]` bool, whether the neighbor is another row.
    """

    embeddings: np.ndarray
    truth: np.ndarray
    counted: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> "TuningQueries":
        """Draws queries from `rows` `[N, D]` float32 and searches them exactly."""
        count = min(NUM_TUNING_QUERIES, len(rows))
        positions = np.random.default_rng(0).choice(len(rows), count, replace=False)
        embeddings = rows[positions]
        truth = scann_ops.search_exactly(rows, embeddings, K + 1)
        return cls(embeddings, truth, truth != positions[:, None])

    def recall(self, found: np.ndarray) -> float:
        """Fraction of the other rows of `truth` that are among `found` `[Q, k]`."""
        hits = (self.truth[:, :, None] == found[:, None, :]).any(2)
        return float(hits[self.counted].mean())


def tune_visits(
    search: Callable[[np.ndarray, int, ScannConfig], np.ndarray],
    tree: ScannConfig,
    queries: TuningQueries,
    target_recall: float,
) -> ScannConfig:
    """Finds the smallest number of visits that reaches the target recall, with some reordering.

    Args:
        search: Finds `[Q, k]` positions, best first, of `[Q, D]` queries, k and settings.
        tree: Leaves and codes of what is searched.
        queries: Rows of the tree.
        target_recall: Recall@5 to reach.
    """
    visits = np.unique(
        np.geomspace(max(1, tree.leaves // 100), tree.leaves, NUM_TUNING_STEPS).astype(int)
    )
    aim = 1 - MISSES * (1 - target_recall)
    for reorder in REORDER[tree.dims_per_block]:
        low, high = 0, len(visits) - 1
        while low < high:
            middle = (low + high) // 2
            config = replace(tree, leaves_to_search=int(visits[middle]), reorder=reorder)
            found = search(queries.embeddings, K + 1 + NUM_SPARE, config)
            reached = queries.recall(found[:, : K + 1]) >= aim
            low, high = (low, middle) if reached else (middle + 1, high)
        if low < 0.75 * len(visits):  # else more reordering saves visits
            break
    return replace(tree, leaves_to_search=int(visits[low]), reorder=reorder)


def search_tree(searcher: Any, queries: np.ndarray, k: int, config: ScannConfig) -> np.ndarray:
    """Finds `[Q, k]` positions with the settings `config`; -1 where there are fewer."""
    return scann_ops.search(
        searcher,
        queries,
        k,
        pre_reorder_num_neighbors=max(config.reorder, 2 * k),
        leaves_to_search=config.leaves_to_search,
    )


def search_codes(searcher: Any, queries: np.ndarray, k: int, config: ScannConfig) -> np.ndarray:
    """Finds the positions `[Q, c]` of the candidates for k neighbors, by their codes alone."""
    return scann_ops.search(
        searcher, queries, max(config.reorder, 2 * k), leaves_to_search=config.leaves_to_search
    )
