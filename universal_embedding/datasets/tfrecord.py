"""Single records of TFRecord files: one image as a `tf.train.Example`, written and read by offset.

A TFRecord is 8 bytes of length, 4 of its checksum, the data, and 4 bytes of the data's checksum.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.files import as_path

HEADER_BYTES = 12
FOOTER_BYTES = 4


def encode_example(image: bytes, labels: Sequence[int] | np.ndarray, image_id: str) -> bytes:
    """Serializes a record: `image` bytes, `label` one or more int64, `image_id` bytes (UTF-8).

    It is the encoding of TFDS for `Image`, `Sequence(int64)` and `Text`.
    """
    import tensorflow as tf

    example = tf.train.Example()
    features = example.features.feature
    features["image"].bytes_list.value.append(image)
    features["label"].int64_list.value.extend(labels)
    features["image_id"].bytes_list.value.append(image_id.encode("utf-8"))
    return example.SerializeToString(deterministic=True)  # else maps are in any order


def decode_example(data: bytes) -> dict[str, Any]:
    """Inverse of `encode_example`; `label` is a list of int, `image_id` bytes."""
    import tensorflow as tf

    features = tf.train.Example.FromString(data).features.feature
    return {
        "image": features["image"].bytes_list.value[0],
        "label": list(features["label"].int64_list.value),
        "image_id": features["image_id"].bytes_list.value[0],
    }


class RecordWriter:
    """Writes an uncompressed TFRecord file, on any file system, as a context manager.

    Attributes:
        lengths: Bytes of each record so far, header and footer included; their running sum gives
            the records' offsets.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        import tensorflow as tf

        self.lengths: list[int] = []
        self._writer = tf.io.TFRecordWriter(os.fspath(path))

    def write(self, data: bytes) -> None:
        """Appends a record."""
        self._writer.write(data)
        self.lengths.append(HEADER_BYTES + len(data) + FOOTER_BYTES)

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()


def read_records(
    paths: Sequence[str], shards: np.ndarray, offsets: np.ndarray, lengths: np.ndarray
) -> list[bytes]:
    """Reads single records by their places; checksums are not looked at.

    Args:
        paths: TFRecord files.
        shards: `[N]` int, the file of each record in `paths`.
        offsets: `[N]` int, where its header starts.
        lengths: `[N]` int, its bytes with header and footer.

    Raises:
        UserError: A file is missing, or has no such record at that place.
    """
    places = defaultdict(list)
    for i, shard in enumerate(shards.tolist()):
        places[shard].append(i)
    records = [b""] * len(shards)
    for shard, members in places.items():
        try:
            file = as_path(paths[shard]).open("rb")
        except FileNotFoundError:
            raise UserError(f"{paths[shard]} is missing; prepare the dataset again") from None
        with file as opened:
            for i in sorted(members, key=lambda i: offsets[i]):
                opened.seek(int(offsets[i]))
                data = opened.read(int(lengths[i]))
                size = len(data) - HEADER_BYTES - FOOTER_BYTES
                if len(data) != lengths[i] or int.from_bytes(data[:8], "little") != size:
                    raise UserError(
                        f"{paths[shard]} has no record of {lengths[i]} bytes at byte {offsets[i]}; "
                        "prepare the dataset again"
                    )
                records[i] = data[HEADER_BYTES:-FOOTER_BYTES]
    return records
