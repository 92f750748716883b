"""Leaves. A class is a plant's leaf: outline, veins, and the way its blade is coloured."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import Canvas
from universal_embedding.datasets.rendered.colours import Colour, hsv, mix, shade, vary
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import TURN, disc, points, polar, turned

FORMS = ("simple", "lobed", "palmate", "pinnate", "fan", "heart", "trefoil")
MARKS = ("none", "edge", "spots", "veins", "halves", "stripes", "centre")


@dataclass(frozen=True)
class Leaf:
    """One plant's leaf; see the module."""

    form: str
    width: float
    taper: float
    lobes: int
    cleft: float
    teeth: int
    bite: float
    veins: int
    mark: str
    blade: Colour
    pale: Colour
    stalk: Colour

    places: ClassVar = (backgrounds.stone, backgrounds.planks, backgrounds.bokeh, backgrounds.cloth)
    freedom: ClassVar = Freedom(roll=np.pi, yaw=0.6, pitch=0.6, scale=(0.65, 1.0), mirror=True)
    size: ClassVar = (112, 112)

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Leaf":
        """Draws a plant."""
        hue = rng.choice([0.0, 0.06, 0.11, 0.16, 0.25, 0.33, 0.4, 0.85])
        blade = hsv(hue + rng.uniform(-0.02, 0.02), rng.uniform(0.45, 0.85), rng.uniform(0.35, 0.8))
        pale = hsv(rng.choice([0.12, 0.2, 0.95, 0.0]), rng.uniform(0.1, 0.6), rng.uniform(0.85, 1))
        return cls(
            form=str(rng.choice(FORMS)),
            width=rng.uniform(0.3, 0.75),
            taper=rng.uniform(0.5, 1.6),
            lobes=int(rng.integers(3, 9)),
            cleft=rng.uniform(0.2, 0.6),
            teeth=int(rng.choice([0, 0, 14, 24, 40])),
            bite=rng.uniform(0.05, 0.12),
            veins=int(rng.integers(3, 9)),
            mark=str(rng.choice(MARKS)),
            blade=blade,
            pale=pale,
            stalk=hsv(rng.choice([0.0, 0.08, 0.3, 0.9]), 0.6, rng.uniform(0.3, 0.7)),
        )

    def draw(self, rng: np.random.Generator) -> Image.Image:
        """One leaf of the plant, a little bent, its green as the season has it."""
        canvas = Canvas()
        season = (1 + rng.uniform(-0.2, 0.25)) * np.ones(3)
        blade = vary(shade(self.blade, season[0]), rng, 12)
        bend = rng.uniform(-0.25, 0.25)
        canvas.line(_bent(points((0, 0.3), (0, 0.62), (0, 0.98)), bend), 0.05, self.stalk)
        for outline, spine in self._blades():
            self._draw_blade(canvas, outline, spine, blade, bend)
        return canvas.image

    def _blades(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Every leaflet's outline, and its midrib from foot to tip."""
        if self.form == "pinnate":
            pairs = np.linspace(0.6, -0.55, max(3, self.lobes - 2))
            small = self._oval(0.55 * self.width + 0.12) * 0.42
            rib = points((0, 0.42), (0, -0.42))
            found = [(small + (0, -0.6), rib + (0, -0.6))]
            for y in pairs:
                for side in (-1, 1):
                    angle, at = side * 1.0, points((side * 0.36, y - 0.2))
                    found.append((turned(small, angle) + at, turned(rib, angle) + at))
            return found
        if self.form in ("palmate", "trefoil"):
            count = 3 if self.form == "trefoil" else max(5, self.lobes)
            small = self._oval(0.5 * self.width + (0.4 if count == 3 else 0.1)) * 0.45
            rib = points((0, 0.45), (0, -0.45))
            reach = 1.25 if count == 3 else 0.9
            angles = np.linspace(-reach, reach, count) * 1.7
            small, rib = small - (0, 0.45), rib - (0, 0.45)
            return [(turned(small, a) + (0, 0.15), turned(rib, a) + (0, 0.15)) for a in angles]
        return [(self._single(), points((0, 0.62), (0, -0.85)))]

    def _single(self) -> np.ndarray:
        if self.form == "lobed":
            return self._toothed(
                lambda a: (
                    (1 - self.cleft * (0.5 - 0.5 * np.cos(self.lobes * a)))
                    * (0.8 - 0.25 * (a > 2.7) * (a < 3.6))
                )
            ) * (0.7 + 0.4 * self.width, 0.95)
        if self.form == "fan":
            return self._toothed(
                lambda a: np.where(np.cos(a) > -0.2, 0.85 + 0.06 * np.cos(self.lobes * 4 * a), 0.35)
            ) + (0, 0.15)
        if self.form == "heart":
            return self._toothed(
                lambda a: (
                    0.72
                    + 0.2 * np.abs(np.sin(a))
                    - 0.45 * np.exp(-((a - np.pi) ** 2) * 12)
                    + 0.2 * np.exp(-(np.minimum(a, TURN - a) ** 2) * 14)
                )
            ) * (0.55 + 0.5 * self.width, 0.9)
        return self._oval(self.width)

    def _oval(self, width: float) -> np.ndarray:
        """A blade with its tip up, as high as the canvas, widest where `taper` says."""
        t = np.linspace(0, 1, 60)
        half = width * np.sin(np.pi * t**self.taper) ** 0.9
        teeth = 1 - (self.bite * 1.6) * ((t * max(1, self.teeth)) % 1) * (self.teeth > 0)
        right = np.stack([half * teeth, 1.5 * t - 0.85], 1)
        return np.concatenate([right, right[::-1] * (-1, 1)])

    def _toothed(self, radius) -> np.ndarray:  # noqa: ANN001
        teeth = max(1, self.teeth)
        return polar(
            lambda a: radius(a) * (1 - self.bite * ((a * teeth / TURN) % 1) * (self.teeth > 0)), 160
        )

    def _draw_blade(
        self, canvas: Canvas, outline: np.ndarray, spine: np.ndarray, blade: Colour, bend: float
    ) -> None:
        foot, tip = spine
        middle = (foot + tip) / 2
        canvas.polygon(
            _bent(outline, bend), shade(blade, 0.6) if self.mark != "edge" else self.pale
        )
        inner = (outline - middle) * (0.82 if self.mark == "edge" else 0.97) + middle
        canvas.polygon(_bent(inner, bend), blade)
        if self.mark == "halves":
            along = tip - foot
            right = ((inner - foot) @ np.array([-along[1], along[0]])) > 0
            canvas.polygon(
                _bent(np.where(right[:, None], inner, _onto(inner, foot, along)), bend), self.pale
            )
        if self.mark == "centre":
            canvas.polygon(_bent((outline - middle) * 0.5 + middle, bend), self.pale)
        vein = (
            self.pale if self.mark in ("veins", "stripes") else mix(blade, shade(blade, 0.5), 0.7)
        )
        size = 0.5 + 0.5 * min(1.0, np.linalg.norm(tip - foot))
        self._draw_veins(
            canvas, inner, spine, vein, bend, (0.05 if self.mark == "stripes" else 0.022) * size
        )
        if self.mark == "spots":
            for n, share in enumerate(np.linspace(0.15, 0.85, 7)):
                side = np.array([foot[1] - tip[1], tip[0] - foot[0]]) * (0.14 if n % 2 else -0.14)
                at = _bent((foot + (tip - foot) * share + side)[None], bend)[0]
                canvas.polygon(disc(*at, 0.06 * size), self.pale)

    def _draw_veins(
        self, canvas: Canvas, outline: np.ndarray, spine: np.ndarray, colour: Colour,
        bend: float, width: float,
    ) -> None:  # fmt: skip
        foot, tip = spine
        canvas.line(_bent(np.linspace(foot, tip, 6), bend), width * 1.4, colour)
        along = tip - foot
        normal = np.array([-along[1], along[0]])
        reach = np.abs((outline - foot) @ normal).max() / (normal @ normal)
        for share in np.linspace(0.08, 0.75, self.veins):
            for side in (-1, 1):
                start = foot + along * share
                end = (
                    start
                    + along * 0.14
                    + normal * side * reach * 0.75 * np.sin(np.pi * (share * 0.8 + 0.15))
                )
                canvas.line(_bent(np.array([start, end]), bend), width, colour)


def _onto(outline: np.ndarray, foot: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Points moved onto the line from `foot` in direction `along`."""
    return foot + ((outline - foot) @ along / (along @ along))[:, None] * along


def _bent(outline: np.ndarray, bend: float) -> np.ndarray:
    """Points of a leaf whose tip leans to one side."""
    return outline + np.stack([bend * (outline[:, 1] - 0.6) ** 2 / 2, 0 * outline[:, 1]], 1)
