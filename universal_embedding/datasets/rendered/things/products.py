"""Patterned products: cups, vases, jars. A class is one piece: its profile, handle and bands."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import SIDE, Canvas
from universal_embedding.datasets.rendered.colours import Colour, mix, palette, shade
from universal_embedding.datasets.rendered.patterns import Pattern
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import disc, points, smooth
from universal_embedding.datasets.rendered.things.revolved import profile, revolve

# Half widths at five heights from the top down, and where the top lies.
FORMS: dict[str, tuple[float, tuple[float, ...]]] = {
    "mug": (-0.6, (0.55, 0.54, 0.54, 0.54, 0.5)),
    "cup": (-0.4, (0.68, 0.66, 0.58, 0.45, 0.3)),
    "vase": (-0.95, (0.34, 0.24, 0.5, 0.58, 0.32)),
    "bottle": (-0.95, (0.13, 0.14, 0.36, 0.42, 0.4)),
    "jar": (-0.7, (0.4, 0.58, 0.62, 0.58, 0.42)),
    "bowl": (-0.1, (0.85, 0.82, 0.7, 0.5, 0.3)),
    "urn": (-0.85, (0.46, 0.3, 0.62, 0.46, 0.2)),
    "flask": (-0.9, (0.2, 0.18, 0.2, 0.56, 0.66)),
    "lamp": (-0.75, (0.26, 0.4, 0.55, 0.7, 0.84)),
    "tumbler": (-0.65, (0.6, 0.55, 0.5, 0.46, 0.42)),
}
HANDLES = ("none", "one", "two", "ear")


@dataclass(frozen=True)
class Product:
    """One piece; see the module."""

    form: str
    swell: tuple[float, ...]
    handle: str
    lid: bool
    bands: tuple[float, float]
    patterns: tuple[Pattern, Pattern]
    colours: tuple[Colour, Colour, Colour]

    places: ClassVar = (backgrounds.room, backgrounds.shelf, backgrounds.bokeh, backgrounds.plain)
    freedom: ClassVar = Freedom(roll=0.12, yaw=0.3, pitch=0.15, scale=(0.85, 1.1))
    size: ClassVar = (112, 128)

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Product":
        """Draws a piece."""
        colours = palette(rng, 3)
        kinds = [Pattern.design(rng, (6, 14)) for _ in range(2)]
        first = Pattern(kinds[0].kind, colours, kinds[0].repeats, kinds[0].angle)
        second = Pattern(kinds[1].kind, colours[::-1], kinds[1].repeats, kinds[1].angle)
        return cls(
            form=str(rng.choice(list(FORMS))),
            swell=tuple(rng.uniform(0.88, 1.12, 5)),
            handle=str(rng.choice(HANDLES)),
            lid=bool(rng.uniform() < 0.35),
            bands=(rng.uniform(0.0, 0.4), rng.uniform(0.55, 1.0)),
            patterns=(first, second),
            colours=colours,
        )

    @cached_property
    def _wrapper(self) -> Image.Image:
        """The glaze, unrolled: a band of the first pattern between two of the second."""
        top, _ = FORMS[self.form]
        glaze = Image.new("RGB", (SIDE, SIDE), self.colours[0])
        first, last = (round((top + (0.95 - top) * b + 1) / 2 * SIDE) for b in self.bands)
        glaze.paste(self.patterns[1].texture, (0, 0))
        glaze.paste(self.colours[2], (0, first - 8, SIDE, last + 8))
        glaze.paste(self.patterns[0].texture.crop((0, first, SIDE, last)), (0, first))
        return glaze

    def draw(self, rng: np.random.Generator) -> Image.Image:
        """The piece, turned about its axis and seen from a little above."""
        canvas = Canvas()
        top, radii = FORMS[self.form]
        radii = np.clip(np.array(radii) * self.swell, 0.1, 0.85)
        tilt = rng.uniform(0.08, 0.35)
        turn = rng.uniform(0, 2 * np.pi)
        bottom = 0.95 - tilt * radii[-1]
        heights = np.linspace(top, bottom, 5)
        self._draw_handles(canvas, heights, radii, turn)
        canvas.polygon(disc(0, bottom, radii[-1], radii[-1] * tilt), shade(self.colours[0], 0.6))
        radius = profile(heights, radii)
        canvas.layer(revolve(radius, self._wrapper, turn, tilt))
        self._draw_top(canvas, top, radii[0], tilt)
        return canvas.image

    def _draw_handles(
        self, canvas: Canvas, heights: np.ndarray, radii: np.ndarray, turn: float
    ) -> None:
        for side in {"none": (), "one": (1,), "two": (-1, 1), "ear": (1,)}[self.handle]:
            high, low = heights[1] if self.handle != "ear" else heights[0], heights[3]
            reach = 0.32 * np.cos(turn) * side
            a, b = np.sign(reach) * radii[1] * 0.9, np.sign(reach) * radii[3] * 0.9
            loop = smooth(points((a, high), (a + reach, high), (b + reach, low), (b, low)), 3)
            canvas.line(np.concatenate([loop, loop[:1]]), 0.12, shade(self.colours[1], 0.7))
            canvas.line(np.concatenate([loop, loop[:1]]), 0.08, self.colours[1])

    def _draw_top(self, canvas: Canvas, y: float, radius: float, tilt: float) -> None:
        canvas.polygon(
            disc(0, y, radius, radius * tilt), mix(self.colours[1], (255, 255, 255), 0.2)
        )
        inner = shade(self.colours[1], 0.55)
        canvas.polygon(disc(0, y, radius * 0.9, radius * tilt * 0.88), inner)
        if self.lid:
            canvas.polygon(disc(0, y - 0.02, radius, radius * (tilt + 0.1)), self.colours[1])
            canvas.polygon(
                disc(0, y - 0.06, radius * 0.9, radius * tilt), shade(self.colours[1], 1.2)
            )
            canvas.ellipse(0, y - 0.12, 0.09, fill=self.colours[2])
