"""Approximate search: ScaNN's tree, asymmetric hashing and reordering.

Guo et al. 2020 (arXiv 1908.10396); every row in two leaves, Sun et al. 2023 (arXiv 2404.00774).
"""

import dataclasses
import importlib.util
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from absl import logging

from universal_embedding.errors import UserError
from universal_embedding.search import scann_ops
from universal_embedding.search.index_rows import RowCodec
from universal_embedding.search.neighbors import recall
from universal_embedding.search.rescored import RescoredSearch
from universal_embedding.search.scann_tuner import (
    ScannConfig,
    TuningQueries,
    choose_tree,
    search_codes,
    search_tree,
    tune_visits,
)

MIN_INDEX_SIZE = 20_000  # a smaller index gains nothing from a tree and is searched exactly


class ScannIndex(RescoredSearch):
    """Visits only the partitions of the index near a query.

    The number of partitions is chosen on a sample of the rows; the number visited is the smallest
    that reaches the target recall for rows of the index, compared with an exact search. Rows are
    added to the partitions; the index is built again when it has doubled.

    Args:
        target_recall: Recall@5 to reach, between 0 and 1.
        dtype: Format of the rows: `float32`, `bfloat16`, `float16` or `int8`, with steps fitted to
            the index.
        build_gflop: Largest cost of a build; see `scann_tuner.build_cost`. None: no limit.
        on_disk: Let ScaNN hold codes alone, and score candidates again with the rows of the index,
            which stay on disk once it is saved and loaded: less memory, a little slower.

    Attributes:
        config: The tuned settings; None before `index`.
        tree: Leaves and codes to use instead of choosing them on a sample.

    Raises:
        UserError: `target_recall` or `dtype` is out of range, or ScaNN is not installed.
    """

    def __init__(
        self,
        target_recall: float = 0.99,
        dtype: str = "float32",
        build_gflop: float | None = None,
        on_disk: bool = False,
    ) -> None:
        if not 0 < target_recall <= 1:
            raise UserError(f"target_recall is {target_recall}; it must be above 0 and at most 1")
        if importlib.util.find_spec("scann") is None:
            raise UserError(
                "approximate search needs ScaNN, which is not installed: on Linux, "
                "`pip install 'scann[tf]>=1.4.2,<1.5'`; elsewhere use exact search"
            )
        RowCodec(dtype)  # checks it
        self.target_recall, self.dtype, self.build_gflop = target_recall, dtype, build_gflop
        self.on_disk = on_disk
        self.config: ScannConfig | None = None
        self.tree: ScannConfig | None = None

    @property
    def is_exact(self) -> bool:
        """True where the index is so small that it is searched exactly."""
        return self.config is not None and self.config.leaves == 0

    def _build(self, rows: np.ndarray) -> None:
        self._built_size = len(rows)
        if len(rows) < MIN_INDEX_SIZE:
            self.config = ScannConfig(leaves=0)
            self._searcher = scann_ops.build_brute_force(rows)
            return
        tree = self.tree or choose_tree(rows, self.target_recall, self.build_gflop)
        queries = TuningQueries.from_rows(rows)  # before the tree: less memory at once
        kept = None if self.on_disk else self.dtype
        self._searcher = scann_ops.build_tree(rows, tree.leaves, tree.dims_per_block, kept)
        self.config = tune_visits(self._search, tree, queries, self.target_recall)
        logging.info("index of %d images: %s", len(rows), self.config)

    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        config = self._tuned_config()
        if not config.leaves:
            return scann_ops.search(self._searcher, queries, k)
        search = search_codes if self.on_disk else search_tree
        return search(self._searcher, queries, k, config)

    def _search(self, queries: np.ndarray, k: int, config: ScannConfig) -> np.ndarray:
        """Finds `[Q, k]` positions, best first."""
        if not self.on_disk:
            return search_tree(self._searcher, queries, k, config)
        return self._best_positions(queries, search_codes(self._searcher, queries, k, config), k)

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

    def _append(self, rows: np.ndarray) -> None:
        outgrown = MIN_INDEX_SIZE if self.is_exact else 2 * self._built_size
        if len(self._rows) >= outgrown:
            self.rebuild()
        else:
            scann_ops.append(self._searcher, rows)

    def _save(self, folder: Path) -> dict[str, Any]:
        scann_ops.save(self._searcher, folder)
        return {
            "target_recall": self.target_recall,
            "config": asdict(self._tuned_config()),
            "built_size": self._built_size,
            "on_disk": self.on_disk,
        }

    @classmethod
    def _load(cls, folder: Path, description: dict[str, Any]) -> Self:
        del folder
        search = cls(
            description["target_recall"],
            description["dtype"],
            on_disk=description["on_disk"],
        )
        search.config = ScannConfig(**description["config"])
        search._built_size = description["built_size"]
        return search

    def _restore(self, folder: Path) -> None:
        self._searcher = scann_ops.load(folder)
