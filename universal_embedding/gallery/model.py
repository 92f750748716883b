"""The model behind a gallery: any callable that turns pictures into vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from universal_embedding.errors import UserError


class Model(Protocol):
    """What a gallery needs of a model; `universal_embedding.load` gives one.

    Attributes:
        fingerprint: sha256 of the model's files.
    """

    fingerprint: str

    def __call__(
        self, pictures: Sequence[np.ndarray], *, batch_size: int = 32, progress: bool = True
    ) -> np.ndarray:
        """`[H, W, 3]` uint8 pictures of any sizes -> `[N, D]` float32."""


def load(path: Path) -> Model:
    """Opens a SavedModel's directory or a submission zip.

    Raises:
        UserError: `path` holds no model.
    """
    if not path.exists():
        raise UserError(
            f"the model {path} is not there: name a SavedModel's directory or a submission zip "
            "with --saved_model"
        )
    import universal_embedding

    return universal_embedding.load(path)


def embed(model: Model, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """`[N, D]` float32 unit rows, which make Euclidean and cosine order the same."""
    rows = np.asarray(model(pictures, batch_size=len(pictures), progress=False), np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
