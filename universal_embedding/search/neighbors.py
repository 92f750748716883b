"""Nearest-neighbor search: the interface of all searches."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np


class NearestNeighbors(ABC):
    """Finds the rows of an index with the largest dot product to each query.

    Call `index` once, then `query`, `add` and `remove` any number of times, one call at a time.
    Ties go to the smaller id; identical rows tie exactly, however many there are and wherever they
    are in the index.
    """

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """Whether the neighbors are exact."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows in the index."""

    @property
    @abstractmethod
    def next_id(self) -> int:
        """The id that `add` gives next: the number of ids ever given."""

    @abstractmethod
    def index(self, embeddings: np.ndarray) -> None:
        """Indexes `[N, D]` float32 rows, N >= 1; their ids are 0..N-1."""

    @abstractmethod
    def add(self, embeddings: np.ndarray) -> np.ndarray:
        """Adds `[M, D]` float32 rows to the index.

        Returns:
            `[M]` int64, their ids: the next that were never given.
        """

    @abstractmethod
    def remove(self, ids: np.ndarray | list[int]) -> None:
        """Removes rows by id; the other rows keep their ids, and no id is given again.

        Raises:
            UserError: There is no such row, or one is named twice.
        """

    @abstractmethod
    def query(
        self, embeddings: np.ndarray, k: int, exclude: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the k nearest neighbors of each query, best first.

        Args:
            embeddings: `[Q, D]` float32.
            k: Number of neighbors, k >= 1.
            exclude: `[Q]` integer, the id to leave out for each query (the query itself), or -1.
                It is an id, not a rank: duplicates of the query stay.

        Returns:
            `[Q, k]` int64 ids and `[Q, k]` float32 scores; -1 and -inf where there are fewer.
        """

    @abstractmethod
    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The rows `[M, D]` with these ids, float32, as they are scored.

        Raises:
            UserError: There is no such row.
        """

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes the index into `folder`, to be read by `load` of the same class."""

    def recall_speed_curve(self, queries: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
        """Measures recall and speed over the settings of the search.

        Args:
            queries: `[Q, D]` float32.
            truth: `[Q, k]` ids of their exact neighbors.

        Returns:
            One dict per setting; see `ScannIndex.recall_speed_curve`. Empty for a search without
            settings.
        """
        del queries, truth
        return []


def recall(neighbors: np.ndarray, truth: np.ndarray) -> float:
    """Fraction of the true neighbors `truth [Q, k]` that are among `neighbors [Q, j]`."""
    return float((truth[:, :, None] == neighbors[:, None, :]).any(2).mean())
