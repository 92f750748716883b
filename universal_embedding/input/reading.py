"""Records of several domains, read in the order of a batch."""

from collections.abc import Mapping

import numpy as np

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.input.batching import blank


class Reader:
    """Reads encoded pictures and their classes.

    Args:
        records: By domain.

    Attributes:
        records: Of each domain, in order.
    """

    def __init__(self, records: Mapping[str, Records]) -> None:
        self.records = list(records.values())
        self._labels = [_classes(r) for r in self.records]

    def read(self, domain: np.ndarray, record: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`[b]` encoded pictures (object array) and `[b]` int32 classes within the domain."""
        contents = np.empty(len(domain), object)
        label = np.empty(len(domain), np.int32)
        for d in np.unique(domain):
            rows = np.flatnonzero(domain == d)
            contents[rows] = self.records[d].read(record[rows].tolist())
            label[rows] = self._labels[d][record[rows]]
        return contents, label

    @staticmethod
    def nothing(count: int) -> np.ndarray:
        """`[count]` encoded pictures of one grey pixel."""
        return np.full(count, blank(), object)


def _classes(records: Records) -> np.ndarray:
    if not records.labels.single:
        raise UserError(
            f"pictures of {records.domain!r}, split {records.split!r}, have several labels; "
            "training needs exactly one each: use the train split"
        )
    return np.unique(records.labels.values, return_inverse=True)[1].astype(np.int32)
