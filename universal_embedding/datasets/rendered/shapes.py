"""Outlines as `[N, 2]` float arrays of points; x to the right, y down."""

from collections.abc import Callable, Sequence

import numpy as np

TURN = 2 * np.pi


def points(*xy: tuple[float, float]) -> np.ndarray:
    """The outline through these points."""
    return np.asarray(xy, float)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """An upright rectangle."""
    return points((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def polar(radius: Callable[[np.ndarray], np.ndarray], count: int = 72) -> np.ndarray:
    """The outline with `radius(angle)`; angle 0 points up, and grows clockwise."""
    angle = np.arange(count) * (TURN / count)
    return radius(angle)[:, None] * np.stack([np.sin(angle), -np.cos(angle)], 1)


def disc(x: float, y: float, rx: float, ry: float | None = None, count: int = 40) -> np.ndarray:
    """An upright ellipse."""
    return polar(np.ones_like, count) * (rx, rx if ry is None else ry) + (x, y)


def turned(outline: np.ndarray, angle: float) -> np.ndarray:
    """Turned clockwise about the origin, by `angle` in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return outline @ np.array([[c, s], [-s, c]])


def mirrored(half: Sequence[tuple[float, float]]) -> np.ndarray:
    """A symmetric outline from its right half, listed from the top down."""
    right = np.asarray(half, float)
    return np.concatenate([right, right[::-1] * (-1, 1)])


def smooth(outline: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Corners cut `rounds` times (Chaikin), so that a few points make a soft outline."""
    for _ in range(rounds):
        after = np.roll(outline, -1, axis=0)
        outline = np.stack([0.75 * outline + 0.25 * after, 0.25 * outline + 0.75 * after], 1)
        outline = outline.reshape(-1, 2)
    return outline
