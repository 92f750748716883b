"""Approximate neighbours: ScaNN's tree, asymmetric hashing and reordering.

Guo et al. 2020 (arXiv 1908.10396); every picture in two leaves, Sun et al. 2023 (arXiv 2404.00774).
"""

import dataclasses
import importlib.util
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from absl import logging

from universal_embedding.errors import UserError
from universal_embedding.retrieval import scann_search
from universal_embedding.retrieval.neighbours import SPARE, Neighbours, recall

SMALLEST = 20_000  # below, a tree gains nothing: such an index is searched exactly
_SAMPLE = 2000  # index pictures on which the settings are tried
_K = 5
_STEPS = 24


@dataclass(frozen=True)
class Settings:
    """How ScaNN searches.

    Attributes:
        leaves: Parts of the index, 0 for none (exact).
        leaves_to_search: How many of them a query visits.
        reorder: Candidates scored again with full precision.
    """

    leaves: int
    leaves_to_search: int
    reorder: int


class ScannTree(Neighbours):
    """Visits only the parts of the index near a query.

    The number of parts follows the size of the index; how many are visited is the smallest number
    that reaches the wished recall on pictures of the index, searched exactly as well.

    Args:
        recall: Wished recall@5, between 0 and 1.

    Attributes:
        settings: What was chosen; None before `index`.
    """

    def __init__(self, recall: float = 0.99) -> None:
        if not 0 < recall <= 1:
            raise UserError(f"recall is {recall}; it must be above 0 and at most 1")
        if importlib.util.find_spec("scann") is None:
            raise UserError(
                "approximate search needs ScaNN, which is not installed: on Linux, "
                "`pip install 'scann[tf]>=1.4.2,<1.5'`; elsewhere search exactly"
            )
        self.recall = recall
        self.settings: Settings | None = None

    @property
    def is_exact(self) -> bool:
        """True where the index is so small that it is searched exactly."""
        return self.settings is not None and self.settings.leaves == 0

    def _build(self, rows: np.ndarray) -> None:
        if len(rows) < SMALLEST:
            self.settings = Settings(0, 0, 0)
            self._searcher = scann_search.brute_force(rows)
            return
        leaves = int(2 * math.sqrt(len(rows)))
        self._searcher = scann_search.tree(rows, leaves, _K + 1 + SPARE)
        self.settings = self._tune(rows, leaves)
        logging.info("index of %d pictures: %s", len(rows), self.settings)

    def _tune(self, rows: np.ndarray, leaves: int) -> Settings:
        some = np.random.default_rng(0).choice(len(rows), min(_SAMPLE, len(rows)), replace=False)
        queries = rows[some]
        wanted = _K + 1  # the picture itself is found as well
        truth = scann_search.search(scann_search.brute_force(rows), queries, wanted)
        others = truth != some[:, None]
        visits = np.unique(np.geomspace(max(1, leaves // 100), leaves, _STEPS).astype(int))
        for reorder in (60, 150, 400):
            low, high = 0, len(visits) - 1
            while low < high:
                middle = (low + high) // 2
                settings = Settings(leaves, int(visits[middle]), reorder)
                found = self._search(queries, wanted + SPARE, settings)
                hits = (truth[:, :, None] == found[:, None, :wanted]).any(2)
                low, high = (
                    (low, middle) if hits[others].mean() >= self.recall else (middle + 1, high)
                )
            if low < len(visits) - 1:
                break
        return Settings(leaves, int(visits[low]), reorder)

    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self._search(queries, k, self.settings)

    def _search(self, queries: np.ndarray, k: int, settings: Settings) -> np.ndarray:
        if not settings.leaves:
            return scann_search.search(self._searcher, queries, k)
        return scann_search.search(
            self._searcher,
            queries,
            k,
            pre_reorder_num_neighbors=max(settings.reorder, 4 * k),
            leaves_to_search=settings.leaves_to_search,
        )

    def trade_offs(self, queries: np.ndarray, truth: np.ndarray) -> list[dict]:
        """Recall and speed when more or fewer parts are visited.

        Args:
            queries: `[Q, D]` float32.
            truth: `[Q, 5]` ids of their exact neighbours.

        Returns:
            Points `{"leaves_to_search", "recall_at_5", "queries_per_second", "chosen"}`.
        """
        chosen, points = self.settings, []
        visits = np.geomspace(max(1, chosen.leaves // 200), chosen.leaves, 9).astype(int)
        for visited in np.unique(np.append(visits, chosen.leaves_to_search)).tolist():
            self.settings = dataclasses.replace(chosen, leaves_to_search=visited)
            began = time.perf_counter()
            found, _ = self.query(queries, truth.shape[1])
            rate = len(queries) / (time.perf_counter() - began)
            points.append(
                {
                    "leaves_to_search": visited,
                    "recall_at_5": recall(found, truth),
                    "queries_per_second": rate,
                    "chosen": visited == chosen.leaves_to_search,
                }
            )
        self.settings = chosen
        return points

    def _save(self, folder: Path) -> dict:
        scann_search.save(self._searcher, folder)
        return {"recall": self.recall, "settings": asdict(self.settings)}

    @classmethod
    def _load(cls, folder: Path, description: dict, rows: np.ndarray) -> "ScannTree":
        del rows  # ScaNN has its own copy
        made = cls(description["recall"])
        made.settings = Settings(**description["settings"])
        made._searcher = scann_search.load(folder)
        return made
