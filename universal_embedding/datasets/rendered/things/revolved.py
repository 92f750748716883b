"""Surfaces of revolution with a picture wrapped around them: cups, vases, tins."""

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered.canvas import SIDE


def revolve(radius: np.ndarray, texture: Image.Image, turn: float, tilt: float) -> Image.Image:
    """Draws a turned body over the canvas.

    Args:
        radius: `[SIDE]` half width at each row of the canvas, 0..1; 0 where there is nothing.
        texture: RGB `SIDE` x `SIDE`; its columns go once around.
        turn: Angle about the upright axis, in radians.
        tilt: How much level rings sag towards the viewer, as a share of the radius.

    Returns:
        RGBA `SIDE` x `SIDE`, round sides darkened.
    """
    line = np.linspace(-1, 1, SIDE, dtype=np.float32)
    across = np.clip(line[None, :] / np.maximum(radius, 1e-3)[:, None], -1.5, 1.5)
    front = np.sqrt(np.clip(1 - across**2, 0, 1))
    column = (np.arcsin(np.clip(across, -1, 1)) + turn) / (2 * np.pi) * SIDE
    row = np.arange(SIDE)[:, None] - tilt * radius[:, None] * front * (SIDE / 2)
    column = column.astype(int) % SIDE
    row = np.clip(row, 0, SIDE - 1).astype(int)
    picture = np.asarray(texture)[row, column] * (0.62 + 0.38 * front)[..., None]
    alpha = np.where(np.abs(across) < 1, 255, 0)[..., None]
    return Image.fromarray(np.concatenate([picture, alpha], -1).astype(np.uint8), "RGBA")


def profile(heights: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """`[SIDE]` half widths through control points `heights` (increasing, -1..1) and `radii`."""
    y = np.linspace(-1, 1, SIDE)
    inside = (y >= heights[0]) & (y <= heights[-1])
    fine = np.interp(y, heights, radii)
    soft = np.convolve(np.pad(fine, 8, mode="edge"), np.full(17, 1 / 17), mode="valid")
    return np.where(inside, soft, 0.0)
