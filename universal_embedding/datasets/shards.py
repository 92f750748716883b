"""One shard of a split: from picture files to one ArrayRecord file, in bounded memory."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import example_serializer

from universal_embedding.datasets import pictures
from universal_embedding.datasets.collection import Entries

PICTURES_PER_SHARD = 2048
WRITER_OPTIONS = "group_size:1,uncompressed"  # pictures are compressed; groups slow single reads


@dataclass(frozen=True)
class Shard:
    """What one worker does: the pictures of `manifest` into the record file `records`.

    Attributes:
        manifest: JSON file of `[path, class ids]` pairs.
        records: The ArrayRecord file to write; the outcome goes beside it, as JSON.
        root: The picture folder.
        skip_broken: Whether a broken picture is left out; else the first one ends the work.
    """

    manifest: str
    records: str
    root: str
    skip_broken: bool

    @property
    def outcome(self) -> Path:
        """Where `write` says what it did."""
        return Path(self.manifest).with_suffix(".outcome.json")

    @property
    def stop(self) -> Path:
        """Exists as soon as any shard met a picture that ends the work."""
        return Path(self.manifest).with_name("stop")


@dataclass(frozen=True)
class Outcome:
    """What became of one shard: pictures and bytes written, positions and reasons of the rest."""

    pictures: int
    bytes: int
    skipped: list[tuple[int, str]]


def plan(entries: Entries) -> list[range]:
    """Cuts a split into equal shards of at most `PICTURES_PER_SHARD` pictures."""
    shards = -(-len(entries) // PICTURES_PER_SHARD)
    bounds = [len(entries) * i // shards for i in range(shards + 1)]
    return [range(a, b) for a, b in pairwise(bounds)]


def write_manifest(file: str, entries: Entries, part: range) -> None:
    """Writes the entries that one worker is to read."""
    rows = [[entries.paths[i], entries.labels[i].tolist()] for i in part]
    Path(file).write_text(json.dumps(rows), "utf-8")


@cache
def features() -> tfds.features.FeaturesDict:
    """The record: encoded picture, one or more class ids, path relative to the picture folder."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.Sequence(np.int64),
            "image_id": tfds.features.Text(),
        }
    )


def write(shard: Shard, on_picture: Callable[[], Any] = lambda: None) -> Outcome:
    """Writes one shard, whole or (after a broken picture without `skip_broken`) not at all."""
    rows = json.loads(Path(shard.manifest).read_text("utf-8"))
    skipped: list[tuple[int, str]] = []
    sizes: list[int] = []

    def examples() -> Iterator[bytes]:
        serializer = _serializer()
        for position, (path, labels) in enumerate(rows):
            if shard.stop.exists():
                return
            try:
                image = pictures.load(Path(shard.root), path)
            except pictures.BrokenPictureError as error:
                skipped.append((position, str(error)))
                if not shard.skip_broken:
                    shard.stop.touch()
                    return
            else:
                example = {"image": image, "label": labels, "image_id": path}
                record = serializer.serialize_example(features().encode_example(example))
                sizes.append(len(record))
                yield record
            on_picture()

    unfinished = f"{shard.records}.{os.getpid()}.unfinished"
    writer = array_record_module.ArrayRecordWriter(unfinished, WRITER_OPTIONS)
    for record in examples():
        writer.write(record)
    writer.close()
    os.replace(unfinished, shard.records)
    outcome = Outcome(len(sizes), sum(sizes), skipped)
    shard.outcome.write_text(json.dumps(asdict(outcome)), "utf-8")
    return outcome


def read_outcome(shard: Shard) -> Outcome:
    """What `write` reported."""
    return Outcome(**json.loads(shard.outcome.read_text("utf-8")))


@cache
def _serializer() -> example_serializer.ExampleSerializer:
    return example_serializer.ExampleSerializer(features().get_serialized_info())
