"""One shard of a split: image files to one TFRecord file, in bounded memory, by any worker."""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from etils import epath

from universal_embedding.datasets.examples import SplitManifest
from universal_embedding.datasets.image_files import (
    CorruptImageError,
    read_image_file,
    to_tf_decodable,
)
from universal_embedding.datasets.tfrecord import RecordWriter, encode_example
from universal_embedding.files import as_path, atomic_write, file_size, is_remote

MAX_SHARD_BYTES = 800_000_000  # by an estimate that may be a little off: about 1 GB at most
IMAGES_PER_SHARD = 4096  # at most, however small: enough shards for some workers, and to resume
NUM_SIZE_SAMPLES = 1024
REMOTE_READERS = 32  # threads that wait for a bucket
READ_AHEAD = 4  # images per thread
ABORT_CHECK_SECONDS = 1.0


@dataclass(frozen=True)
class ShardSpec:
    """Work order of one worker: convert the images of `manifest` to the file `records`.

    Attributes:
        manifest: JSON file of `[path, class ids]` pairs.
        num_images: Their number.
        records: The TFRecord file to write.
        root: The image folder.
        max_side: Larger images are made this large; None: all stay as they are.
        skip_corrupt: Whether corrupt images are left out; otherwise the first one ends the work.
        num_threads: Threads that read and decode images.
    """

    manifest: str
    num_images: int
    records: str
    root: str
    max_side: int | None
    skip_corrupt: bool
    num_threads: int

    @property
    def result_file(self) -> epath.Path:
        """The JSON file of the `ShardResult`, there once the shard is whole."""
        return as_path(self.manifest).with_suffix(".result.json")

    @property
    def abort_file(self) -> epath.Path:
        """Exists as soon as an image of any shard ended the work; names it and the reason."""
        return as_path(self.manifest).with_name("abort.json")


@dataclass(frozen=True)
class ShardResult:
    """Contents of one written shard.

    Attributes:
        lengths: Bytes of each record in the file.
        source_bytes: Bytes of the image files.
        image_bytes: Bytes of the images as they are in the records.
        skipped: Position in the shard's manifest and reason of each image without a record.
    """

    lengths: list[int]
    source_bytes: int
    image_bytes: int
    skipped: list[tuple[int, str]]


def plan_shards(root: epath.Path, manifest: SplitManifest) -> list[range]:
    """Divides a split into shards of about equal bytes, by the file sizes of a sample."""
    count = len(manifest)
    sample = np.unique(np.linspace(0, count - 1, NUM_SIZE_SAMPLES).astype(int))
    with ThreadPoolExecutor(REMOTE_READERS if is_remote(root) else 1) as pool:
        sizes = list(pool.map(lambda i: file_size(root / manifest.paths[i]) or 0, sample))
    ends = np.cumsum(np.interp(np.arange(count), sample, sizes) + 1)
    num_shards = -(-count // IMAGES_PER_SHARD)
    num_shards = max(num_shards, int(np.ceil(ends[-1] / MAX_SHARD_BYTES)))
    inner = np.searchsorted(ends, ends[-1] * np.arange(1, num_shards) / num_shards) + 1
    bounds = np.unique([0, *inner, count]).tolist()
    return [range(start, end) for start, end in pairwise(bounds)]


def count_threads(root: epath.Path, is_alone: bool) -> int:
    """Threads of one worker: all cores, one if it shares them, many to wait for a bucket."""
    if is_remote(root):
        return REMOTE_READERS
    return len(os.sched_getaffinity(0)) if is_alone else 1


def write_shard_manifest(file: epath.Path, manifest: SplitManifest, indices: range) -> None:
    """Writes the paths and class ids of one shard."""
    rows = [[manifest.paths[i], manifest.labels[i].tolist()] for i in indices]
    file.write_text(json.dumps(rows))


def write_shard(shard: ShardSpec, on_image: Callable[[], Any] = lambda: None) -> None:
    """Writes one shard, then its result.

    Without `skip_corrupt`, a corrupt image ends this shard and all others: `abort_file` names it.
    Killed at any moment, or run by two workers at once, it leaves a whole shard or none.

    Args:
        shard: The work order.
        on_image: Called after each image.
    """
    rows = json.loads(as_path(shard.manifest).read_text())
    skipped: list[tuple[int, str]] = []
    source_bytes = image_bytes = 0
    final = as_path(shard.records)
    partial = as_path(shard.manifest).with_name(f"{final.name}.{uuid.uuid4().hex}.partial")
    try:
        with RecordWriter(partial) as writer:
            images = _read_images(shard, [path for path, _ in rows])
            for position, ((path, labels), image) in enumerate(zip(rows, images, strict=False)):
                if isinstance(image, CorruptImageError):
                    skipped.append((position, str(image)))
                    if not shard.skip_corrupt:
                        with atomic_write(shard.abort_file) as file:
                            abort = {"manifest": shard.manifest, "path": path, "reason": str(image)}
                            json.dump(abort, file)
                        return
                else:
                    data, source_size = image
                    source_bytes += source_size
                    image_bytes += len(data)
                    writer.write(encode_example(data, labels, path))
                on_image()
        if len(writer.lengths) + len(skipped) < len(rows):
            return  # another shard ended the work
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)
    result = ShardResult(writer.lengths, source_bytes, image_bytes, skipped)
    with atomic_write(shard.result_file) as file:
        json.dump(asdict(result), file)


def read_shard_result(shard: ShardSpec) -> ShardResult | None:
    """The result of `write_shard`, None unless its file is whole and fits `skip_corrupt`."""
    try:
        result = ShardResult(**json.loads(shard.result_file.read_text()))
    except FileNotFoundError:
        return None
    is_whole = file_size(shard.records) == sum(result.lengths)
    return result if is_whole and (shard.skip_corrupt or not result.skipped) else None


def _read_images(
    shard: ShardSpec, paths: Sequence[str]
) -> Iterator[tuple[bytes, int] | CorruptImageError]:
    """The images and the sizes of their files, in order; ends early if the work was ended."""
    root = as_path(shard.root)

    def read(path: str) -> tuple[bytes, int] | CorruptImageError:
        try:
            source = read_image_file(root, path)
            return to_tf_decodable(source, shard.max_side), len(source)
        except CorruptImageError as error:
            return error

    chunk_size = READ_AHEAD * shard.num_threads
    next_check = 0.0
    with ThreadPoolExecutor(shard.num_threads) as pool:
        for start in range(0, len(paths), chunk_size):
            if time.monotonic() > next_check:
                if shard.abort_file.exists():
                    return
                next_check = time.monotonic() + ABORT_CHECK_SECONDS
            yield from pool.map(read, paths[start : start + chunk_size])
