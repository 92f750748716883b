"""Stand-in for prepared records: TFRecord files of its own, without a builder."""

import io
import itertools
import tempfile
import weakref

import numpy as np
import tensorflow as tf
from PIL import Image

from universal_embedding.datasets.examples import Labels
from universal_embedding.datasets.tfrecord import (
    RecordWriter,
    decode_example,
    encode_example,
    read_records,
)

_COUNTER = itertools.count()
_RECORDS_PER_SHARD = 3


class FakeRecords:
    """One split of one domain, with or without images.

    Args:
        domain: The domain's key.
        labels: Class ids of each record.
        images: Encoded images; None where only labels and ids are needed.
        split: The split's name.
        image_ids: Ids; by default `<domain>/<i>.jpg`.
        folder: Where the TFRecord shards are written, such as `ram://...`; by default a temporary
            directory that lives as long as the records.
    """

    def __init__(self, domain, labels, images=None, split="train", image_ids=None, folder=None):
        self.domain, self.split, self.images = domain, split, images
        self.labels = labels if isinstance(labels, Labels) else Labels.from_rows(labels)
        if image_ids is None:
            image_ids = [f"{domain}/{i}.jpg" for i in range(len(self.labels))]
        self.image_ids = np.array(image_ids, object)
        self.class_names = {}
        self.shard_paths, self.lengths = [], np.zeros(0, np.int64)
        if images is not None:
            self._write(folder)

    def _write(self, folder):
        if folder is None:
            directory = tempfile.TemporaryDirectory()
            weakref.finalize(self, directory.cleanup)
            folder = directory.name
        tf.io.gfile.makedirs(folder)
        shards, offsets, lengths = [], [], []
        for first in range(0, len(self), _RECORDS_PER_SHARD):
            self.shard_paths.append(f"{folder}/{self.domain}-{next(_COUNTER)}.tfrecord")
            with RecordWriter(self.shard_paths[-1]) as writer:
                for i in range(first, min(first + _RECORDS_PER_SHARD, len(self))):
                    labels = self.labels[i].tolist()
                    writer.write(encode_example(self.images[i], labels, self.image_ids[i]))
            ends = np.cumsum([0, *writer.lengths])
            shards += [len(self.shard_paths) - 1] * len(writer.lengths)
            offsets += ends[:-1].tolist()
            lengths += writer.lengths
        self.shards = np.array(shards, np.int32)
        self.offsets = np.array(offsets, np.int64)
        self.lengths = np.array(lengths, np.int64)

    def __len__(self):
        return len(self.labels)

    def select(self, indices):
        """Records without images: those at `indices`."""
        labels = [self.labels[i] for i in indices]
        return FakeRecords(self.domain, labels, None, self.split, self.image_ids[indices])

    def read(self, indices):
        """The images, from the files."""
        examples = read_records(
            self.shard_paths, *(a[list(indices)] for a in (self.shards, self.offsets, self.lengths))
        )
        return [decode_example(example)["image"] for example in examples]


def encode_random_image(height=40, width=50, seed=0, file_format="JPEG", mode="RGB"):
    """Bytes of a smooth random image."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    out = io.BytesIO()
    image.resize((width, height), Image.BICUBIC).convert(mode).save(out, file_format)
    return out.getvalue()


def make_domains(sizes, num_classes=4, folder=None, **kwargs):
    """`{domain: records}`; image i of a domain has class id 100 + 7 * (i % num_classes)."""
    domains = {}
    for d, (domain, size) in enumerate(sizes.items()):
        images = [encode_random_image(seed=1000 * d + i, **kwargs) for i in range(size)]
        labels = [100 + 7 * (i % num_classes) for i in range(size)]
        domains[domain] = FakeRecords(domain, labels, images, folder=folder)
    return domains
