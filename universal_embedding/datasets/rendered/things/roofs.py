"""Roofs of towers, over a base from -1 to 1 at y = 0."""

import numpy as np

from universal_embedding.datasets.rendered.shapes import mirrored, points, smooth

ROOFS: dict[str, np.ndarray] = {
    "spire": mirrored([(0, -2.6), (0.25, -1.2), (1.1, 0)]),
    "pyramid": points((-1.2, 0), (0, -1.1), (1.2, 0)),
    "dome": smooth(mirrored([(0, -1.25), (0.9, -1.1), (1.05, 0)])),
    "onion": smooth(mirrored([(0, -2.1), (0.15, -1.4), (1.3, -0.9), (1.0, 0)])),
    "pagoda": mirrored([(0, -1.0), (0.3, -0.6), (1.7, -0.2), (1.5, 0)]),
    "battlements": mirrored(
        [(0.22, -0.7), (0.22, -0.35), (0.66, -0.35), (0.66, -0.7), (1.1, -0.7), (1.1, 0)]
    ),
    "saddle": points((-1.15, 0), (-0.7, -1.2), (0.7, -1.2), (1.15, 0)),
    "bell": smooth(mirrored([(0, -1.9), (0.35, -1.7), (0.5, -0.7), (1.4, 0)])),
}
