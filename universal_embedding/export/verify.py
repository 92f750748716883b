"""Verifies that an export reproduces the trained model's embeddings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.networks import SUFFIXES
from universal_embedding.models.embedding_model import EmbeddingModel

TOLERANCE = 1e-5  # of a SavedModel in float32, which resizes as the model does
# Least cosine by stored weights, of what resizes elsewhere or is rounded.
LEAST_COSINE = {"float32": 0.999, "float16": 0.999, "dynamic": 0.9, "int8": 0.9}
SIZES = ((1, 1), (3, 500), (97, 61), (224, 224), (375, 500), (500, 375), (640, 640), (64, 64))


@dataclass(frozen=True)
class ExportCheck:
    """Difference between an export and the trained model.

    Attributes:
        fingerprint: sha256 of the export's files.
        max_difference: Largest absolute difference of any component of any embedding.
        min_cosine: Minimum cosine similarity between exported and original embeddings.
    """

    fingerprint: str
    max_difference: float
    min_cosine: float

    def refuse_if_different(self, path: Path, weights: str) -> None:
        """Refuses an export that does not reproduce the model.

        Raises:
            UserError: The difference is above what the stored weights explain.
        """
        is_exact = weights == "float32" and path.suffix not in SUFFIXES.values()
        if self.max_difference > TOLERANCE if is_exact else self.min_cosine < LEAST_COSINE[weights]:
            raise UserError(
                f"{path} would differ from the trained model by {self.max_difference:.1e} (least "
                f"cosine {self.min_cosine:.6f}): nothing was written; report this with the config"
            )


def verify_export(model: EmbeddingModel, path: str | Path) -> ExportCheck:
    """Embeds synthetic images of different sizes with `model` and with its export at `path`."""
    exported = Embedder.from_pretrained(path)
    images = _synthetic_images()
    embeddings = exported.encode(images, show_progress_bar=False)
    expected = np.concatenate([model(image[None], training=False).numpy() for image in images])
    return ExportCheck(
        exported.fingerprint,
        float(np.abs(embeddings - expected).max()),
        float((embeddings * expected).sum(axis=1).min()),
    )


def _synthetic_images() -> list[np.ndarray]:
    """`[H, W, 3]` uint8, patches of color."""
    rng = np.random.default_rng(0)
    images = []
    for height, width in SIZES:
        patches = rng.integers(0, 256, [9, 9, 3], np.uint8)
        rows, columns = np.arange(height) * 9 // height, np.arange(width) * 9 // width
        images.append(patches[rows][:, columns])
    return images
