"""The labels of many pictures, one or more of each, in two flat arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Labels:
    """Class ids of N pictures in compressed rows: picture i has `values[splits[i]:splits[i + 1]]`.

    Attributes:
        values: `[M]` int64, M >= N.
        splits: `[N + 1]` int64, increasing by at least one.
    """

    values: np.ndarray
    splits: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[int | Sequence[int]]) -> "Labels":
        """Builds labels from one class id, or a sequence of them, per picture."""
        rows = [np.atleast_1d(np.asarray(row, np.int64)) for row in rows]
        values = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        splits = np.cumsum([0] + [len(row) for row in rows], dtype=np.int64)
        return cls(values, splits)

    def __len__(self) -> int:
        return len(self.splits) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.splits[i] : self.splits[i + 1]]

    @property
    def single(self) -> bool:
        """Whether every picture has exactly one class."""
        return len(self.values) == len(self)

    @property
    def rows(self) -> np.ndarray:
        """`[M]` int64: the picture that each entry of `values` belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.splits))
