"""Packages: printed cartons. A class is one product: brand, layout, emblem, colours and shape."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import Canvas
from universal_embedding.datasets.rendered.colours import Colour, mix, palette, shade
from universal_embedding.datasets.rendered.motifs import MOTIFS
from universal_embedding.datasets.rendered.names import names
from universal_embedding.datasets.rendered.patterns import Pattern
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import TURN, box, disc, points, turned

LAYOUTS = ("band", "diagonal", "circle", "halves", "frame", "arch", "pattern")
EYE = 5.0  # distance of the camera from the carton's middle


@dataclass(frozen=True)
class Package:
    """One product's carton; see the module."""

    brand: str
    layout: str
    motif: str
    count: int
    colours: tuple[Colour, Colour, Colour, Colour]
    pattern: Pattern
    size3: tuple[float, float, float]

    places: ClassVar = (backgrounds.shelf, backgrounds.shelf, backgrounds.room, backgrounds.cloth)
    freedom: ClassVar = Freedom(roll=0.25, yaw=0.1, pitch=0.1, scale=(0.85, 1.12))
    size: ClassVar = (112, 128)

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Package":
        """Draws a product."""
        colours = palette(rng, 4)
        drawn = Pattern.design(rng, (4, 8))
        width = rng.uniform(0.42, 0.8)
        return cls(
            brand=names(rng, 1)[0].upper(),
            layout=str(rng.choice(LAYOUTS)),
            motif=str(rng.choice(list(MOTIFS))),
            count=int(rng.choice([1, 1, 2, 3, 5])),
            colours=colours,
            pattern=Pattern(
                drawn.kind, (colours[0], colours[1], colours[2]), drawn.repeats, drawn.angle
            ),
            size3=(width, rng.uniform(0.55, 0.95), width * rng.uniform(0.35, 0.9)),
        )

    @cached_property
    def _front(self) -> Image.Image:
        """The printed front."""
        base, second, third, ink = self.colours
        print_ = Canvas()
        print_.polygon(box(-1, -1, 1, 1), base)
        if self.layout == "pattern":
            print_.layer(self.pattern.texture.convert("RGBA"))
            print_.polygon(box(-0.8, -0.85, 0.8, -0.2), third)
        if self.layout == "band":
            print_.polygon(box(-1, -0.1, 1, 0.75), second)
        if self.layout == "diagonal":
            print_.polygon(points((-1, 0.4), (1, -0.4), (1, 1), (-1, 1)), second)
            print_.polygon(points((-1, 0.3), (1, -0.5), (1, -0.35), (-1, 0.45)), third)
        if self.layout == "circle":
            print_.polygon(disc(0, 0.25, 0.85, 0.62), second)
        if self.layout == "halves":
            print_.polygon(box(0, -1, 1, 1), second)
        if self.layout == "frame":
            print_.polygon(box(-0.86, -0.9, 0.86, 0.9), second)
        if self.layout == "arch":
            print_.polygon(disc(0, 1.0, 1.0, 1.2), second)
        reach = 0.45 if self.count == 1 else 0.24
        for n in range(self.count):
            ring = turned(points((0, 0 if self.count == 1 else -0.36)), TURN * n / self.count)
            print_.polygon(MOTIFS[self.motif] * reach + ring + (0, 0.3), third)
        self._letter(print_.image, ink if self.layout != "pattern" else base)
        return print_.image

    def _letter(self, image: Image.Image, ink: Colour) -> None:
        pen = ImageDraw.Draw(image)
        font = ImageFont.load_default(62 if len(self.brand) < 6 else 50)
        pale = mix(ink, (255, 255, 255), 0.85) if sum(self.colours[0]) < 380 else shade(ink, 0.5)
        pen.text((128, 60), self.brand, pale, font, anchor="mm", stroke_width=1)
        for y in (218, 228, 238):
            pen.line((60, y, 196 - 3 * (y % 20), y), pale, 3)

    @cached_property
    def _side(self) -> Image.Image:
        """The printed side: the pattern over a plain foot."""
        side = self.pattern.texture.copy()
        side.paste(self.colours[1], (0, 0, 256, 70))
        side.paste(shade(self.colours[0], 0.9), (0, 190, 256, 256))
        return side

    def draw(self, rng: np.random.Generator) -> Image.Image:
        """The carton in perspective: its front, one side, and its top or bottom."""
        w, h, d = self.size3
        yaw, pitch = rng.uniform(-0.8, 0.8), rng.uniform(-0.15, 0.5)
        corner = np.array([[x, y, z] for z in (-d, d) for y in (-h, h) for x in (-w, w)])
        seen = _project(corner, yaw, pitch)
        canvas = Canvas()
        # Corner numbers: 4 for far, 2 for low, 1 for right.
        lid = (4, 5, 1, 0) if pitch > 0 else (2, 3, 7, 6)
        side = (1, 5, 7, 3) if yaw > 0 else (4, 0, 2, 6)
        canvas.quad(seen[list(lid)], Image.new("RGB", (32, 32), shade(self.colours[2], 1.1)))
        canvas.quad(seen[list(side)], ImageEnhance.Brightness(self._side).enhance(0.72))
        canvas.quad(seen[[0, 1, 3, 2]], self._front)
        return canvas.image


def _project(corner: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
    """`[N, 3]` points, turned, as the camera sees them: `[N, 2]`."""
    x, y, z = corner.T
    x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
    y, z = y * np.cos(pitch) + z * -np.sin(pitch), z * np.cos(pitch) + y * np.sin(pitch)
    near = 0.85 * EYE / (EYE + z)
    return np.stack([x * near, y * near], 1)
