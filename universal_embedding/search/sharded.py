"""An index in shards, built one after the other and searched as one."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np

from universal_embedding.errors import UserError, printable
from universal_embedding.files import atomic_write
from universal_embedding.search.exact import BlockedTopK, BruteForce
from universal_embedding.search.neighbors import NearestNeighbors
from universal_embedding.search.rescored import META, RescoredSearch
from universal_embedding.search.scann_index import ScannIndex
from universal_embedding.search.scann_tuner import ScannConfig

ROWS_PER_SHARD = 10_000_000
SHARDS_FORMAT = 1
SHARDS_META = "shards.json"
_KINDS = {search.__name__: search for search in (ScannIndex, BruteForce, BlockedTopK)}


class ShardedIndex(NearestNeighbors):
    """Searches several indexes of consecutive rows as one; ids count through them.

    Its neighbors are those of one index of all rows, ties included, if the shards are exact and
    hold their rows in one format: float32, or with one `codec`.

    Args:
        make_shard: Makes the index of a shard.
        rows_per_shard: Rows in every shard but the last.
    """

    def __init__(
        self,
        make_shard: Callable[[], RescoredSearch] = ScannIndex,
        rows_per_shard: int = ROWS_PER_SHARD,
    ) -> None:
        self._make_shard, self.rows_per_shard = make_shard, rows_per_shard
        self.shards: list[RescoredSearch] = []

    @property
    def is_exact(self) -> bool:
        """Whether every shard is searched exactly."""
        return all(shard.is_exact for shard in self.shards)

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    @property
    def next_id(self) -> int:
        """The id that `add` gives next."""
        return int(self._starts()[-1])

    def index(self, embeddings: np.ndarray) -> None:
        """Indexes `[N, D]` float32 rows, N >= 1, in memory; see `build` for more rows."""
        self.shards = []
        self._extend(embeddings)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        blocks: Sequence[Callable[[], tuple[np.ndarray, np.ndarray]]],
        make_shard: Callable[[], RescoredSearch] = ScannIndex,
    ) -> Iterator[tuple[int, RescoredSearch | None]]:
        """Builds shards that do not fit into memory together; a second call resumes.

        Each is built, written and let go before the next; leaves and codes are chosen for the
        first, since the others are alike. `load` reads them once all are there.

        Args:
            folder: Where to write them; it may hold finished shards of an interrupted call.
            blocks: Read the rows of each shard: `[n, D]` float32, and `[m]` int64 positions among
                them of rows that are not to be found.
            make_shard: Makes the index of a shard.

        Yields:
            The number of each shard, and its index if it was built now.
        """
        folder = Path(folder)
        sizes = []
        for number, read_rows in enumerate(blocks):
            shard_folder, shard = folder / shard_name(number), None
            if not (shard_folder / META).exists():
                rows, removed = read_rows()
                shard = make_shard()
                if number and isinstance(shard, ScannIndex):
                    shard.tree = _scale_tree(folder / shard_name(0), len(rows))
                shard.store(rows)
                del rows
                shard.rebuild()
                if len(removed):
                    shard.remove(removed)
                shard.save(shard_folder)
            sizes.append(_count_ids(shard_folder))
            yield number, shard
        _write_meta(folder, sizes)

    def add(self, embeddings: np.ndarray) -> np.ndarray:
        """Adds `[M, D]` float32 rows to the last shard, and to new ones when it is full."""
        first = self.next_id
        room = max(0, self.rows_per_shard - self.shards[-1].next_id) if self.shards else 0
        if room and len(embeddings):
            self.shards[-1].add(embeddings[:room])
        self._extend(embeddings[room:])
        return np.arange(first, self.next_id)

    def remove(self, ids: np.ndarray | list[int]) -> None:
        """Removes rows by id; see `NearestNeighbors.remove`."""
        ids = np.asarray(ids, np.int64)
        self.rows(ids)  # all of them exist, or none is removed
        if len(np.unique(ids)) < len(ids):
            raise UserError("a row is named twice among those to remove: name each once")
        for number, is_inside, local in self._split(ids):
            if is_inside.any():
                self.shards[number].remove(local[is_inside])

    def query(
        self, embeddings: np.ndarray, k: int, exclude: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the k nearest neighbors of each query; see `NearestNeighbors.query`."""
        if exclude is None:
            exclude = np.full(len(embeddings), -1)
        best_ids = np.full((len(embeddings), k), -1, np.int64)
        best_scores = np.full((len(embeddings), k), -np.inf, np.float32)
        starts = self._starts()
        for number, is_inside, local in self._split(exclude):
            shard = self.shards[number]
            ids, scores = shard.query(embeddings, k, np.where(is_inside, local, -1))
            ids[ids >= 0] += starts[number]
            # Of equal scores the earlier stays first: ids grow with the shards.
            scores = np.concatenate([best_scores, scores], 1)
            order = np.argsort(-scores, 1, kind="stable")[:, :k]
            best_scores = np.take_along_axis(scores, order, 1)
            best_ids = np.take_along_axis(np.concatenate([best_ids, ids], 1), order, 1)
        return best_ids, best_scores

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The rows `[M, D]` with these ids; see `NearestNeighbors.rows`."""
        ids = np.asarray(ids, np.int64)
        is_id = (ids >= 0) & (ids < self.next_id)
        if not is_id.all():
            raise UserError(f"the index has no row {ids[~is_id][0]}: it ends at {self.next_id - 1}")
        parts = [
            (is_inside, self.shards[number].rows(local[is_inside]))
            for number, is_inside, local in self._split(ids)
        ]
        rows = np.empty((len(ids), parts[0][1].shape[1]), np.float32)
        for is_inside, part in parts:
            rows[is_inside] = part
        return rows

    def contains(self, ids: np.ndarray) -> np.ndarray:
        """Whether ids `[M]` below `next_id` are in the index, and not removed: `[M]` bool."""
        is_row = np.zeros(len(ids), bool)
        for number, is_inside, local in self._split(ids):
            is_row[is_inside] = self.shards[number].contains(local[is_inside])
        return is_row

    def locate(self, row_id: int) -> tuple[int, int]:
        """The shard of a row, and its number there."""
        starts = self._starts()
        number = int(np.searchsorted(starts, row_id, "right")) - 1
        return number, row_id - int(starts[number])

    def save(self, folder: str | Path) -> None:
        """Writes every shard into `folder`, to be read by `load`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SHARDS_META).unlink(missing_ok=True)  # no index until all is written
        for number, shard in enumerate(self.shards):
            shard.save(folder / shard_name(number))
        _write_meta(folder, [shard.next_id for shard in self.shards])

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads the shards that `save` or `build` wrote; the rows stay on disk until used.

        Raises:
            UserError: A shard is missing or damaged, or there are none.
        """
        folder = Path(folder)
        try:
            meta = json.loads((folder / SHARDS_META).read_text(encoding="utf-8"))
            if meta["format"] != SHARDS_FORMAT:
                raise ValueError(f"format {meta['format']}, expected {SHARDS_FORMAT}")
            sizes = [int(size) for size in meta["sizes"]]
        except Exception as error:  # damaged files cause errors of every kind
            raise UserError(
                f"{folder} holds no shards ({printable(error)}): build them again"
            ) from error
        search = cls()
        for number, size in enumerate(sizes):
            shard_folder = folder / shard_name(number)
            shard = _load_shard(shard_folder)
            if shard.next_id != size:
                raise UserError(
                    f"{shard_folder} has {shard.next_id} rows instead of {size}: remove it and "
                    "build it again"
                )
            search.shards.append(shard)
        return search

    def _extend(self, embeddings: np.ndarray) -> None:
        for start in range(0, len(embeddings), self.rows_per_shard):
            shard = self._make_shard()
            shard.index(embeddings[start : start + self.rows_per_shard])
            self.shards.append(shard)

    def _starts(self) -> np.ndarray:
        """`[S + 1]` int64, the first id of each shard and of the next one."""
        return np.cumsum([0, *(shard.next_id for shard in self.shards)])

    def _split(self, ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each shard: its number, which of `ids` it has, and ids less its first one."""
        for number, (start, stop) in enumerate(pairwise(self._starts())):
            yield number, (ids >= start) & (ids < stop), ids - start


def shard_name(number: int) -> str:
    """The folder of a shard."""
    return f"shard-{number:05d}"


def _load_shard(folder: Path) -> RescoredSearch:
    try:
        kind = json.loads((folder / META).read_text(encoding="utf-8"))["kind"]
        search_class = _KINDS[kind]
    except Exception as error:  # damaged files cause errors of every kind
        raise UserError(
            f"the shard {folder} is missing or damaged ({printable(error)}): remove it and build "
            "it again"
        ) from error
    return search_class.load(folder)


def _scale_tree(folder: Path, num_rows: int) -> ScannConfig | None:
    """The leaves and codes of a saved shard, for as many rows."""
    description = json.loads((folder / META).read_text(encoding="utf-8"))
    config = ScannConfig(**description["config"])
    leaves = config.leaves * num_rows // description["built_size"]
    return replace(config, leaves=leaves) if leaves else None


def _count_ids(folder: Path) -> int:
    return len(np.load(folder / "positions.npy", mmap_mode="r"))


def _write_meta(folder: Path, sizes: Sequence[int]) -> None:
    with atomic_write(folder / SHARDS_META) as file:
        file.write(json.dumps({"format": SHARDS_FORMAT, "sizes": list(sizes)}) + "\n")
