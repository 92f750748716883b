"""PHI-S: standardization of a teacher's embeddings that treats all of their directions alike.

PCA-Hadamard isotropic standardization, arXiv 2410.01680: subtract the mean, rotate by the
eigenvectors of the covariance and then by a Hadamard matrix, which gives every coordinate an equal
share of every eigenvector, and divide by one scalar, the root of the mean eigenvalue. Every
coordinate then has variance 1, and since nothing but a rotation and one scale was applied, an error
in the result is an error in the embedding, as large in any direction.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write

_ARRAYS = ("mean", "rotation", "scale")


@dataclass(frozen=True)
class PhiS:
    """The map `(x - mean) @ rotation / scale`.

    Attributes:
        mean: `[D]` float64.
        rotation: `[D, D]` float64, orthogonal.
        scale: The root of the mean variance of a coordinate, float64 above 0.
    """

    mean: np.ndarray
    rotation: np.ndarray
    scale: float

    @classmethod
    def fit(cls, blocks: Iterable[np.ndarray]) -> "PhiS":
        """Fits the map to rows that pass once; only their `[D, D]` moments are kept.

        Args:
            blocks: Arrays `[n, D]`.

        Raises:
            UserError: all rows are equal.
        """
        count, mean, scatter = 0, np.zeros(1), np.zeros((1, 1))
        for block in blocks:
            rows = np.asarray(block, np.float64)
            if not len(rows):
                continue
            # Moments of blocks are merged around their own means: sums of squares would cancel.
            block_mean = rows.mean(0)
            shift, centered = block_mean - mean, rows - block_mean
            weight = count * len(rows) / (count + len(rows))
            scatter = scatter + centered.T @ centered + weight * np.outer(shift, shift)
            mean = mean + shift * (len(rows) / (count + len(rows)))
            count += len(rows)
        variances, eigenvectors = np.linalg.eigh(scatter / max(count, 1))
        variances = np.maximum(variances, 0)
        scale = float(np.sqrt(variances.mean()))
        if not scale > 1e-6:
            raise UserError(
                f"a teacher gives all of its {count} training images one embedding, from which "
                "nothing can be learned; check the model or the table"
            )
        matrix = hadamard_matrix(len(variances))
        if matrix is None:
            spread = _equalizing_rotation(variances)
        else:
            spread = matrix / np.sqrt(len(variances))
        return cls(mean, eigenvectors @ spread.T, scale)

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Standardizes `[n, D]`; float32 rows stay float32."""
        dtype = rows.dtype
        rotation = (self.rotation / self.scale).astype(dtype)
        return (rows - self.mean.astype(dtype)) @ rotation

    def invert(self, rows: np.ndarray) -> np.ndarray:
        """The `[n, D]` embeddings whose standardized rows are given."""
        return rows @ (self.rotation * self.scale).T.astype(rows.dtype) + self.mean

    def save(self, path: Path, key: str) -> None:
        """Writes the map, and a key of the rows that it was fitted to."""
        with atomic_write(path, "wb") as file:
            np.savez(file, key=key, **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path: Path, key: str) -> "PhiS | None":
        """Reads the map; None if there is none of these rows."""
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["key"]) != key:
                    return None
                mean, rotation, scale = (file[name] for name in _ARRAYS)
        except Exception:  # missing or damaged; it is fitted again
            return None
        return cls(mean, rotation, float(scale))


def hadamard_matrix(size: int) -> np.ndarray | None:
    """A square matrix of ones and minus ones whose rows are orthogonal; None if none is made.

    Sylvester's doubling of the matrix of order 1 and of those of Paley's two constructions from
    primes: 2, all multiples of 4 up to 88 but 52, and the sizes of common embeddings (384, 768,
    1024, 1152, 1280, 1408, 1536, 1664).

    Returns:
        `[size, size]` float64.
    """
    doublings, order = 0, size
    while order >= 1:
        matrix = _base_matrix(order)
        if matrix is not None:
            for _ in range(doublings):
                matrix = np.block([[matrix, matrix], [matrix, -matrix]])
            return matrix
        if order % 2:
            return None
        doublings, order = doublings + 1, order // 2
    return None


def _base_matrix(order: int) -> np.ndarray | None:
    """The matrix of order 1, or one by Paley's constructions."""
    if order == 1:
        return np.ones((1, 1))
    if order % 4:
        return None
    if _is_prime(order - 1):  # which is 3 modulo 4
        return _paley_conference(order - 1, sign=-1.0) + np.eye(order)
    half = order // 2
    if half % 4 == 2 and _is_prime(half - 1):  # which is 1 modulo 4
        conference = _paley_conference(half - 1, sign=1.0)
        return np.kron(conference, [[1, 1], [1, -1]]) + np.kron(np.eye(half), [[1, -1], [-1, -1]])
    return None


def _paley_conference(prime: int, sign: float) -> np.ndarray:
    """`[p + 1, p + 1]`: the quadratic characters of i - j modulo the prime p, bordered by ones."""
    numbers = np.arange(prime)
    character = np.full(prime, -1.0)
    character[numbers * numbers % prime] = 1.0
    character[0] = 0.0
    matrix = np.zeros((prime + 1, prime + 1))
    matrix[0, 1:], matrix[1:, 0] = 1.0, sign
    matrix[1:, 1:] = character[(numbers[:, None] - numbers) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, int(number**0.5) + 1))


def _equalizing_rotation(variances: np.ndarray) -> np.ndarray:
    """An orthogonal R for which the diagonal of R diag(variances) R^T is constant.

    For sizes without a Hadamard matrix. Each rotation in a plane gives one more coordinate the mean
    variance (the theorem of Schur and Horn).
    """
    size, mean = len(variances), float(variances.mean())
    covariance, rotation = np.diag(variances), np.eye(size)
    for _ in range(size - 1):
        diagonal = np.diagonal(covariance)
        low, high = int(diagonal.argmin()), int(diagonal.argmax())
        below, above = diagonal[low] - mean, diagonal[high] - mean
        if above - below < 1e-12 * max(mean, 1e-300):
            break
        cross = covariance[low, high]
        tangent = (-cross + np.sqrt(max(cross * cross - below * above, 0.0))) / above
        cosine = float(1.0 / np.hypot(1.0, tangent))
        plane = np.array([[cosine, tangent * cosine], [-tangent * cosine, cosine]])
        pair = [low, high]
        rotation[pair] = plane @ rotation[pair]
        covariance[pair] = plane @ covariance[pair]
        covariance[:, pair] = covariance[:, pair] @ plane.T
    return rotation
