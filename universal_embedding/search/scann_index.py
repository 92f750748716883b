"""Approximate search: ScaNN's tree, asymmetric hashing and reordering.

Guo et al. 2020 (arXiv 1908.10396); every row in two leaves, Sun et al. 2023 (arXiv 2404.00774).
"""

import dataclasses
import importlib.util
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from absl import logging

from universal_embedding.errors import UserError
from universal_embedding.search import scann_ops
from universal_embedding.search.neighbors import NUM_SPARE, NearestNeighbors, recall

MIN_INDEX_SIZE = 20_000  # a smaller index gains nothing from a tree and is searched exactly
_NUM_TUNING_QUERIES = 2000
_K = 5
_NUM_TUNING_STEPS = 24


@dataclass(frozen=True)
class ScannConfig:
    """Settings of a ScaNN search.

    Attributes:
        leaves: Number of partitions of the index; 0 for none (exact).
        leaves_to_search: Number of partitions that a query visits.
        reorder: Number of candidates scored again with full precision.
    """

    leaves: int
    leaves_to_search: int
    reorder: int


class ScannIndex(NearestNeighbors):
    """Visits only the partitions of the index near a query.

    The number of partitions follows the size of the index; the number visited is the smallest that
    reaches the target recall for rows of the index, compared with an exact search.

    Args:
        target_recall: Recall@5 to reach, between 0 and 1.

    Attributes:
        config: The tuned settings; None before `index`.

    Raises:
        UserError: `target_recall` is out of range, or ScaNN is not installed.
    """

    def __init__(self, target_recall: float = 0.99) -> None:
        if not 0 < target_recall <= 1:
            raise UserError(f"target_recall is {target_recall}; it must be above 0 and at most 1")
        if importlib.util.find_spec("scann") is None:
            raise UserError(
                "approximate search needs ScaNN, which is not installed: on Linux, "
                "`pip install 'scann[tf]>=1.4.2,<1.5'`; elsewhere use exact search"
            )
        self.target_recall = target_recall
        self.config: ScannConfig | None = None

    @property
    def is_exact(self) -> bool:
        """True where the index is so small that it is searched exactly."""
        return self.config is not None and self.config.leaves == 0

    def _build(self, rows: np.ndarray) -> None:
        if len(rows) < MIN_INDEX_SIZE:
            self.config = ScannConfig(0, 0, 0)
            self._searcher = scann_ops.build_brute_force(rows)
            return
        leaves = int(2 * math.sqrt(len(rows)))
        self._searcher = scann_ops.build_tree(rows, leaves, _K + 1 + NUM_SPARE)
        self.config = self._tune(rows, leaves)
        logging.info("index of %d images: %s", len(rows), self.config)

    def _tune(self, rows: np.ndarray, leaves: int) -> ScannConfig:
        """Finds the cheapest settings that reach the target recall."""
        num_queries = min(_NUM_TUNING_QUERIES, len(rows))
        query_ids = np.random.default_rng(0).choice(len(rows), num_queries, replace=False)
        queries = rows[query_ids]
        k = _K + 1  # a query finds itself as well
        truth = scann_ops.search(scann_ops.build_brute_force(rows), queries, k)
        not_self = truth != query_ids[:, None]
        visits = np.unique(
            np.geomspace(max(1, leaves // 100), leaves, _NUM_TUNING_STEPS).astype(int)
        )
        for reorder in (60, 150, 400):
            low, high = 0, len(visits) - 1
            while low < high:
                middle = (low + high) // 2
                config = ScannConfig(leaves, int(visits[middle]), reorder)
                ids = self._search(queries, k + NUM_SPARE, config)
                hits = (truth[:, :, None] == ids[:, None, :k]).any(2)
                reached = hits[not_self].mean() >= self.target_recall
                low, high = (low, middle) if reached else (middle + 1, high)
            if low < len(visits) - 1:
                break
        return ScannConfig(leaves, int(visits[low]), reorder)

    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self._search(queries, k, self._tuned_config())

    def _search(self, queries: np.ndarray, k: int, config: ScannConfig) -> np.ndarray:
        if not config.leaves:
            return scann_ops.search(self._searcher, queries, k)
        return scann_ops.search(
            self._searcher,
            queries,
            k,
            pre_reorder_num_neighbors=max(config.reorder, 4 * k),
            leaves_to_search=config.leaves_to_search,
        )

    def _tuned_config(self) -> ScannConfig:
        if self.config is None:
            raise ValueError("nothing is indexed: call `index` first")
        return self.config

    def recall_speed_curve(self, queries: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
        """Measures recall and speed with fewer and with more partitions visited.

        Args:
            queries: `[Q, D]` float32.
            truth: `[Q, 5]` ids of their exact neighbors.

        Returns:
            Points `{"leaves_to_search", "recall_at_5", "queries_per_second", "selected"}`, by
            increasing number of visited partitions; `selected` marks the tuned setting.
        """
        tuned, points = self._tuned_config(), []
        visits = np.geomspace(max(1, tuned.leaves // 200), tuned.leaves, 9).astype(int)
        for leaves_to_search in np.unique(np.append(visits, tuned.leaves_to_search)).tolist():
            self.config = dataclasses.replace(tuned, leaves_to_search=leaves_to_search)
            start = time.perf_counter()
            ids, _ = self.query(queries, truth.shape[1])
            queries_per_second = len(queries) / (time.perf_counter() - start)
            points.append(
                {
                    "leaves_to_search": leaves_to_search,
                    "recall_at_5": recall(ids, truth),
                    "queries_per_second": queries_per_second,
                    "selected": leaves_to_search == tuned.leaves_to_search,
                }
            )
        self.config = tuned
        return points

    def _save(self, folder: Path) -> dict[str, Any]:
        scann_ops.save(self._searcher, folder)
        return {"target_recall": self.target_recall, "config": asdict(self._tuned_config())}

    @classmethod
    def _load(cls, folder: Path, description: dict[str, Any], rows: np.ndarray) -> Self:
        del rows  # ScaNN has its own copy
        search = cls(description["target_recall"])
        search.config = ScannConfig(**description["config"])
        search._searcher = scann_ops.load(folder)
        return search
