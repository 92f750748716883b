"""Printed and woven patterns: which of a few colours lies at each point of a surface."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered.canvas import SIDE
from universal_embedding.datasets.rendered.colours import Colour, palette

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _cell(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return u % 1 - 0.5, v % 1 - 0.5


def _radius(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(*_cell(u, v))


# Each gives a whole number, the colour's, for points in units of the pattern's repeat.
FIELDS: dict[str, Field] = {
    "stripes": lambda u, v: u % 1 > 0.5,
    "triple": lambda u, v: np.digitize(u % 1, [0.4, 0.6, 0.8]) % 3,
    "checks": lambda u, v: (u % 1 > 0.5) ^ (v % 1 > 0.5),
    "dots": lambda u, v: _radius(u, v) < 0.3,
    "rings": lambda u, v: np.digitize(_radius(u, v), [0.15, 0.3, 0.42]) % 3,
    "offset": lambda u, v: _radius(u + 0.5 * (v % 2 > 1), v) < 0.33,
    "zigzag": lambda u, v: (v + np.abs(u % 1 - 0.5)) % 1 > 0.5,
    "chevron": lambda u, v: np.floor((v + np.abs(u % 1 - 0.5)) * 3) % 3,
    "waves": lambda u, v: (v + 0.2 * np.sin(2 * np.pi * u)) % 1 > 0.5,
    "diamonds": lambda u, v: sum(np.abs(x) for x in _cell(u, v)) < 0.34,
    "argyle": lambda u, v: np.digitize(sum(np.abs(x) for x in _cell(u, v)), [0.2, 0.5]),
    "plaid": lambda u, v: (u % 1 < 0.35).astype(int) + (v % 1 < 0.35),
    "window": lambda u, v: (u % 1 < 0.16) | (v % 1 < 0.16),
    "triangles": lambda u, v: (u % 1 + v % 1) % 2 > 1,
    "bricks": lambda u, v: ((v * 2) % 1 < 0.2) | ((u + 0.5 * ((v * 2) % 2 > 1)) % 1 < 0.12),
    "crosses": lambda u, v: (np.minimum(*np.abs(_cell(u, v))) < 0.1) & (_radius(u, v) < 0.36),
    "scales": lambda u, v: np.digitize(np.hypot(u % 1 - 0.5, v % 1), [0.32, 0.62]),
    "petals": lambda u, v: _radius(u, v) < 0.28 + 0.17 * np.cos(
        5 * np.arctan2(*_cell(u, v))
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Pattern:
    """A pattern's kind, its three colours, repeats over a surface, and angle in radians."""

    kind: str
    colours: tuple[Colour, Colour, Colour]
    repeats: float
    angle: float

    @classmethod
    def design(cls, rng: np.random.Generator, repeats: tuple[float, float] = (3, 8)) -> "Pattern":
        """Draws a pattern."""
        kind = list(FIELDS)[rng.integers(len(FIELDS))]
        angle = (0, 0, np.pi / 4, np.pi / 2)[rng.integers(4)]
        return cls(kind, palette(rng, 3), rng.uniform(*repeats), angle)

    @property
    def texture(self) -> Image.Image:
        """The pattern over a `SIDE` x `SIDE` RGB picture."""
        return _texture(self)


@lru_cache(maxsize=32)
def _texture(pattern: Pattern) -> Image.Image:
    line = np.linspace(0, pattern.repeats, SIDE, endpoint=False)
    x, y = np.meshgrid(line, line)
    c, s = np.cos(pattern.angle), np.sin(pattern.angle)
    numbers = FIELDS[pattern.kind](c * x + s * y, c * y - s * x)
    return Image.fromarray(np.array(pattern.colours, np.uint8)[numbers.astype(int)])
