"""Nearest-neighbor search: the interface, and the tie-breaking that all searches share."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write

# A search fetches a few candidates more than requested, because its own rounding may differ
# between equal images. Candidates are scored again, always in the same way, and then cut.
NUM_SPARE = 3
QUERY_BLOCK = 8192  # queries searched at once: memory does not grow with queries x index
MAX_GATHERED_FLOATS = 1 << 24  # floats of candidate embeddings held at once


class NearestNeighbors(ABC):
    """Finds the rows of an index with the largest dot product to each query.

    Call `index` once, then `query` any number of times. Ties go to the smaller id; identical rows
    tie exactly, however many there are and wherever they are in the index.
    """

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """Whether the neighbors are exact."""

    def index(self, embeddings: np.ndarray) -> None:
        """Indexes `[N, D]` float32 rows, N >= 1; their ids are 0..N-1."""
        self._rows = np.ascontiguousarray(embeddings, np.float32)
        self._duplicates = DuplicateGroups.from_rows(self._rows)
        self._unique = self._duplicates.unique_rows(self._rows)
        self._build(self._unique)

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
        num_candidates = min(k + 1 + NUM_SPARE, len(self._unique))
        for start in range(0, len(embeddings), QUERY_BLOCK):
            candidates = self._candidates(embeddings[start : start + QUERY_BLOCK], num_candidates)
            step = max(1, MAX_GATHERED_FLOATS // (num_candidates * embeddings.shape[1]))
            for offset in range(0, len(candidates), step):
                stop = min(start + offset + step, start + len(candidates))
                rows = slice(start + offset, stop)
                self._rank(
                    embeddings[rows],
                    candidates[offset : offset + step],
                    exclude[rows],
                    ids[rows],
                    scores[rows],
                )
        return ids, scores

    def _rank(
        self,
        queries: np.ndarray,
        candidates: np.ndarray,
        exclude: np.ndarray,
        ids: np.ndarray,
        scores: np.ndarray,
    ) -> None:
        """Writes the best of the unique rows `candidates [q, c]` to `ids` and `scores` `[q, k]`."""
        similarities = np.einsum("qd,qcd->qc", queries, self._unique[candidates])
        similarities[candidates < 0] = -np.inf
        members, similarities = self._duplicates.expand(candidates, similarities, ids.shape[1] + 1)
        similarities[(members < 0) | (members == exclude[:, None])] = -np.inf
        order = np.lexsort((members, -similarities))[:, : ids.shape[1]]
        width = order.shape[1]
        scores[:, :width] = np.take_along_axis(similarities, order, 1)
        ids[:, :width] = np.take_along_axis(members, order, 1)
        ids[scores == -np.inf] = -1

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
        with atomic_write(folder / "rows.npy", "wb") as file:
            np.save(file, self._rows)
        description = {"kind": type(self).__name__, **self._save(folder)}
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
            rows = np.load(folder / "rows.npy")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} holds no saved index ({error}): build it again") from error
        if kind != cls.__name__:
            raise UserError(
                f"{folder} holds an index of {kind}, not {cls.__name__}: load it as {kind}, or "
                "build it again"
            )
        duplicates = DuplicateGroups.from_rows(rows)
        unique = duplicates.unique_rows(rows)
        search = cls._load(folder, description, unique)
        search._rows, search._duplicates, search._unique = rows, duplicates, unique
        return search

    def _save(self, folder: Path) -> dict[str, Any]:
        """Writes whatever `_load` needs besides the rows; returns the search's description."""
        del folder
        return {}

    @classmethod
    def _load(cls, folder: Path, description: dict[str, Any], rows: np.ndarray) -> Self:
        """Rebuilds the search over the unique `rows` `[U, D]`."""
        del folder, description  # an exact search is built from its rows faster than it is read
        search = cls()
        search._build(rows)
        return search

    @abstractmethod
    def _build(self, rows: np.ndarray) -> None:
        """Prepares the search over `rows` `[U, D]`, all different."""

    @abstractmethod
    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Finds `[Q, k]` integer, the best row ids in any order; -1 where there are fewer."""


@dataclass(frozen=True)
class DuplicateGroups:
    """Groups of equal rows of an `[N, D]` array, so that ties between them are broken exactly.

    Group u has the rows `members[splits[u]:splits[u + 1]]`, increasing. Groups are ordered by
    their first member.

    Attributes:
        members: `[N]` int64 row ids.
        splits: `[U + 1]` int64; U is the number of different rows.
    """

    members: np.ndarray
    splits: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> "DuplicateGroups":
        """Groups the rows of a `[N, D]` float32 array."""
        keys = row_hashes(rows)
        order = np.argsort(keys, kind="stable")
        is_first = np.ones(len(rows), bool)
        same_key = keys[order][1:] == keys[order][:-1]
        after, before = order[1:][same_key], order[:-1][same_key]
        if not np.array_equal(rows[after], rows[before]):  # two different rows share a hash
            _, keys = np.unique(rows, axis=0, return_inverse=True)
            order = np.argsort(keys.ravel(), kind="stable")
            same_key = keys.ravel()[order][1:] == keys.ravel()[order][:-1]
        is_first[1:] = ~same_key
        starts = np.flatnonzero(is_first)
        if len(starts) == len(rows):
            return cls(np.arange(len(rows)), np.arange(len(rows) + 1))
        lengths = np.diff(np.append(starts, len(rows)))
        by_first = np.argsort(order[starts])
        groups = np.repeat(np.argsort(by_first), lengths)
        return cls(
            order[np.argsort(groups, kind="stable")],
            np.concatenate([[0], np.cumsum(lengths[by_first])]),
        )

    @property
    def has_duplicates(self) -> bool:
        """Whether two rows are equal."""
        return len(self.splits) <= len(self.members)

    def unique_rows(self, rows: np.ndarray) -> np.ndarray:
        """Selects one row of each group, `[U, D]`; returns `rows` itself where all differ."""
        return rows[self.members[self.splits[:-1]]] if self.has_duplicates else rows

    def expand(
        self, groups: np.ndarray, scores: np.ndarray, max_members: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replaces groups by their members.

        Args:
            groups: `[Q, C]` integer, -1 for none.
            scores: `[Q, C]`, one per group.
            max_members: Members of each group to keep, the first ones.

        Returns:
            `[Q, C * M]` row ids, -1 for none, and their scores.
        """
        if not self.has_duplicates:
            return groups.astype(np.int64), scores
        starts, ends = self.splits[groups], self.splits[groups + 1]
        width = min(max_members, int((ends - starts).max(initial=1)))
        positions = starts[..., None] + np.arange(width)
        is_member = (positions < ends[..., None]) & (groups >= 0)[..., None]
        members = self.members[np.minimum(positions, len(self.members) - 1)]
        members = np.where(is_member, members, -1)
        shape = (len(groups), groups.shape[1] * width)
        return members.reshape(shape), np.repeat(scores, width, axis=1).reshape(shape)


def row_hashes(rows: np.ndarray) -> np.ndarray:
    """Hashes the rows of a `[N, D]` float32 array to `[N]` uint64, equal for equal rows."""
    odd = np.random.default_rng(0).integers(1 << 63, size=rows.shape[1], dtype=np.uint64) * 2 + 1
    hashes = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), 1 << 14):
        block = rows[start : start + (1 << 14)] + np.float32(0)  # -0.0 equals 0.0
        bits = block.view(np.uint32).astype(np.uint64)
        hashes[start : start + (1 << 14)] = (bits * odd).sum(1, dtype=np.uint64)
    return hashes


def recall(neighbors: np.ndarray, truth: np.ndarray) -> float:
    """Fraction of the true neighbors `truth [Q, k]` that are among `neighbors [Q, j]`."""
    return float((truth[:, :, None] == neighbors[:, None, :]).any(2).mean())
