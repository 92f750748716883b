"""Leaves. A class is a plant: how its leaves grow, their veins, and how the blade is coloured."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import Canvas
from universal_embedding.datasets.rendered.colours import Colour, hsv, shade, vary
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import disc, points
from universal_embedding.datasets.rendered.things.blades import Blade, Growth

MARKS = ("none", "edge", "spots", "veins", "halves", "stripes", "centre")
HUES = (0.0, 0.06, 0.11, 0.16, 0.25, 0.33, 0.4, 0.85)


@dataclass(frozen=True)
class Leaf:
    """One plant's leaf; see the module."""

    growth: Growth
    veins: int
    mark: str
    blade: Colour
    pale: Colour
    stalk: Colour

    places: ClassVar = (backgrounds.stone, backgrounds.planks, backgrounds.bokeh, backgrounds.cloth)
    freedom: ClassVar = Freedom(roll=0.8, yaw=0.4, pitch=0.4, scale=(0.9, 1.2), mirror=True)
    size: ClassVar = (112, 112)

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Leaf":
        """Draws a plant."""
        hue = rng.choice(HUES) + rng.uniform(-0.02, 0.02)
        pale_hue = rng.choice([0.12, 0.2, 0.95, 0.0])
        return cls(
            growth=Growth.design(rng),
            veins=int(rng.integers(3, 9)),
            mark=str(rng.choice(MARKS)),
            blade=hsv(hue, rng.uniform(0.45, 0.85), rng.uniform(0.35, 0.8)),
            pale=hsv(pale_hue, rng.uniform(0.1, 0.6), rng.uniform(0.85, 1)),
            stalk=hsv(rng.choice([0.0, 0.08, 0.3, 0.9]), 0.6, rng.uniform(0.3, 0.7)),
        )

    def draw(self, rng: np.random.Generator) -> Image.Image:
        """One leaf of the plant, a little bent, its green as the season has it."""
        colour = vary(shade(self.blade, rng.uniform(0.8, 1.25)), rng, 12)
        bend = rng.uniform(-0.25, 0.25)
        leaf, blades, marks = (_BentCanvas(bend) for _ in range(3))
        leaf.line(points((0, -0.3), (0, 0.3), (0, 0.62), (0, 0.98)), 0.05, self.stalk)
        rim = self.pale if self.mark == "edge" else shade(colour, 0.6)
        for blade in self.growth.blades:
            blades.polygon(blade.outline, rim)
            blades.polygon(blade.shrunk(0.82 if self.mark == "edge" else 0.97), colour)
            self._draw_mark(marks, blade)
            self._draw_veins(marks, blade, colour)
        blades.stencil(marks)
        leaf.layer(blades.image)
        return leaf.image

    def _draw_mark(self, canvas: Canvas, blade: Blade) -> None:
        if self.mark == "halves":
            half = blade.along * 0.2, blade.across
            canvas.polygon(np.array([
                blade.foot - half[0], blade.tip + half[0], blade.tip + half[1],
                blade.foot + half[1],
            ]), self.pale)  # fmt: skip
        if self.mark == "centre":
            canvas.polygon(blade.shrunk(0.5), self.pale)
        if self.mark == "spots":
            for n, share in enumerate(np.linspace(0.15, 0.85, 7)):
                x, y = blade.foot + blade.along * share + blade.across * (-0.14, 0.14)[n % 2]
                canvas.polygon(disc(x, y, 0.045 * np.linalg.norm(blade.along)), self.pale)

    def _draw_veins(self, canvas: Canvas, blade: Blade, colour: Colour) -> None:
        ink = self.pale if self.mark in ("veins", "stripes") else shade(colour, 0.65)
        length = np.linalg.norm(blade.along)
        width = (0.034 if self.mark == "stripes" else 0.014) * length
        canvas.line(np.array([blade.foot, blade.tip]), 1.4 * width, ink)
        reach = np.abs((blade.outline - blade.foot) @ blade.across).max() / length**2
        for share in np.linspace(0.08, 0.75, self.veins):
            start = blade.foot + blade.along * share
            out = 0.75 * reach * np.sin(np.pi * (0.8 * share + 0.15)) * blade.across
            for end in (start + 0.14 * blade.along + out, start + 0.14 * blade.along - out):
                canvas.line(np.array([start, end]), width, ink)


class _BentCanvas(Canvas):
    """A canvas whose top leans to one side."""

    def __init__(self, bend: float) -> None:
        super().__init__()
        self._bend = bend

    def polygon(self, outline: np.ndarray, fill: Colour) -> None:
        super().polygon(self._bent(outline), fill)

    def line(self, path: np.ndarray, width: float, fill: Colour) -> None:
        super().line(self._bent(path), width, fill)

    def _bent(self, outline: np.ndarray) -> np.ndarray:
        lean = self._bend * (outline[:, 1] - 0.6) ** 2 / 2
        return outline + np.stack([lean, np.zeros_like(lean)], 1)
