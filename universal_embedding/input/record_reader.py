"""Reads encoded images and labels of several domains in the order of a batch."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError


class RecordReader:
    """Reads encoded images and labels by (domain, record).

    Args:
        records: Records by domain, in the order that `domain` counts.

    Attributes:
        records: The same in a list.
        labels: `[N]` int32 labels of each domain, see `dense_labels`.

    Raises:
        UserError: a record has several labels.
    """

    def __init__(self, records: Mapping[str, Records]) -> None:
        self.records = list(records.values())
        self.labels = [dense_labels(r) for r in self.records]

    def read_images(self, domain: np.ndarray, record: np.ndarray) -> np.ndarray:
        """Reads `[b]` encoded images, an object array of bytes."""
        contents = np.empty(len(domain), object)
        for d in np.unique(domain):
            rows = np.flatnonzero(domain == d)
            contents[rows] = self.records[d].read(record[rows].tolist())
        return contents

    def read_labels(self, domain: np.ndarray, record: np.ndarray) -> np.ndarray:
        """Returns `[b]` int32 labels, see `dense_labels`."""
        return gather(self.labels, domain, record)

    @staticmethod
    def placeholders(count: int) -> np.ndarray:
        """Returns `[count]` encoded images of one gray pixel, an object array of bytes."""
        return np.full(count, _placeholder_image(), object)


def gather(arrays: Sequence[np.ndarray], domain: np.ndarray, record: np.ndarray) -> np.ndarray:
    """Gathers `arrays[domain[i]][record[i]]` for each i.

    Args:
        arrays: `[N_d, ...]` of one dtype and row shape, for each domain; memory maps will do.
        domain: `[b]` integers.
        record: `[b]` integers.

    Returns:
        `[b, ...]`.
    """
    out = np.empty((len(domain), *arrays[0].shape[1:]), arrays[0].dtype)
    for d in np.unique(domain):
        rows = np.flatnonzero(domain == d)
        out[rows] = arrays[d][record[rows]]
    return out


def dense_labels(records: Records) -> np.ndarray:
    """Numbers the classes of some records from 0 in the order of their ids.

    Returns:
        `[N]` int32, the rank of each record's class id among those that occur.

    Raises:
        UserError: a record has several labels.
    """
    if not records.labels.is_single_label:
        raise UserError(
            f"images of {records.domain!r}, split {records.split!r}, have several labels; "
            "training needs exactly one each: use the train split"
        )
    return np.unique(records.labels.values, return_inverse=True)[1].astype(np.int32)


@cache
def _placeholder_image() -> bytes:
    return tf.io.encode_png(tf.fill([1, 1, 3], tf.constant(127, tf.uint8))).numpy()
