"""One shard of a split: image files to one ArrayRecord file, in bounded memory."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from universal_embedding.datasets.examples import SplitManifest
from universal_embedding.datasets.image_files import CorruptImageError, read_image_bytes
from universal_embedding.files import atomic_write

IMAGES_PER_SHARD = 2048
WRITER_OPTIONS = "group_size:1,uncompressed"  # images are compressed; groups slow single reads


@dataclass(frozen=True)
class ShardSpec:
    """Work order of one worker: convert the images of `manifest` to the file `records`.

    Attributes:
        manifest: JSON file of `[path, class ids]` pairs.
        records: The ArrayRecord file to write.
        root: The image folder.
        skip_corrupt: Whether corrupt images are left out; otherwise the first one ends the work.
    """

    manifest: str
    records: str
    root: str
    skip_corrupt: bool

    @property
    def result_file(self) -> Path:
        """The JSON file of the `ShardResult`."""
        return Path(self.manifest).with_suffix(".result.json")

    @property
    def abort_file(self) -> Path:
        """Exists as soon as an image of any shard ended the work."""
        return Path(self.manifest).with_name("abort")


@dataclass(frozen=True)
class ShardResult:
    """Counts of one written shard.

    Attributes:
        num_images: Number of records.
        num_bytes: Their size.
        skipped: Position in the shard's manifest and reason of each image without a record.
    """

    num_images: int
    num_bytes: int
    skipped: list[tuple[int, str]]


def plan_shards(manifest: SplitManifest) -> list[range]:
    """Divides a split into equal shards of at most `IMAGES_PER_SHARD` images."""
    num_shards = -(-len(manifest) // IMAGES_PER_SHARD)
    bounds = [len(manifest) * i // num_shards for i in range(num_shards + 1)]
    return [range(start, end) for start, end in pairwise(bounds)]


def write_shard_manifest(file: str, manifest: SplitManifest, indices: range) -> None:
    """Writes the paths and class ids of one shard."""
    rows = [[manifest.paths[i], manifest.labels[i].tolist()] for i in indices]
    Path(file).write_text(json.dumps(rows), "utf-8")


@cache
def record_features() -> tfds.features.FeaturesDict:
    """The record: encoded image, one or more class ids, path relative to the image folder."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.Sequence(np.int64),
            "image_id": tfds.features.Text(),
        }
    )


def write_shard(shard: ShardSpec, on_image: Callable[[], Any] = lambda: None) -> ShardResult:
    """Writes one shard.

    Without `skip_corrupt`, a corrupt image ends this shard and all others; the result names it.

    Args:
        shard: The work order.
        on_image: Called after each image.
    """
    rows = json.loads(Path(shard.manifest).read_text("utf-8"))
    skipped: list[tuple[int, str]] = []
    sizes: list[int] = []

    def examples() -> Iterator[bytes]:
        for position, (path, labels) in enumerate(rows):
            if shard.abort_file.exists():
                return
            try:
                image = read_image_bytes(Path(shard.root), path)
            except CorruptImageError as error:
                skipped.append((position, str(error)))
                if not shard.skip_corrupt:
                    shard.abort_file.touch()
                    return
            else:
                example = {"image": image, "label": labels, "image_id": path}
                record = record_features().serialize_example(example)
                sizes.append(len(record))
                yield record
            on_image()

    with atomic_write(shard.records, "wb") as file:
        writer = array_record_module.ArrayRecordWriter(file.name, WRITER_OPTIONS)
        for record in examples():
            writer.write(record)
        writer.close()
    result = ShardResult(len(sizes), sum(sizes), skipped)
    with atomic_write(shard.result_file) as file:
        json.dump(asdict(result), file)
    return result


def read_shard_result(shard: ShardSpec) -> ShardResult:
    """Reads the result of `write_shard`."""
    return ShardResult(**json.loads(shard.result_file.read_text("utf-8")))
