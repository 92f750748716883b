"""The search of some images of an index, which follows changes of the index."""

import time
from pathlib import Path
from typing import Self

import numpy as np

from universal_embedding.search.neighbors import recall
from universal_embedding.search.rescored import RescoredSearch

NUM_RECALL_QUERIES = 1000


class LiveSearch:
    """Finds the nearest of some rows, by their positions in the index.

    Args:
        embeddings: `[N, D]` float32, all rows of the index.
        members: `[M]` ascending positions of the rows to search.
        is_exact: Whether to search exactly, or by ScaNN.
    """

    def __init__(self, embeddings: np.ndarray, members: np.ndarray, is_exact: bool) -> None:
        self._neighbors = _make_search(is_exact)
        self._neighbors.index(embeddings[members])
        self._set_members(members, np.arange(len(members)))

    def query(self, embeddings: np.ndarray, k: int, exclude: int = -1) -> np.ndarray:
        """Finds the positions `[Q, k]` of the nearest rows, -1 where there are fewer.

        Args:
            embeddings: `[Q, D]` float32.
            k: Number of neighbors.
            exclude: Position of a row to leave out, -1 for none.
        """
        place = np.searchsorted(self._members, exclude)
        is_member = place < len(self._members) and self._members[place] == exclude
        excluded_id = self._ids[place] if is_member else -1
        ids, _ = self._neighbors.query(embeddings, k, np.full(len(embeddings), excluded_id))
        return np.where(ids >= 0, self._position_of_id[ids], -1)

    def change(self, is_kept: np.ndarray, is_new: np.ndarray, embeddings: np.ndarray) -> None:
        """Follows a change of the index, for a search of all its rows.

        Args:
            is_kept: `[N]` bool, the old rows that are left.
            is_new: `[N']` bool, the new rows among those of the changed index; the others are the
                kept ones in their order.
            embeddings: `[N', D]` float32, the rows of the changed index.
        """
        removed = self._ids[~is_kept]
        ids = np.empty(len(is_new), np.int64)
        ids[~is_new] = self._ids[is_kept]
        if is_new.any():
            ids[is_new] = self._neighbors.add(embeddings[is_new])
        if len(removed):
            self._neighbors.remove(removed)
        self._set_members(np.arange(len(is_new)), ids)

    def save(self, folder: Path) -> None:
        """Writes an approximate search of all rows of the index, to be read by `load`."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "ids.npy", self._ids)
        self._neighbors.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            UserError: It is missing or damaged.
        """
        from universal_embedding.search.scann_index import ScannIndex

        search = cls.__new__(cls)
        search._neighbors = ScannIndex.load(folder)
        ids = np.load(folder / "ids.npy")
        search._set_members(np.arange(len(ids)), ids)
        return search

    def _set_members(self, members: np.ndarray, ids: np.ndarray) -> None:
        self._members, self._ids = members, ids
        self._position_of_id = np.full(ids.max(initial=-1) + 1, -1)
        self._position_of_id[ids] = members


def describe_search(search: LiveSearch, embeddings: np.ndarray, seconds: float) -> str:
    """One line on an approximate search of all rows `[N, D]` that was ready in `seconds`."""
    from universal_embedding.search.exact import exact_search

    sample = np.random.default_rng(0).permutation(len(embeddings))[:NUM_RECALL_QUERIES]
    queries = embeddings[sample]
    exact = exact_search()
    exact.index(embeddings)
    truth, _ = exact.query(queries, min(5, len(embeddings)))
    start = time.perf_counter()
    found = search.query(queries, truth.shape[1])
    rate = len(queries) / (time.perf_counter() - start)
    return (
        f"approximate search: recall@5 {recall(found, truth):.4f} against exact on "
        f"{len(queries)} images, ready in {seconds:.1f} s, {rate:,.0f} queries per second"
    )


def _make_search(exact: bool) -> RescoredSearch:
    if exact:
        from universal_embedding.search.exact import exact_search

        return exact_search()
    from universal_embedding.search.scann_index import ScannIndex

    return ScannIndex()
