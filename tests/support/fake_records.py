"""Records in memory, standing in for prepared data."""

import io

import numpy as np
from PIL import Image

from universal_embedding.datasets.labels import Labels


class FakeRecords:
    def __init__(self, domain, contents, labels=None, split="train"):
        self.domain, self.split = domain, split
        self.contents = contents
        self.labels = Labels.of([0] * len(contents) if labels is None else labels)
        self.image_ids = np.array([f"{domain}/{i}.jpg" for i in range(len(contents))], object)
        self.class_names = {}

    def __len__(self):
        return len(self.contents)

    def read(self, numbers):
        return [self.contents[i] for i in numbers]


def encoded(height=40, width=50, seed=0, form="JPEG", mode="RGB"):
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    out = io.BytesIO()
    image.resize((width, height), Image.BICUBIC).convert(mode).save(out, form)
    return out.getvalue()


def domains(sizes, classes=4, **kwargs):
    """`{name: records}`; picture i of a domain has the class id 100 + 7 * (i % classes)."""
    result = {}
    for d, (name, n) in enumerate(sizes.items()):
        contents = [encoded(seed=1000 * d + i, **kwargs) for i in range(n)]
        result[name] = FakeRecords(name, contents, [100 + 7 * (i % classes) for i in range(n)])
    return result
