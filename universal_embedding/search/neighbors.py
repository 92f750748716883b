"""Nearest-neighbor search: the interface, and the rescoring that all searches share."""

import json
import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write
from universal_embedding.search.index_rows import IndexRows

# A search fetches a few candidates more than requested, because its own rounding may differ
# between equal images. Candidates are scored again, always in the same way, and then cut.
NUM_SPARE = 3
FORMAT = 2
QUERY_BLOCK = 8192  # queries searched at once: memory does not grow with queries x index
MAX_EMPTY = 0.25  # fraction of removed rows above which the search is built again
MAX_GATHERED_FLOATS = 1 << 20  # floats of candidate embeddings that a thread holds at once


class NearestNeighbors(ABC):
    """Finds the rows of an index with the largest dot product to each query.

    Call `index` once, then `query`, `add` and `remove` any number of times, one call at a time.
    Ties go to the smaller id; identical rows tie exactly, however many there are and wherever they
    are in the index.
    """

    dtype = "float32"  # in which the rows are held; see `index_rows.RowCodec`

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """Whether the neighbors are exact."""

    def __len__(self) -> int:
        """Number of rows in the index."""
        return self._rows.num_ids

    def index(self, embeddings: np.ndarray) -> None:
        """Indexes `[N, D]` float32 rows, N >= 1; their ids are 0..N-1."""
        embeddings = np.ascontiguousarray(embeddings, np.float32)
        self._rows = IndexRows.from_embeddings(embeddings, self.dtype)
        self._build(self._rows.decode())

    def add(self, embeddings: np.ndarray) -> np.ndarray:
        """Adds `[M, D]` float32 rows to the index.

        Returns:
            `[M]` int64, their ids: the next that were never given.
        """
        was_empty = not len(self._rows)
        ids, rows = self._rows.add(np.ascontiguousarray(embeddings, np.float32))
        if was_empty:
            self.rebuild()
        elif len(rows):
            self._append(rows)
        return ids

    def remove(self, ids: np.ndarray | list[int]) -> None:
        """Removes rows by id; the other rows keep their ids, and no id is given again.

        Raises:
            UserError: There is no such row, or one is named twice.
        """
        self._rows.remove(np.asarray(ids, np.int64))
        if self._rows.num_empty > MAX_EMPTY * len(self._rows):
            self.rebuild()

    def rebuild(self) -> None:
        """Builds the search over the present rows as if they were new; ids stay."""
        self._rows.compact()
        if len(self._rows):
            self._build(self._rows.decode())

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
        embeddings = np.ascontiguousarray(embeddings, np.float32)
        if exclude is None:
            exclude = np.full(len(embeddings), -1)
        ids = np.full((len(embeddings), k), -1, np.int64)
        scores = np.full((len(embeddings), k), -np.inf, np.float32)
        num_rows = len(self._rows) - self._rows.num_empty
        wanted = min(k + 1 + NUM_SPARE, num_rows)
        for start in range(0, len(embeddings) if num_rows else 0, QUERY_BLOCK):
            rows = np.arange(start, min(start + QUERY_BLOCK, len(embeddings)))
            # the search finds removed rows as well: as many as there are on average
            num_candidates = -(-wanted * len(self._rows) // num_rows)
            while len(rows):
                candidates = self._candidates(embeddings[rows], num_candidates)
                ids[rows], scores[rows] = self._rank_blocks(
                    embeddings[rows], candidates, exclude[rows], k
                )
                if num_candidates == len(self._rows) or not self._rows.num_empty:
                    break
                num_found = self._rows.groups.is_occupied(candidates).sum(1)
                rows = rows[(num_found < wanted) & (candidates >= 0).all(1)]
                num_candidates = min(2 * num_candidates, len(self._rows))
        return ids, scores

    def _rank_blocks(
        self, queries: np.ndarray, candidates: np.ndarray, exclude: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ranks blocks of queries on all cores; see `_rank`."""
        size = max(1, MAX_GATHERED_FLOATS // (candidates.shape[1] * queries.shape[1]))

        def rank(start: int) -> tuple[np.ndarray, np.ndarray]:
            block = slice(start, start + size)
            return self._rank(queries[block], candidates[block], exclude[block], k)

        if len(queries) <= size:
            return rank(0)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            ids, scores = zip(*pool.map(rank, range(0, len(queries), size)), strict=True)
        return np.concatenate(ids), np.concatenate(scores)

    def _rank(
        self, queries: np.ndarray, candidates: np.ndarray, exclude: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Selects the best ids `[q, k]`, and their scores, of the positions `[q, c]`."""
        similarities = np.einsum("qd,qcd->qc", queries, self._rows.decode(candidates))
        similarities[candidates < 0] = -np.inf
        members, similarities = self._rows.groups.expand(candidates, similarities, k + 1)
        similarities[(members < 0) | (members == exclude[:, None])] = -np.inf
        order = np.lexsort((members, -similarities))[:, :k]
        ids = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        scores[:, : order.shape[1]] = np.take_along_axis(similarities, order, 1)
        ids[:, : order.shape[1]] = np.take_along_axis(members, order, 1)
        ids[scores == -np.inf] = -1
        return ids, scores

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

    def save(self, folder: str | Path) -> None:
        """Writes the index into `folder`, to be read by `load` of the same class."""
        folder = Path(folder)
        self._rows.save(folder)
        description = {"format": FORMAT, "kind": type(self).__name__, "dtype": self.dtype}
        description |= self._save(folder)
        with atomic_write(folder / "index.json") as file:  # last: it makes the folder an index
            file.write(json.dumps(description, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads an index that `save` of this class wrote.

        Raises:
            UserError: `folder` holds no index, or one of another class.
        """
        folder = Path(folder)
        try:
            description = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            kind = description["kind"]
            if description.get("format") != FORMAT:
                raise ValueError(f"format {description.get('format')}, expected {FORMAT}")
            rows = IndexRows.load(folder, description["dtype"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} holds no saved index ({error}): build it again") from error
        if kind != cls.__name__:
            raise UserError(
                f"{folder} holds an index of {kind}, not {cls.__name__}: load it as {kind}, or "
                "build it again"
            )
        search = cls._load(folder, description)
        search._rows = rows
        search._restore(folder)
        return search

    def _save(self, folder: Path) -> dict[str, Any]:
        """Writes whatever `_load` needs besides the rows; returns the search's description."""
        del folder
        return {}

    @classmethod
    def _load(cls, folder: Path, description: dict[str, Any]) -> Self:
        """Makes the search that `description` tells of, without its rows."""
        del folder, description
        return cls()

    def _restore(self, folder: Path) -> None:
        """Reads what `_save` wrote; an exact search is built from its rows faster than read."""
        del folder
        self.rebuild()

    @abstractmethod
    def _build(self, rows: np.ndarray) -> None:
        """Prepares the search over `rows` `[U, D]`, all different."""

    def _append(self, rows: np.ndarray) -> None:
        """Adds `rows` `[V, D]` float32, the last V of `self._rows`."""
        del rows
        self.rebuild()

    @abstractmethod
    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Finds `[Q, k]` integer, the best row ids in any order; -1 where there are fewer."""


def recall(neighbors: np.ndarray, truth: np.ndarray) -> float:
    """Fraction of the true neighbors `truth [Q, k]` that are among `neighbors [Q, j]`."""
    return float((truth[:, :, None] == neighbors[:, None, :]).any(2).mean())
