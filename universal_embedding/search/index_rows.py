"""The rows of an index: each different row once, in one of four formats, and its ids."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write

DTYPES = ("float32", "bfloat16", "float16", "int8")
_BLOCK = 1 << 14  # rows converted at once


@dataclass(frozen=True)
class RowCodec:
    """The number format of rows.

    Attributes:
        dtype: `float32`, `bfloat16`, `float16` or `int8`.
        scale: `[D]` float32, for int8 the value of one step in each dimension; else None.

    Raises:
        UserError: There is no such format.
    """

    dtype: str = "float32"
    scale: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"dtype is {self.dtype!r}; rows are held as {', '.join(DTYPES)}")

    @classmethod
    def fit(cls, dtype: str, rows: np.ndarray) -> "RowCodec":
        """Chooses the steps so that the largest value of `rows` `[N, D]` in a dimension is 127."""
        if dtype != "int8":
            return cls(dtype)
        largest = np.maximum(rows.max(0), -rows.min(0))
        return cls(dtype, (np.where(largest > 0, largest, 1) / 127).astype(np.float32))

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Converts `[N, D]` float32 rows; int8 clips values beyond those that it was fitted to."""
        if self.dtype == "float32":
            return np.ascontiguousarray(rows, np.float32)
        codes = np.empty(rows.shape, self.numpy_dtype)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            if self.scale is not None:
                block = np.clip(np.rint(block / self.scale), -127, 127)
            codes[start : start + _BLOCK] = block
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Converts codes `[..., D]` back to float32; float32 itself is not copied."""
        rows = codes.astype(np.float32, copy=False)
        if self.scale is not None:
            rows *= self.scale
        return rows

    @property
    def numpy_dtype(self) -> np.dtype:
        """The type of the codes in memory."""
        if self.dtype == "bfloat16":
            import ml_dtypes

            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(self.dtype)


class IndexRows:
    """The different rows of an index by position, and the ids that each stands for.

    Equal rows are held once, so that ties between them can be broken exactly. A removed row stays
    at its position, without an id, until `compact`: ScaNN 1.4.2 crashes when it deletes from a tree
    whose rows are in two leaves each.

    Args:
        codes: `[U, D]` different rows in the format of `codec`.
        codec: Their format.
        positions: `[I]` int64, the position of each id ever given, -1 for those removed.
    """

    def __init__(self, codes: np.ndarray, codec: RowCodec, positions: np.ndarray) -> None:
        self.codec = codec
        self.groups = DuplicateGroups.from_positions(positions, len(codes))
        self._positions = positions
        self._buffer = codes  # the caller's array, or a file on disk, until rows change
        self._owns_buffer = False
        self._size = len(codes)
        self._hashes: np.ndarray | None = None  # of the rows, once some have been added

    @classmethod
    def from_embeddings(cls, embeddings: np.ndarray, codec: RowCodec) -> "IndexRows":
        """Takes `[N, D]` float32 rows; their ids are 0..N-1."""
        codes = codec.encode(embeddings)
        positions = group_equal_rows(codes)
        if len(positions) and positions.max() + 1 < len(positions):
            _, first = np.unique(positions, return_index=True)
            codes = codes[first]
        return cls(codes, codec, positions)

    def __len__(self) -> int:
        return self._size

    @property
    def num_ids(self) -> int:
        """Number of rows, counting equal ones."""
        return len(self.groups.members)

    @property
    def next_id(self) -> int:
        """Number of ids ever given."""
        return len(self._positions)

    @property
    def num_empty(self) -> int:
        """Number of positions whose row was removed."""
        return self.groups.num_empty

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take."""
        return self._size * self._buffer[:1].nbytes

    @property
    def codes(self) -> np.ndarray:
        """`[U, D]`, the rows in their own format."""
        return self._buffer[: self._size]

    def decode(self, positions: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The rows at these positions, float32; all of them are not copied if they are float32."""
        return self.codec.decode(self.codes[positions])

    def add(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Appends rows.

        Returns:
            `[M]` int64, their ids, larger than all before; and `[V, D]` float32, the rows that
            none equaled before, now at the last V positions.
        """
        codes = self.codec.encode(embeddings)
        new_hashes = row_hashes(codes)
        if self._hashes is None:
            self._hashes = row_hashes(self.codes)
        known = {
            _row_key(self.codes[position]): int(position)
            for position in np.flatnonzero(np.isin(self._hashes, new_hashes))
        }
        added: list[int] = []
        positions = []
        for i, row in enumerate(codes):
            next_position = self._size + len(added)
            position = known.setdefault(_row_key(row), next_position)
            positions.append(position)
            if position == next_position:
                added.append(i)
        self._append(codes[added])
        self._hashes = np.concatenate([self._hashes, new_hashes[added]])
        first_id = len(self._positions)
        self._set_positions(np.concatenate([self._positions, np.array(positions, np.int64)]))
        return np.arange(first_id, len(self._positions)), self.codec.decode(codes[added])

    def contains(self, ids: np.ndarray) -> np.ndarray:
        """Whether ids `[M]` that were given are in the index, and not removed: `[M]` bool."""
        return np.asarray(self._positions[ids] >= 0)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """The positions `[M]` int64 of ids.

        Raises:
            UserError: There is no such row.
        """
        is_id = (ids >= 0) & (ids < len(self._positions))
        positions = np.where(is_id, self._positions[np.where(is_id, ids, 0)], -1)
        if (positions < 0).any():
            missing = ids[positions < 0][0]
            raise UserError(f"the index has no row {missing}: it was removed, or never was")
        return positions

    def remove(self, ids: np.ndarray) -> None:
        """Takes the ids from their rows.

        Raises:
            UserError: There is no such row, or it is named twice.
        """
        self.find(ids)
        if len(np.unique(ids)) < len(ids):
            raise UserError("a row is named twice among those to remove: name each once")
        positions = self._positions.copy()
        positions[ids] = -1
        self._set_positions(positions)

    def compact(self) -> None:
        """Drops the rows without an id; those behind them move up."""
        if not self.num_empty:
            return
        is_kept = np.diff(self.groups.splits) > 0
        self._buffer, self._owns_buffer = self.codes[is_kept], True
        self._size = len(self._buffer)
        self._hashes = None
        moved = np.where(is_kept, np.cumsum(is_kept) - 1, -1)
        self._set_positions(np.where(self._positions >= 0, moved[self._positions], -1))

    def save(self, folder: Path) -> None:
        """Writes rows and ids into `folder`."""
        codes = self.codes
        stored = codes.view(np.uint16) if self.codec.dtype == "bfloat16" else codes
        arrays = {"rows.npy": stored, "positions.npy": self._positions}
        if self.codec.scale is not None:
            arrays["scale.npy"] = self.codec.scale
        for name, array in arrays.items():
            with atomic_write(folder / name, "wb") as file:
                np.save(file, array)

    @classmethod
    def load(cls, folder: Path, dtype: str) -> "IndexRows":
        """Reads what `save` wrote; the rows stay on disk until they are used.

        Raises:
            OSError, ValueError: The files are missing or damaged.
        """
        scale = np.load(folder / "scale.npy") if dtype == "int8" else None
        codec = RowCodec(dtype, scale)
        codes = np.load(folder / "rows.npy", mmap_mode="r").view(codec.numpy_dtype)
        return cls(codes, codec, np.load(folder / "positions.npy"))

    def _append(self, codes: np.ndarray) -> None:
        size = self._size + len(codes)
        if size > len(self._buffer) or not self._owns_buffer:
            grown = np.empty((size + size // 8, *codes.shape[1:]), codes.dtype)
            grown[: self._size] = self.codes
            self._buffer, self._owns_buffer = grown, True
        self._buffer[self._size : size] = codes
        self._size = size

    def _set_positions(self, positions: np.ndarray) -> None:
        self._positions = positions
        self.groups = DuplicateGroups.from_positions(positions, self._size)


@dataclass(frozen=True)
class DuplicateGroups:
    """The ids of the row at each position, so that ties between equal rows are broken exactly.

    Position u has the ids `members[splits[u]:splits[u + 1]]`, increasing; it may have none.

    Attributes:
        members: `[N]` int64 ids.
        splits: `[U + 1]` int64; U is the number of positions.
    """

    members: np.ndarray
    splits: np.ndarray

    @classmethod
    def from_positions(cls, positions: np.ndarray, num_positions: int) -> "DuplicateGroups":
        """Groups the ids of `[I]` int64 positions; an id at -1 is in no group."""
        ids = np.flatnonzero(positions >= 0)
        occupied = positions[ids]
        lengths = np.bincount(occupied, minlength=num_positions)
        members = ids[np.argsort(occupied, kind="stable")]
        return cls(members, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    @cached_property
    def num_empty(self) -> int:
        """Number of positions without an id."""
        return int((np.diff(self.splits) == 0).sum())

    @cached_property
    def has_duplicates(self) -> bool:
        """Whether two rows are equal."""
        return len(self.members) + self.num_empty >= len(self.splits)

    def is_occupied(self, groups: np.ndarray) -> np.ndarray:
        """Whether the positions `groups`, -1 for none, have ids; of the same shape."""
        return (groups >= 0) & (self.splits[groups + 1] > self.splits[groups])

    def expand(
        self, groups: np.ndarray, scores: np.ndarray, max_members: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replaces groups by their members.

        Args:
            groups: `[Q, C]` integer, -1 for none.
            scores: `[Q, C]`, one per group.
            max_members: Members of each group to keep, the first ones.

        Returns:
            `[Q, C * M]` ids, -1 for none, and their scores.
        """
        if not self.has_duplicates and not self.num_empty:
            return np.where(groups >= 0, self.members[groups], -1), scores
        starts, ends = self.splits[groups], self.splits[groups + 1]
        width = min(max_members, int((ends - starts).max(initial=1)))
        positions = starts[..., None] + np.arange(width)
        is_member = (positions < ends[..., None]) & (groups >= 0)[..., None]
        members = self.members[np.minimum(positions, len(self.members) - 1)]
        members = np.where(is_member, members, -1)
        shape = (len(groups), groups.shape[1] * width)
        return members.reshape(shape), np.repeat(scores, width, axis=1).reshape(shape)


def group_equal_rows(rows: np.ndarray) -> np.ndarray:
    """Numbers the different rows of `[N, D]` by their first occurrence: `[N]` int64."""
    keys = row_hashes(rows)
    order = np.argsort(keys, kind="stable")
    same_key = keys[order][1:] == keys[order][:-1]
    after, before = order[1:][same_key], order[:-1][same_key]
    if not np.array_equal(rows[after], rows[before]):  # two different rows share a hash
        _, keys = np.unique(rows, axis=0, return_inverse=True)
        order = np.argsort(keys.ravel(), kind="stable")
        same_key = keys.ravel()[order][1:] == keys.ravel()[order][:-1]
    if not same_key.any():
        return np.arange(len(rows))
    is_first = np.ones(len(rows), bool)
    is_first[1:] = ~same_key
    group_of_sorted = np.cumsum(is_first) - 1
    rank = np.empty(group_of_sorted[-1] + 1, np.int64)
    rank[np.argsort(order[is_first])] = np.arange(len(rank))
    groups = np.empty(len(rows), np.int64)
    groups[order] = rank[group_of_sorted]
    return groups


def row_hashes(rows: np.ndarray) -> np.ndarray:
    """Hashes the rows of a `[N, D]` array to `[N]` uint64, equal for equal rows."""
    odd = np.random.default_rng(0).integers(1 << 63, size=rows.shape[1], dtype=np.uint64) * 2 + 1
    hashes = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float32) + np.float32(0)  # -0.0 equals 0.0
        bits = block.view(np.uint32).astype(np.uint64)
        hashes[start : start + _BLOCK] = (bits * odd).sum(1, dtype=np.uint64)
    return hashes


def _row_key(row: np.ndarray) -> bytes:
    return (row + row.dtype.type(0)).tobytes()  # -0.0 equals 0.0
