"""Outlines of leaves: the blade or blades of each form, tip up, with their midribs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from universal_embedding.datasets.rendered.shapes import TURN, polar, turned


@dataclass(frozen=True)
class Blade:
    """One blade or leaflet: its outline `[N, 2]`, and the ends of its midrib."""

    outline: np.ndarray
    foot: np.ndarray
    tip: np.ndarray

    @property
    def along(self) -> np.ndarray:
        """From foot to tip."""
        return self.tip - self.foot

    @property
    def across(self) -> np.ndarray:
        """A quarter turn from `along`, as long."""
        return np.array([-self.along[1], self.along[0]])

    def shrunk(self, share: float) -> np.ndarray:
        """The outline drawn together towards the midrib's middle."""
        middle = (self.foot + self.tip) / 2
        return (self.outline - middle) * share + middle

    def moved(self, angle: float, to: tuple[float, float]) -> "Blade":
        """Turned about the origin, then moved."""
        return Blade(*(turned(p, angle) + to for p in (self.outline, self.foot, self.tip)))


@dataclass(frozen=True)
class Growth:
    """How a plant's leaves grow.

    Attributes:
        form: One of `FORMS`.
        width: Of the blade, 0..1.
        taper: Where the blade is widest; above 1 nearer the foot.
        lobes: Lobes, pairs of leaflets or ribs.
        cleft: Depth of the lobes, 0..1.
        teeth: Number of teeth along the edge, or 0.
        bite: Their depth.
    """

    form: str
    width: float
    taper: float
    lobes: int
    cleft: float
    teeth: int
    bite: float

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Growth":
        """Draws a growth."""
        return cls(
            form=str(rng.choice(list(FORMS))),
            width=rng.uniform(0.3, 0.75),
            taper=rng.uniform(0.5, 1.6),
            lobes=int(rng.integers(3, 9)),
            cleft=rng.uniform(0.2, 0.6),
            teeth=int(rng.choice([0, 0, 14, 24, 40])),
            bite=rng.uniform(0.05, 0.12),
        )

    @property
    def blades(self) -> list[Blade]:
        """Every blade of one leaf."""
        return FORMS[self.form](self)

    def oval(self, width: float, size: float = 1.0) -> Blade:
        """A blade from foot (0, 0.65) to tip (0, -0.85), times `size`."""
        t = np.linspace(0, 1, 60)
        half = width * np.sin(np.pi * t**self.taper) ** 0.9 * self._teeth(t, 1.6)
        right = np.stack([half, 1.5 * t - 0.85], 1) * size
        outline = np.concatenate([right, right[::-1] * (-1, 1)])
        return Blade(outline, np.array([0, 0.65]) * size, np.array([0, -0.85]) * size)

    def round(self, radius: Callable[[np.ndarray], np.ndarray], width: float = 1.0) -> Blade:
        """A single blade whose edge lies at `radius(angle)`."""
        outline = polar(lambda a: radius(a) * self._teeth(a / TURN, 1.0), 160) * (width, 0.95)
        return Blade(outline, np.array([0, 0.62]), np.array([0, -0.8]))

    def _teeth(self, along: np.ndarray, depth: float) -> np.ndarray:
        return 1 - depth * self.bite * ((along * self.teeth) % 1)


def _lobed(growth: Growth) -> list[Blade]:
    def radius(angle: np.ndarray) -> np.ndarray:
        lobes = 1 - growth.cleft * (0.5 - 0.5 * np.cos(growth.lobes * angle))
        return lobes * np.where(np.abs(angle - np.pi) < 0.45, 0.55, 0.8)

    return [growth.round(radius, 0.7 + 0.4 * growth.width)]


def _fan(growth: Growth) -> list[Blade]:
    def radius(angle: np.ndarray) -> np.ndarray:
        return np.where(np.cos(angle) > -0.3, 0.9 + 0.06 * np.cos(4 * growth.lobes * angle), 0.4)

    return [growth.round(radius)]


def _heart(growth: Growth) -> list[Blade]:
    def radius(angle: np.ndarray) -> np.ndarray:
        notch = 0.45 * np.exp(-12 * (angle - np.pi) ** 2)
        point = 0.2 * np.exp(-14 * np.minimum(angle, TURN - angle) ** 2)
        return 0.72 + 0.2 * np.abs(np.sin(angle)) - notch + point

    return [growth.round(radius, 0.55 + 0.5 * growth.width)]


def _pinnate(growth: Growth) -> list[Blade]:
    leaflet = growth.oval(0.28 * growth.width + 0.1, 0.46).moved(0, (0, -0.3))
    rows = np.linspace(0.55, -0.35, max(3, growth.lobes - 2))
    pairs = [leaflet.moved(1.05 * side, (0, y)) for y in rows for side in (-1, 1)]
    return [*pairs, leaflet.moved(0, (0, -0.25))]


def _whorl(count: int, reach: float, width: float, growth: Growth) -> list[Blade]:
    """Leaflets from one point."""
    leaflet = growth.oval(0.5 * growth.width + width, 0.58).moved(0, (0, -0.38))
    return [leaflet.moved(angle, (0, 0.1)) for angle in np.linspace(-reach, reach, count)]


FORMS: dict[str, Callable[[Growth], list[Blade]]] = {
    "oval": lambda growth: [growth.oval(growth.width)],
    "lobed": _lobed,
    "fan": _fan,
    "heart": _heart,
    "pinnate": _pinnate,
    "trefoil": lambda growth: _whorl(3, 2.1, 0.4, growth),
    "palmate": lambda growth: _whorl(max(5, growth.lobes), 1.6, 0.1, growth),
}
