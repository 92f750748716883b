"""Does what was written embed as what was trained?"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from universal_embedding.export.loading import load
from universal_embedding.models.embedder import Embedder

TOLERANCE = 1e-5
SIZES = ((1, 1), (3, 500), (97, 61), (224, 224), (375, 500), (500, 375), (640, 640), (64, 64))


@dataclass(frozen=True)
class Comparison:
    """How an export differs from its embedder.

    Attributes:
        fingerprint: Of the export.
        difference: The largest one of any number of any embedding.
        cosine: The lowest of a picture's two embeddings.
    """

    fingerprint: str
    difference: float
    cosine: float


def compare(embedder: Embedder, path: Path) -> Comparison:
    """Embeds a few made pictures of different sizes with both."""
    exported = load(path)
    pictures = _pictures()
    found = exported(pictures, progress=False)
    expected = np.concatenate([embedder(p[None], training=False).numpy() for p in pictures])
    return Comparison(
        exported.fingerprint,
        float(np.abs(found - expected).max()),
        float((found * expected).sum(axis=1).min()),
    )


def _pictures() -> list[np.ndarray]:
    """`[H, W, 3]` uint8, patches of colour."""
    random = np.random.default_rng(0)
    pictures = []
    for height, width in SIZES:
        patches = random.integers(0, 256, [9, 9, 3], np.uint8)
        rows, columns = np.arange(height) * 9 // height, np.arange(width) * 9 // width
        pictures.append(patches[rows][:, columns])
    return pictures
