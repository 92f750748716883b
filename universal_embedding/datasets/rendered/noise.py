"""Smooth random fields, for clouds, grain and uneven light."""

import numpy as np
from PIL import Image


def smooth_noise(rng: np.random.Generator, width: int, height: int, cells: int) -> np.ndarray:
    """`[height, width]` float32 about 0 with deviation near 1, with `cells` bumps across."""
    coarse = rng.standard_normal((cells + 1, cells + 1)).astype(np.float32)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def rough_noise(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Noise of several sizes, as in stone or soil."""
    return sum(smooth_noise(rng, width, height, c) / n for n, c in enumerate((4, 11, 29, 64), 1))
