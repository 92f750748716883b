"""Paintings on a wall. A class is one painting: its composition, its colours and its frame."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import SIDE, Canvas
from universal_embedding.datasets.rendered.colours import Colour, palette, shade
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import box, points
from universal_embedding.datasets.rendered.things.compositions import STYLES

FRAMES: dict[str, Colour] = {
    "gold": (196, 156, 66),
    "black": (40, 38, 40),
    "white": (240, 238, 232),
    "walnut": (104, 66, 42),
    "silver": (176, 180, 186),
}


@dataclass(frozen=True)
class Painting:
    """One painting; see the module."""

    style: str
    seed: int
    colours: tuple[Colour, ...]
    frame: str
    border: float
    mount: float
    aspect: float

    places: ClassVar = (backgrounds.room, backgrounds.cloth, backgrounds.stone, backgrounds.plain)
    freedom: ClassVar = Freedom(roll=0.15, yaw=0.6, pitch=0.3, scale=(0.8, 1.05))
    size: ClassVar = (120, 120)

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Painting":
        """Draws a painting."""
        return cls(
            style=str(rng.choice(list(STYLES))),
            seed=int(rng.integers(2**31)),
            colours=palette(rng, 6),
            frame=str(rng.choice(list(FRAMES))),
            border=rng.uniform(0.04, 0.11),
            mount=float(rng.choice([0.0, 0.0, 0.09])),
            aspect=rng.uniform(0.65, 1.5),
        )

    @cached_property
    def _picture(self) -> Image.Image:
        canvas = Canvas()
        canvas.polygon(box(-1, -1, 1, 1), self.colours[0])
        STYLES[self.style](canvas, np.random.default_rng(self.seed), self.colours)
        return canvas.image

    def draw(self, rng: np.random.Generator) -> Image.Image:
        """The painting in its frame, now and then with the glare of a lamp."""
        canvas = Canvas()
        half = np.array([min(1.0, self.aspect), min(1.0, 1 / self.aspect)]) * 0.95
        wood = FRAMES[self.frame]
        canvas.polygon(box(*-half, *half), shade(wood, 0.75))
        canvas.polygon(box(*(0.01 - half), *(half - 0.01)), wood)
        canvas.polygon(
            box(*(self.border * 0.7 - half), *(half - self.border * 0.7)), shade(wood, 0.6)
        )
        inner = half - self.border
        canvas.polygon(box(*-inner, *inner), (244, 240, 230))
        canvas.quad(box(*(self.mount - inner), *(inner - self.mount)), self._picture)
        if rng.uniform() < 0.4:
            _glare(canvas, rng, inner)
        return canvas.image


def _glare(canvas: Canvas, rng: np.random.Generator, inner: np.ndarray) -> None:
    x, width = rng.uniform(-0.8, 0.8), rng.uniform(0.1, 0.3)
    over = Image.new("RGBA", (SIDE, SIDE), (255, 255, 255, 0))
    streak = Canvas()
    streak.textured(
        np.clip(
            points((x, -1), (x + width, -1), (x + width - 0.5, 1), (x - 0.5, 1)), -inner, inner
        ),
        Image.new("RGB", (SIDE, SIDE), (255, 255, 255)),
    )
    over.putalpha(streak.image.getchannel("A").point(lambda a: round(a * 0.3)))
    canvas.layer(over)
