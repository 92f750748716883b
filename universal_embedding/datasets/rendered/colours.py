"""Colours, as 8-bit RGB triples."""

import colorsys
from collections.abc import Sequence

import numpy as np

Colour = tuple[int, int, int]

PAINTS: dict[str, Colour] = {
    "red": (206, 48, 48),
    "orange": (238, 130, 38),
    "yellow": (246, 205, 60),
    "lime": (160, 200, 70),
    "green": (46, 140, 82),
    "teal": (32, 150, 150),
    "sky": (112, 188, 232),
    "blue": (44, 92, 190),
    "navy": (32, 44, 92),
    "purple": (122, 70, 160),
    "pink": (238, 140, 172),
    "brown": (128, 82, 52),
    "cream": (246, 236, 214),
    "grey": (150, 156, 162),
    "charcoal": (54, 56, 62),
}
WHITE: Colour = (250, 248, 244)
INK: Colour = (38, 36, 40)


def mix(a: Sequence[int], b: Sequence[int], share: float) -> Colour:
    """The colour `share` (0..1) of the way from `a` to `b`."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def shade(colour: Sequence[int], factor: float) -> Colour:
    """`colour` in more (factor > 1) or less light."""
    return tuple(min(255, max(0, round(x * factor))) for x in colour)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour from hue (any real, 1 is a full turn), saturation and value (0..1)."""
    return tuple(round(255 * x) for x in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def palette(rng: np.random.Generator, count: int) -> tuple[Colour, ...]:
    """`count` colours that differ clearly from each other, none twice the same."""
    names = rng.permutation(list(PAINTS))[:count]
    return tuple(vary(PAINTS[name], rng, 14) for name in names)


def vary(colour: Sequence[int], rng: np.random.Generator, amount: float) -> Colour:
    """`colour` moved a little, by up to `amount` in each channel."""
    return tuple(int(np.clip(x + rng.uniform(-amount, amount), 0, 255)) for x in colour)
