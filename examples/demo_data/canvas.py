"""Drawing in the plane: colors, outlines, patterns, and filling outlines on a canvas.

An outline is an array-like `[N, 2]` of points (x, y) from -1 to 1, with y pointing down.
"""

import colorsys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

Rng = np.random.Generator
Color = tuple[int, int, int]
Shapes = Iterable[tuple[ArrayLike, Color | Image.Image]]  # outlines, each with what to fill it with
Draw = Callable[[Rng], Shapes]  # draws an instance; its argument varies the image

SIDE = 256  # pixels of a canvas: twice the size of an image, so that edges are antialiased
TURN = 2 * np.pi
WHITE, INK = (250, 248, 244), (38, 36, 40)
PAINTS = np.array([
    (206, 48, 48), (238, 130, 38), (246, 205, 60), (160, 200, 70), (46, 140, 82), (32, 150, 150),
    (112, 188, 232), (44, 92, 190), (32, 44, 92), (122, 70, 160), (238, 140, 172), (128, 82, 52),
    (246, 236, 214), (150, 156, 162), (54, 56, 62),
])  # fmt: skip


def choice(rng: Rng, items: Sequence[Any]) -> Any:
    """Picks one item, each with the same probability."""
    return items[rng.integers(len(items))]


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Color from hue (any real number, period 1), saturation and value (0..1)."""
    return tuple(round(255 * x) for x in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def mix(a: Color, b: Color, weight: float) -> Color:
    """Interpolates from `a` (weight 0) to `b` (weight 1)."""
    return tuple(round(x + (y - x) * weight) for x, y in zip(a, b, strict=True))


def shade(color: Color, gain: float) -> Color:
    """Brightens (gain above 1) or darkens a color."""
    return tuple(min(255, round(x * gain)) for x in color)


def palette(rng: Rng, count: int) -> list[Color]:
    """Samples `count` clearly different colors."""
    paints = rng.permutation(PAINTS)[:count] + rng.uniform(-14, 14, (count, 3))
    return [tuple(paint) for paint in paints.clip(0, 255).astype(int).tolist()]


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Upright rectangle, clockwise from its top left corner."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def polar(radius: Callable[[np.ndarray], Any], count: int = 72) -> np.ndarray:
    """Outline at `radius(angle)`; the angle is 0 at the top and grows clockwise."""
    angle = np.arange(count) * (TURN / count)
    return (np.array([np.sin(angle), -np.cos(angle)]) * radius(angle)).T


def disc(x: float, y: float, rx: float, ry: float | None = None) -> np.ndarray:
    """Upright ellipse."""
    return polar(np.ones_like, 40) * (rx, rx if ry is None else ry) + (x, y)


def star(tips: int, inner: float) -> np.ndarray:
    """Star with its inner corners at radius `inner`."""
    return polar(lambda angle: np.resize([1, inner], 2 * tips), 2 * tips)


def rotate(outline: ArrayLike, angle: float) -> np.ndarray:
    """Rotates clockwise about the origin, by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(outline) @ np.array([[c, s], [-s, c]])


def mirror(half: ArrayLike) -> np.ndarray:
    """Symmetric outline from its right half, listed from the top down."""
    right = np.asarray(half, float)
    return np.concatenate([right, right[::-1] * (-1, 1)])


def smooth(outline: ArrayLike, rounds: int = 2) -> np.ndarray:
    """Rounds the corners of an outline (Chaikin's algorithm)."""
    outline = np.asarray(outline, float)
    for _ in range(rounds):
        after = np.roll(outline, -1, axis=0)
        outline = np.stack([3 * outline + after, outline + 3 * after], 1).reshape(-1, 2) / 4
    return outline


FRAME = box(-1, -1, 1, 1)
DISC = disc(0, 0, 1)
DROP = smooth(mirror([(0, -1), (0.2, -0.6), (0.75, 0.3), (0.6, 0.95), (0.1, 1.05)]))
MOON = smooth([(0.3, -1), (-0.7, -0.8), (-1, 0.1), (-0.6, 0.9), (0.4, 1), (-0.2, 0)])
TREE = mirror([(0, -1), (0.5, -0.3), (0.25, -0.3), (0.75, 0.5), (0.15, 0.5), (0.15, 1)])
MOTIFS = (
    DISC, DROP, MOON, TREE, star(5, 0.42), star(9, 0.6), star(3, 0.5),
    smooth(mirror([(0, -1), (0.45, -0.5), (0.55, 0.3), (0.05, 1)])),
    smooth(mirror([(0, -0.5), (0.45, -1), (1.05, -0.55), (0.75, 0.3), (0.02, 1)])),
    mirror([(0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1)]),
    mirror([(0, -1), (0.9, 0), (0.35, 0), (0.35, 1)]), polar(lambda a: 0.7 + 0.3 * np.cos(5 * a)),
)  # fmt: skip
PATTERNS = (  # functions from coordinates, in units of the repeat, to the index of a color (0..2)
    lambda u, v: np.digitize(u % 1, [0.4, 0.6, 0.8]) % 3,
    lambda u, v: (u % 1 > 0.5) ^ (v % 1 > 0.5),
    lambda u, v: np.digitize(np.hypot(u % 1 - 0.5, v % 1 - 0.5), [0.15, 0.3]),
    lambda u, v: (v + np.abs(u % 1 - 0.5)) * 3 % 3,
    lambda u, v: np.digitize(np.abs(u % 1 - 0.5) + np.abs(v % 1 - 0.5), [0.2, 0.5]),
    lambda u, v: (2 * v % 1 < 0.2) | ((u + 0.5 * (2 * v % 2 > 1)) % 1 < 0.12),
    lambda u, v: np.digitize(np.hypot(u % 1 - 0.5, v % 1), [0.32, 0.62]),
)


def make_pattern(rng: Rng, colors: Sequence[Color], repeats: tuple[float, float]) -> Image.Image:
    """Samples a pattern in three colors that covers a whole canvas."""
    line = np.linspace(0, rng.uniform(*repeats), SIDE, endpoint=False, dtype=np.float32)
    grid = np.stack(np.meshgrid(line, line), -1)
    u, v = rotate(grid, choice(rng, (0, 0, TURN / 8, TURN / 4))).transpose(2, 0, 1)
    return Image.fromarray(np.array(colors, np.uint8)[choice(rng, PATTERNS)(u, v).astype(int)])


def fill(shapes: Shapes) -> Image.Image:
    """Fills outlines on a transparent RGBA canvas, the later ones over the earlier ones."""
    canvas = Image.new("RGBA", (SIDE, SIDE))
    for outline, paint in shapes:
        pixels = to_pixels(outline).ravel().tolist()
        if isinstance(paint, tuple):
            ImageDraw.Draw(canvas).polygon(pixels, paint)
        else:
            ImageDraw.Draw(mask := Image.new("L", canvas.size)).polygon(pixels, 255)
            canvas.paste(paint, mask=mask)
    return canvas


def to_pixels(outline: ArrayLike) -> np.ndarray:
    """Converts an outline to pixels of a canvas."""
    return (np.asarray(outline) + 1) * (SIDE / 2)


def warp(image: Image.Image, corners: np.ndarray, size: Sequence[int]) -> Image.Image:
    """Maps a canvas in perspective to an image of `size`, its corners to four pixels of it."""
    rows, source = [], to_pixels(FRAME)
    for (x, y), (u, v) in zip(corners, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    matrix = np.linalg.solve(rows, source.ravel()).tolist()
    return image.transform(size, Image.Transform.PERSPECTIVE, matrix, Image.Resampling.BILINEAR)
