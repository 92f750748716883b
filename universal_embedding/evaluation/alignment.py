"""Linear maps from one model's embedding space to another's, fitted on images embedded by both.

Embeddings are compared by cosine, so a map of the unit rows that has no offset folds into the last
Dense layer of the model: normalize(normalize(x W) A) = normalize(x W A).
"""

import numpy as np

METHODS = ("procrustes", "linear")
SHRINKAGE = 0.1  # weight of the rotation, relative to the mean eigenvalue of new^T new


def fit_alignment(new: np.ndarray, old: np.ndarray, method: str = "procrustes") -> np.ndarray:
    """Fits the map of `new` rows onto the `old` rows of the same images.

    - `procrustes`: the rotation (or reflection) with the least squared error, U V^T of the
      singular value decomposition of `new^T old` (Schoenemann 1966). It changes no similarity
      between two new embeddings.
    - `linear`: the matrix A with the least squared error plus `SHRINKAGE * N / D * |A - R|^2`, R
      being the rotation above: it may also stretch, where the images speak for it.

    Args:
        new: `[N, D]` unit rows of the model that is to be aligned.
        old: `[N, D]` unit rows of the model whose index stays.
        method: `procrustes` or `linear`.

    Returns:
        `[D, D]` float64; aligned rows are `normalize(new @ map)`.

    Raises:
        ValueError: Shapes do not fit each other, or there is no such method.
    """
    if new.ndim != 2 or new.shape != old.shape or not len(new):
        raise ValueError(f"new has shape {new.shape} and old {old.shape}: they must be [N, D]")
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be one of {METHODS}")
    new, old = np.asarray(new, np.float64), np.asarray(old, np.float64)
    left, _, right = np.linalg.svd(new.T @ old)
    rotation = left @ right
    if method == "procrustes":
        return rotation
    size = new.shape[1]
    strength = SHRINKAGE * len(new) / size
    gram = new.T @ new + strength * np.eye(size)
    return np.linalg.solve(gram, new.T @ old + strength * rotation)
