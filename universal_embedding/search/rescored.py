"""Searches that fetch candidates and score them again from the rows, always in the same way."""

import json
import os
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np

from universal_embedding.errors import UserError, printable
from universal_embedding.files import atomic_write
from universal_embedding.search.checksums import check_files, list_checksums
from universal_embedding.search.index_rows import IndexRows, RowCodec
from universal_embedding.search.neighbors import NearestNeighbors

# A search fetches a few candidates more than requested, because its own rounding may differ
# between equal images. Candidates are scored again, always in the same way, and then cut.
NUM_SPARE = 3
FORMAT = 3
META = "index.json"
QUERY_BLOCK = 8192  # queries searched at once: memory does not grow with queries x index
MAX_EMPTY = 0.25  # fraction of removed rows above which the search is built again
MAX_GATHERED_FLOATS = 1 << 20  # floats of candidate embeddings that a thread holds at once


class RescoredSearch(NearestNeighbors):
    """A search whose candidates are scored again with the rows that it holds.

    Attributes:
        dtype: Format in which the rows are held; see `index_rows.RowCodec`.
        codec: Fitted to other rows, so that several indexes score equal rows equally; None fits
            one to the rows of the index.
    """

    dtype = "float32"
    codec: RowCodec | None = None

    def __len__(self) -> int:
        return self._rows.num_ids

    @property
    def next_id(self) -> int:
        """The id that `add` gives next."""
        return self._rows.next_id

    @property
    def rows_nbytes(self) -> int:
        """Bytes of the rows that candidates are scored with, without what finds candidates."""
        return self._rows.nbytes

    def index(self, embeddings: np.ndarray) -> None:
        """Indexes `[N, D]` float32 rows, N >= 1; their ids are 0..N-1."""
        self.store(embeddings)
        self.rebuild()

    def store(self, embeddings: np.ndarray) -> None:
        """Takes rows as `index` does, but does not search them until `rebuild`.

        Between the two, the caller may let go of the embeddings.
        """
        embeddings = np.ascontiguousarray(embeddings, np.float32)
        codec = self.codec or RowCodec.fit(self.dtype, embeddings)
        self._rows = IndexRows.from_embeddings(embeddings, codec)

    def add(self, embeddings: np.ndarray) -> np.ndarray:
        """Adds `[M, D]` float32 rows; see `NearestNeighbors.add`."""
        was_empty = not len(self._rows)
        ids, rows = self._rows.add(np.ascontiguousarray(embeddings, np.float32))
        if was_empty:
            self.rebuild()
        elif len(rows):
            self._append(rows)
        return ids

    def remove(self, ids: np.ndarray | list[int]) -> None:
        """Removes rows by id; see `NearestNeighbors.remove`."""
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
        """Finds the k nearest neighbors of each query; see `NearestNeighbors.query`."""
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

        def rank(block: slice) -> tuple[np.ndarray, np.ndarray]:
            return self._rank(queries[block], candidates[block], exclude[block], k)

        ids, scores = zip(*_map_blocks(rank, queries, candidates), strict=True)
        return np.concatenate(ids), np.concatenate(scores)

    def _best_positions(self, queries: np.ndarray, candidates: np.ndarray, k: int) -> np.ndarray:
        """Selects the best `[Q, k]` of the positions `[Q, c]`, without regard to ids."""

        def select(block: slice) -> np.ndarray:
            scores = self._score(queries[block], candidates[block])
            return np.take_along_axis(candidates[block], np.argsort(-scores, 1)[:, :k], 1)

        return np.concatenate(_map_blocks(select, queries, candidates))

    def _score(self, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Similarities of the positions `[q, c]` to their queries; -inf for position -1."""
        similarities = np.einsum("qd,qcd->qc", queries, self._rows.decode(candidates))
        similarities[candidates < 0] = -np.inf
        return similarities

    def _rank(
        self, queries: np.ndarray, candidates: np.ndarray, exclude: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Selects the best ids `[q, k]`, and their scores, of the positions `[q, c]`."""
        similarities = self._score(queries, candidates)
        members, similarities = self._rows.groups.expand(candidates, similarities, k + 1)
        similarities[(members < 0) | (members == exclude[:, None])] = -np.inf
        order = np.lexsort((members, -similarities))[:, :k]
        ids = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        scores[:, : order.shape[1]] = np.take_along_axis(similarities, order, 1)
        ids[:, : order.shape[1]] = np.take_along_axis(members, order, 1)
        ids[scores == -np.inf] = -1
        return ids, scores

    def contains(self, ids: np.ndarray) -> np.ndarray:
        """Whether ids `[M]` below `next_id` are in the index, and not removed: `[M]` bool."""
        return self._rows.contains(ids)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The rows `[M, D]` with these ids; see `NearestNeighbors.rows`."""
        return self._rows.decode(self._rows.find(ids))

    def save(self, folder: str | Path) -> None:
        """Writes the index into `folder`, to be read by `load` of the same class."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / META).unlink(missing_ok=True)  # no index until all is written
        self._rows.save(folder)
        description = {"format": FORMAT, "kind": type(self).__name__, "dtype": self.dtype}
        description |= self._save(folder)
        description["files"] = list_checksums(folder, "*.npy", "scann/*")
        with atomic_write(folder / META) as file:
            file.write(json.dumps(description, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads an index that `save` of this class wrote.

        Raises:
            UserError: `folder` holds no index, one of another class, or a damaged one.
        """
        folder = Path(folder)
        try:
            description = json.loads((folder / META).read_text(encoding="utf-8"))
            kind = description["kind"]
            if description.get("format") != FORMAT:
                raise ValueError(f"format {description.get('format')}, expected {FORMAT}")
            check_files(folder, description["files"])
            rows = IndexRows.load(folder, description["dtype"])
        except Exception as error:  # damaged files cause errors of every kind
            raise UserError(
                f"{folder} holds no saved index ({printable(error)}): build it again"
            ) from error
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


def _map_blocks(
    function: Callable[[slice], Any], queries: np.ndarray, candidates: np.ndarray
) -> list[Any]:
    """Calls a function of blocks of queries on all cores; each holds a bounded number of floats."""
    size = max(1, MAX_GATHERED_FLOATS // (candidates.shape[1] * queries.shape[1]))
    blocks = [slice(start, start + size) for start in range(0, len(queries), size)]
    if len(blocks) == 1:
        return [function(blocks[0])]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(function, blocks))
