"""Retrieval metrics of single queries; means are taken elsewhere, of unrounded values."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from universal_embedding.errors import UserError

DEFAULT = ("r_at_1", "mmp_at_5")


@dataclass(frozen=True)
class Metric:
    """One number of each query, between 0 and 1.

    Attributes:
        name: As in the report: `r_at_K`, `mmp_at_K`, `map_at_K` (K >= 1) or `map_at_r`.
        k: Neighbours that it looks at; None for as many as the query has relevant pictures.
        of: `(relevant [Q, k] bool, n [Q] int) -> [Q] float64`: the first neighbours of each query
            and its number of relevant index pictures, n >= 1.
    """

    name: str
    k: int | None
    of: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def depth(self, n: np.ndarray) -> int:
        """Neighbours needed for queries with `n` relevant pictures."""
        return int(n.max(initial=1)) if self.k is None else self.k


def parse(name: str) -> Metric:
    """The metric called `name`.

    Raises:
        UserError: There is none of this name.
    """
    if name == "map_at_r":
        return Metric(name, None, lambda relevant, n: _average_precision(relevant, n, n))
    match = re.fullmatch(r"(r|mmp|map)_at_([1-9]\d{0,5})", name)
    if not match:
        raise UserError(
            f"no metric is called {name!r}; there are r_at_K, mmp_at_K and map_at_K "
            "(K = 1, 2, ...) and map_at_r"
        )
    k = int(match[2])
    return Metric(
        name,
        k,
        {
            "r": lambda relevant, n: relevant[:, :k].any(1).astype(np.float64),
            "mmp": lambda relevant, n: _precision(relevant, np.minimum(n, k)),
            "map": lambda relevant, n: _average_precision(relevant, np.minimum(n, k), k),
        }[match[1]],
    )


def _precision(relevant: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Part of the `first` [Q] neighbours that is relevant."""
    counted = np.arange(relevant.shape[1]) < first[:, None]
    return (relevant & counted).sum(1) / first


def _average_precision(
    relevant: np.ndarray, best: np.ndarray, depth: np.ndarray | int
) -> np.ndarray:
    """Sum of the precisions at the relevant places up to `depth`, over the `best` possible sum."""
    ranks = np.arange(1, relevant.shape[1] + 1)
    counted = relevant & (ranks <= np.reshape(depth, (-1, 1)))
    return (counted * np.cumsum(relevant, 1) / ranks).sum(1) / best
