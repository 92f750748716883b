"""Nearest neighbours: the interface, and what exact and approximate searches share."""

import json
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.retrieval.duplicates import Duplicates

# A search finds a few neighbours more than asked for, because its own rounding may differ between
# equal pictures. They are scored again, always in the same way, and then cut.
SPARE = 3
BLOCK = 8192  # queries searched at once: memory does not grow with queries x index
_GATHERED = 1 << 24  # floats of neighbours' embeddings held at once


class Neighbours(ABC):
    """The pictures of an index with the largest dot product to each query.

    Call `index` once, then `query` any number of times. Ties go to the smaller id; identical rows
    tie exactly, whatever their number and wherever they stand.

    Attributes:
        is_exact: Whether the neighbours are exact.
    """

    is_exact: bool

    def index(self, embeddings: np.ndarray) -> None:
        """Takes the `[N, D]` float32 index, N >= 1; the ids of its rows are 0..N-1."""
        self._rows = np.ascontiguousarray(embeddings, np.float32)
        self._duplicates = Duplicates.of(self._rows)
        self._unique = self._duplicates.first_of_each(self._rows)
        self._build(self._unique)

    def query(
        self, embeddings: np.ndarray, k: int, exclude: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of each query, best first.

        Args:
            embeddings: `[Q, D]` float32.
            k: Neighbours wanted, k >= 1.
            exclude: `[Q]` integer, the id that is no neighbour of its query (the query itself), or
                -1. An id, not a place in the ranking: duplicates of the query stay.

        Returns:
            `[Q, k]` int64 ids and `[Q, k]` float32 scores; -1 and -inf where fewer exist.
        """
        embeddings = np.ascontiguousarray(embeddings, np.float32)
        if exclude is None:
            exclude = np.full(len(embeddings), -1)
        ids = np.full((len(embeddings), k), -1, np.int64)
        scores = np.full((len(embeddings), k), -np.inf, np.float32)
        wanted = min(k + 1 + SPARE, len(self._unique))
        for start in range(0, len(embeddings), BLOCK):
            block = slice(start, start + BLOCK)
            found = self._candidates(embeddings[block], wanted)
            step = max(1, _GATHERED // (wanted * embeddings.shape[1]))
            for part in range(0, len(found), step):
                here = slice(start + part, min(start + part + step, start + len(found)))
                self._rank(
                    embeddings[here],
                    found[part : part + step],
                    exclude[here],
                    ids[here],
                    scores[here],
                )
        return ids, scores

    def _rank(
        self,
        queries: np.ndarray,
        found: np.ndarray,
        exclude: np.ndarray,
        ids: np.ndarray,
        scores: np.ndarray,
    ) -> None:
        """Writes the best of the `found` unique rows `[q, c]` into `ids` and `scores` `[q, k]`."""
        again = np.einsum("qd,qcd->qc", queries, self._unique[found])
        again[found < 0] = -np.inf
        members, again = self._duplicates.expand(found, again, ids.shape[1] + 1)
        again[(members < 0) | (members == exclude[:, None])] = -np.inf
        order = np.lexsort((members, -again))[:, : ids.shape[1]]
        width = order.shape[1]
        scores[:, :width] = np.take_along_axis(again, order, 1)
        ids[:, :width] = np.take_along_axis(members, order, 1)
        ids[scores == -np.inf] = -1

    def save(self, folder: str | Path) -> None:
        """Writes the index into `folder`; `load` of the same class reads it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "rows.npy", self._rows)
        description = {"kind": type(self).__name__, **self._save(folder)}
        (folder / "index.json").write_text(json.dumps(description, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Neighbours":
        """Reads an index that `save` of this class wrote.

        Raises:
            UserError: `folder` holds none.
        """
        folder = Path(folder)
        try:
            description = json.loads((folder / "index.json").read_text())
            rows = np.load(folder / "rows.npy")
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} holds no saved index ({error}): build it again") from error
        if description["kind"] != cls.__name__:
            raise UserError(f"{folder} holds an index of {description['kind']}, not {cls.__name__}")
        duplicates = Duplicates.of(rows)
        unique = duplicates.first_of_each(rows)
        loaded = cls._load(folder, description, unique)
        loaded._rows, loaded._duplicates, loaded._unique = rows, duplicates, unique
        return loaded

    @abstractmethod
    def _save(self, folder: Path) -> dict:
        """Writes what `_load` needs besides the rows; gives what describes it."""

    @classmethod
    @abstractmethod
    def _load(cls, folder: Path, description: dict, rows: np.ndarray) -> "Neighbours":
        """Rebuilds the search of `rows` `[U, D]`."""

    @abstractmethod
    def _build(self, rows: np.ndarray) -> None:
        """Prepares the search of `rows` `[U, D]`, no two of them equal."""

    @abstractmethod
    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        """`[Q, k]` integer, the best row numbers in any order; -1 where fewer were found."""


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Part of the true neighbours `[Q, k]` that are among those found `[Q, j]`."""
    return float((truth[:, :, None] == found[:, None, :]).any(2).mean())
