"""Backgrounds: functions that sample an RGB image `[height, width, 3]`, float32 from 0 to 255."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from examples.demo_data.canvas import Color, Rng, choice, hsv, make_pattern, mix, shade

Background = Callable[[Rng, int, int], np.ndarray]


def _color(rng: Rng, saturation: float = 0.5) -> Color:
    return hsv(rng.uniform(), rng.uniform(0, saturation), rng.uniform(0.25, 0.97))


def _noise(rng: Rng, width: int, height: int, cells: int) -> np.ndarray:
    """Smooth noise `[height, width, 1]` of about unit variance, with `cells` bumps in a row."""
    coarse = Image.fromarray(rng.standard_normal((cells + 1, cells + 1), np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))[..., None]


def stone(rng: Rng, width: int, height: int) -> np.ndarray:
    """Rock, soil or concrete."""
    grain = sum(_noise(rng, width, height, cells) / n for n, cells in ((1, 4), (2, 11), (3, 29)))
    return np.float32(_color(rng)) + grain * np.float32(rng.uniform(8, 24))


def planks(rng: Rng, width: int, height: int) -> np.ndarray:
    """Wooden boards."""
    wood = hsv(*rng.uniform((0.04, 0.2, 0.35), (0.12, 0.65, 0.9)))
    board = np.arange(height) * rng.integers(3, 8) // height
    tone = rng.uniform(0.82, 1.12, 8)[board] * np.where(np.diff(board, prepend=0), 0.6, 1)
    grain = _noise(rng, 4, height, 60)[:, :1] + _noise(rng, width, height, 9)
    return np.float32(np.outer(tone, wood))[:, None] + 4 * grain


def cloth(rng: Rng, width: int, height: int) -> np.ndarray:
    """A table cloth, wallpaper or tiles."""
    base, strength = _color(rng), rng.uniform(0.1, 0.4)
    colors = [mix(base, _color(rng, 0.9), strength) for _ in range(3)]
    pattern = make_pattern(rng, colors, (2, 9))
    return np.float32(pattern.resize((width, height), Image.Resampling.BOX))


def bokeh(rng: Rng, width: int, height: int) -> np.ndarray:
    """Spots of light, out of focus."""
    image = Image.new("RGB", (width, height), base := _color(rng))
    for _ in range(rng.integers(8, 26)):
        x, y, r = rng.uniform((0, 0, 3), (width, height, 22))
        spot = mix(base, _color(rng, 0.9), rng.uniform(0.2, 0.8))
        ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), spot)
    return np.float32(image.filter(ImageFilter.BoxBlur(rng.uniform(1, 4))))


def room(rng: Rng, width: int, height: int) -> np.ndarray:
    """A wall over a floor."""
    wall, floor = (choice(rng, (cloth, stone, planks))(rng, width, height) for _ in range(2))
    edge = round(height * rng.uniform(0.55, 0.9))
    return np.concatenate([wall[:edge], np.full_like(wall[:3], 235), floor[edge + 3 :]])


def meadow(rng: Rng, width: int, height: int) -> np.ndarray:
    """Rows of hills under the sky."""
    sky = hsv(*rng.uniform((0.5, 0.05, 0.7), (0.66, 0.6, 1)))
    hill = hsv(*rng.uniform((0.08, 0.2, 0.35), (0.45, 0.6, 0.8)))
    scene = np.float32(sky) + _noise(rng, width, height, 5).clip(0, 1.5) * 20
    horizon, row = rng.uniform(0.35, 0.75), np.arange(height)[:, None, None] / height
    for n in range(3):
        ridge = horizon + 0.1 * n + 0.05 * _noise(rng, width, 4, 4 + 2 * n)[1]
        color = mix(sky, shade(hill, 1 - 0.12 * n), 0.45 + 0.27 * n)
        scene = np.where(row > ridge, np.float32(color), scene)
    return scene + _noise(rng, width, height, 50) * 4


def street(rng: Rng, width: int, height: int) -> np.ndarray:
    """A row of houses behind a road."""
    image = Image.new("RGB", (width, height), hsv(*rng.uniform((0.5, 0, 0.4), (0.65, 0.5, 1))))
    pen, ground, x = ImageDraw.Draw(image), round(height * rng.uniform(0.55, 0.75)), 0
    while x < width:
        left, x, top = x, x + rng.integers(14, 40), round(ground * rng.uniform(0.1, 0.7))
        wall, pane = _color(rng), _color(rng)
        pen.rectangle((left, top, x, ground), wall)
        for y in range(top + 4, ground - 4, 8):
            pen.rectangle((left + 3, y, x - 4, y + 3), pane)
    pen.rectangle((0, ground, width, height), _color(rng, 0.15))
    return np.float32(image.filter(ImageFilter.BoxBlur(rng.uniform(0, 1.6))))


INDOORS = (room, planks, cloth, stone, bokeh)
OUTDOORS = (meadow, street, bokeh)
