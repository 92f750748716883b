"""Small emblems: outlines within the circle of radius 1."""

import numpy as np

from universal_embedding.datasets.rendered.shapes import TURN, mirrored, points, polar, smooth


def star(tips: int, depth: float = 0.5) -> np.ndarray:
    """A star with this many tips; the inner corners at `depth`."""
    corner = np.arange(2 * tips)
    radius = np.where(corner % 2, depth, 1.0)
    angle = corner * TURN / (2 * tips)
    return radius[:, None] * np.stack([np.sin(angle), -np.cos(angle)], 1)


MOTIFS: dict[str, np.ndarray] = {
    "star": star(5, 0.42),
    "burst": star(12, 0.7),
    "spark": star(4, 0.3),
    "hexagon": star(3, 1.0),
    "triangle": star(3, 0.5),
    "disc": polar(np.ones_like),
    "flower": polar(lambda a: 0.7 + 0.3 * np.cos(5 * a)),
    "clover": polar(lambda a: 0.25 + 0.75 * np.abs(np.cos(1.5 * a))),
    "heart": smooth(mirrored([(0, -0.5), (0.45, -1.0), (1.05, -0.55), (0.75, 0.3), (0.02, 1.0)])),
    "drop": smooth(mirrored([(0, -1), (0.2, -0.6), (0.75, 0.3), (0.6, 0.95), (0.1, 1.05)])),
    "leaf": smooth(mirrored([(0, -1), (0.45, -0.5), (0.55, 0.3), (0.05, 1.0)])),
    "moon": smooth(points((0.3, -1), (-0.7, -0.8), (-1, 0.1), (-0.6, 0.9), (0.4, 1), (-0.2, 0))),
    "bolt": points((0.3, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.3, 1), (0.6, -0.25), (0.05, -0.25)),
    "cross": mirrored([(0.32, -1), (0.32, -0.32), (1, -0.32), (1, 0.32), (0.32, 0.32), (0.32, 1)]),
    "arrow": mirrored([(0, -1), (0.9, 0), (0.35, 0), (0.35, 1)]),
    "fish": smooth(points((-1, -0.5), (-0.5, -0.05), (0.2, -0.6), (1, 0), (0.2, 0.6), (-0.5, 0.05),
                          (-1, 0.5)), 1),
    "tree": mirrored([(0, -1), (0.5, -0.3), (0.25, -0.3), (0.75, 0.5), (0.15, 0.5), (0.15, 1)]),
    "crown": points((-1, -0.6), (-0.45, 0), (0, -0.8), (0.45, 0), (1, -0.6), (0.8, 0.7),
                    (-0.8, 0.7)),
    "house": points((0, -1), (1, -0.1), (0.7, -0.1), (0.7, 0.9), (-0.7, 0.9), (-0.7, -0.1),
                    (-1, -0.1)),
}  # fmt: skip
