"""Labels and encoded images of several domains by (domain, record), as TensorFlow ops.

Nothing here runs Python while batches are made, so the same graph reads on any host. Files on a
local disk are mapped into memory: a read is a copy of some bytes, without a system call, and no
file stays open. Files elsewhere, such as gs://, are opened at the record's byte and read in one
request.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.datasets.tfrecord import FOOTER_BYTES, HEADER_BYTES
from universal_embedding.errors import UserError
from universal_embedding.files import is_remote

_FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES  # of TFRecord, around each record
_IMAGE = {"image": tf.io.FixedLenFeature([], tf.string)}


class RecordReader:
    """Reads records by their places in TFRecord shards.

    Args:
        records: Records by domain, in the order that `domain` counts.
        memory_map: Whether to map the shards; they must be on a disk of the host that reads. By
            default, if no path has a scheme such as gs://.

    Attributes:
        is_mapped: Whether the shards are mapped.
    """

    def __init__(self, records: Sequence[Records], memory_map: bool | None = None) -> None:
        paths = [path for r in records for path in r.shard_paths]
        first_shard = np.cumsum([0, *(len(r.shard_paths) for r in records)])
        shards = [r.shards + first for r, first in zip(records, first_shard[:-1], strict=True)]
        places = [
            np.stack([s, r.offsets + HEADER_BYTES, r.lengths - _FRAME_BYTES], 1).astype(np.int64)
            for s, r in zip(shards, records, strict=True)
        ]
        self.is_mapped = not any(map(is_remote, paths)) if memory_map is None else memory_map
        self._places = DomainTable(places)
        with tf.device("CPU:0"):
            self._paths = tf.constant(paths, tf.string, [len(paths)])
            if self.is_mapped:
                self._files = _map_files(paths, np.concatenate(places))

    def places(self, domain: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        """Looks places up: `[...]` -> `[..., 3]` int64, the shard, the first byte, the length."""
        return self._places.gather(domain, record)

    def read(self, place: tf.Tensor) -> tf.Tensor:
        """Reads the encoded image at a place: `[3]` int64 -> scalar string.

        Raises:
            tf.errors.OpError: when run, if there is no such record.
        """
        example = self._read_mapped(place) if self.is_mapped else self._read_stream(place)
        return tf.io.parse_single_example(example, _IMAGE)["image"]

    def _read_mapped(self, place: tf.Tensor) -> tf.Tensor:
        shard, begin, size = tf.unstack(place)
        file = tf.raw_ops.TensorListGetItem(
            input_handle=self._files,
            index=tf.cast(shard, tf.int32),
            element_shape=[-1],
            element_dtype=tf.uint8,
        )
        # From uint8 to a string: a serialized tensor ends with its bytes.
        serialized = tf.io.serialize_tensor(tf.slice(file, begin[None], size[None]))
        return tf.strings.substr(serialized, -size, size)

    def _read_stream(self, place: tf.Tensor) -> tf.Tensor:
        shard, begin, size = tf.unstack(place)
        dataset = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.gather(self._paths, shard)[None],
            compression_type="",
            buffer_size=size + _FRAME_BYTES,  # one request
            byte_offsets=(begin - HEADER_BYTES)[None],
        )
        signature = {"output_types": [tf.string], "output_shapes": [[]]}
        dataset = tf.raw_ops.TakeDataset(
            input_dataset=dataset, count=tf.constant(1, tf.int64), **signature
        )
        # Unlike an interleave it fails, rather than skip it, if there is no record.
        return tf.raw_ops.DatasetToSingleElement(dataset=dataset, **signature)[0]


class DomainTable:
    """Rows of several domains in one table in host memory.

    Args:
        rows_by_domain: `[N_d, ...]` of one dtype and row shape, in the order that `domain` counts.
    """

    def __init__(self, rows_by_domain: Sequence[np.ndarray]) -> None:
        first = np.cumsum([0, *map(len, rows_by_domain)], dtype=np.int64)
        with tf.device("CPU:0"):
            self._first, self._rows = (
                tf.constant(first[:-1]),
                tf.constant(np.concatenate(rows_by_domain)),
            )

    def gather(self, domain: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        """Rows of records: `[...]`, `[...]` int64 -> `[..., ...]`."""
        return tf.gather(self._rows, tf.gather(self._first, domain) + record)


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


def make_label_table(records: Mapping[str, Records]) -> DomainTable:
    """Makes the table of `dense_labels`.

    Raises:
        UserError: a record has several labels.
    """
    return DomainTable([dense_labels(r) for r in records.values()])


def rows_tensor(rows: np.ndarray) -> tf.Tensor:
    """A tensor of float32 rows; those of a memory map stay in their file, unread."""
    if not isinstance(rows, np.memmap) or not rows.size:
        return tf.constant(rows, tf.float32)
    start = rows.offset // rows.itemsize  # the header of a .npy file is a multiple of 64 bytes
    with tf.device("CPU:0"):
        values = tf.raw_ops.ImmutableConst(
            dtype=tf.float32, shape=[start + rows.size], memory_region_name=str(rows.filename)
        )
        return tf.reshape(values[start:], rows.shape)  # both share the file's memory


def _map_files(paths: Sequence[str], places: np.ndarray) -> tf.Tensor:
    """A TensorList of the files' bytes; a tensor of a list is shared, not copied."""
    ends = np.zeros(len(paths), np.int64)
    np.maximum.at(ends, places[:, 0], places[:, 1] + places[:, 2])
    files = tf.raw_ops.TensorListReserve(
        element_shape=[-1], num_elements=len(paths), element_dtype=tf.uint8
    )
    for i in np.flatnonzero(ends).tolist():
        file = tf.raw_ops.ImmutableConst(
            dtype=tf.uint8, shape=[ends[i]], memory_region_name=paths[i]
        )
        files = tf.raw_ops.TensorListSetItem(input_handle=files, index=i, item=file)
    return files
