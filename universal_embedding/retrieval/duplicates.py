"""Equal rows of an index, found once, so that ties between them are exact."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Duplicates:
    """The rows of an `[N, D]` array grouped by equality; group u has
    `members[splits[u]:splits[u + 1]]`, increasing. Groups stand in the order of their first member.

    Attributes:
        members: `[N]` int64 row numbers.
        splits: `[U + 1]` int64; U is the number of different rows.
    """

    members: np.ndarray
    splits: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> "Duplicates":
        """Groups the rows of a `[N, D]` float32 array."""
        keys = _hashes(rows)
        order = np.argsort(keys, kind="stable")
        new = np.ones(len(rows), bool)
        same_key = keys[order][1:] == keys[order][:-1]
        after, before = order[1:][same_key], order[:-1][same_key]
        if not np.array_equal(rows[after], rows[before]):  # two different rows share a hash
            _, keys = np.unique(rows, axis=0, return_inverse=True)
            order = np.argsort(keys.ravel(), kind="stable")
            same_key = keys.ravel()[order][1:] == keys.ravel()[order][:-1]
        new[1:] = ~same_key
        starts = np.flatnonzero(new)
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
    def any(self) -> bool:
        """Whether two rows are equal."""
        return len(self.splits) <= len(self.members)

    def first_of_each(self, rows: np.ndarray) -> np.ndarray:
        """`[U, D]`: one row of each group; `rows` itself where all differ."""
        return rows[self.members[self.splits[:-1]]] if self.any else rows

    def expand(
        self, groups: np.ndarray, scores: np.ndarray, most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replaces groups by their members, at most the first `most` of each.

        Args:
            groups: `[Q, C]` integer, -1 for none.
            scores: `[Q, C]`, one of each group.
            most: Members of one group that are of use.

        Returns:
            `[Q, C * M]` row numbers, -1 for none, and their scores.
        """
        if not self.any:
            return groups.astype(np.int64), scores
        starts, ends = self.splits[groups], self.splits[groups + 1]
        width = min(most, int((ends - starts).max(initial=1)))
        places = starts[..., None] + np.arange(width)
        inside = (places < ends[..., None]) & (groups >= 0)[..., None]
        members = np.where(inside, self.members[np.minimum(places, len(self.members) - 1)], -1)
        shape = (len(groups), groups.shape[1] * width)
        return members.reshape(shape), np.repeat(scores, width, axis=1).reshape(shape)


def _hashes(rows: np.ndarray) -> np.ndarray:
    """`[N]` uint64, equal for equal rows."""
    odd = np.random.default_rng(0).integers(1 << 63, size=rows.shape[1], dtype=np.uint64) * 2 + 1
    hashes = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), 1 << 14):
        block = rows[start : start + (1 << 14)] + np.float32(0)  # -0.0 equals 0.0
        bits = block.view(np.uint32).astype(np.uint64)
        hashes[start : start + (1 << 14)] = (bits * odd).sum(1, dtype=np.uint64)
    return hashes
