"""In-memory stand-in for prepared records."""

import io

import numpy as np
from PIL import Image

from universal_embedding.datasets.examples import Labels


class FakeRecords:
    """One split of one domain, with or without images.

    Args:
        domain: The domain's key.
        labels: Class ids of each record.
        images: Encoded images; None where only labels and ids are needed.
        split: The split's name.
        image_ids: Ids; by default `<domain>/<i>.jpg`.
    """

    def __init__(self, domain, labels, images=None, split="train", image_ids=None):
        self.domain, self.split, self.images = domain, split, images
        self.labels = labels if isinstance(labels, Labels) else Labels.from_rows(labels)
        if image_ids is None:
            image_ids = [f"{domain}/{i}.jpg" for i in range(len(self.labels))]
        self.image_ids = np.array(image_ids, object)
        self.class_names = {}

    def __len__(self):
        return len(self.labels)

    def read(self, indices):
        return [self.images[i] for i in indices]


def encode_random_image(height=40, width=50, seed=0, file_format="JPEG", mode="RGB"):
    """Bytes of a smooth random image."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    out = io.BytesIO()
    image.resize((width, height), Image.BICUBIC).convert(mode).save(out, file_format)
    return out.getvalue()


def make_domains(sizes, num_classes=4, **kwargs):
    """`{domain: records}`; image i of a domain has class id 100 + 7 * (i % num_classes)."""
    domains = {}
    for d, (domain, size) in enumerate(sizes.items()):
        images = [encode_random_image(seed=1000 * d + i, **kwargs) for i in range(size)]
        labels = [100 + 7 * (i % num_classes) for i in range(size)]
        domains[domain] = FakeRecords(domain, labels, images)
    return domains
