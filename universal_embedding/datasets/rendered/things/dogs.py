"""Dogs, for the gallery. An instance is one dog: its build, ears, coat, patches and collar."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import Canvas
from universal_embedding.datasets.rendered.colours import PAINTS, WHITE, Colour, mix, shade
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import disc, points, smooth

COATS: tuple[Colour, ...] = (
    (196, 146, 88), (120, 78, 48), (62, 56, 56), (236, 222, 198), (160, 156, 152), (168, 92, 50),
)  # fmt: skip
NOSE: Colour = (36, 30, 32)


@dataclass(frozen=True)
class Dog:
    """One dog; see the module."""

    coat: Colour
    second: Colour
    collar: Colour
    pricked: bool
    ear: float
    leg: float
    bulk: float
    muzzle: float
    tail: float
    patches: tuple[tuple[float, float, float], ...]

    places: ClassVar = (backgrounds.meadow, backgrounds.room, backgrounds.street, backgrounds.bokeh)
    freedom: ClassVar = Freedom(roll=0.08, yaw=0.45, pitch=0.1, scale=(0.75, 1.05), mirror=True)
    size: ClassVar = (128, 112)

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Dog":
        """Draws a dog."""
        first, second = rng.permutation(len(COATS))[:2]
        collar = str(rng.choice(["red", "blue", "green", "yellow", "purple", "teal"]))
        spots = rng.uniform((-0.55, -0.12, 0.08), (0.35, 0.2, 0.2), (int(rng.integers(0, 5)), 3))
        return cls(
            coat=COATS[first],
            second=COATS[second],
            collar=PAINTS[collar],
            pricked=bool(rng.uniform() < 0.5),
            ear=rng.uniform(0.2, 0.36),
            leg=rng.uniform(0.25, 0.5),
            bulk=rng.uniform(0.2, 0.3),
            muzzle=rng.uniform(0.16, 0.34),
            tail=rng.uniform(0.25, 0.5),
            patches=tuple(tuple(s) for s in spots),
        )

    def draw(self, rng: np.random.Generator) -> Image.Image:
        """The dog from its side: standing or trotting, head up or down, tail where it likes."""
        canvas = Canvas()
        stride, floor = rng.uniform(-0.16, 0.16), 0.2 + self.leg + 0.1
        head = np.array([0.58, -0.42 + rng.uniform(-0.08, 0.2)])
        self._draw_legs(canvas, -stride, floor, shade(self.coat, 0.62))
        wag = rng.uniform(-1.0, 0.4)
        tail = points(
            (-0.6, 0.0), (-0.75, -0.08), (-0.7 - self.tail * np.cos(wag), self.tail * np.sin(wag))
        )
        canvas.line(tail, 0.1, shade(self.coat, 0.85))
        self._draw_trunk(canvas, head)
        self._draw_legs(canvas, stride, floor, self.coat)
        self._draw_head(canvas, head, tongue=rng.uniform() < 0.5)
        return canvas.image

    def _draw_legs(self, canvas: Canvas, stride: float, floor: float, colour: Colour) -> None:
        for x, swing in ((-0.52, stride), (0.34, -stride)):
            canvas.line(
                points((x, 0.05), (x + swing * 0.3, floor - 0.2), (x + swing, floor)), 0.13, colour
            )
            canvas.ellipse(x + swing + 0.04, floor, 0.1, 0.055, fill=mix(colour, self.second, 0.6))

    def _draw_trunk(self, canvas: Canvas, head: np.ndarray) -> None:
        b = self.bulk
        trunk = smooth(
            points(
                (-0.72, -b * 0.7),
                (0.3, -b * 0.9),
                (0.55, -b * 0.3),
                (0.5, b * 1.1),
                (0, b),
                (-0.5, b * 0.6),
                (-0.72, b * 0.5),
            ),
            3,
        )
        canvas.polygon(trunk, self.coat)
        for x, y, r in self.patches:
            canvas.polygon(smooth(disc(x, y * b * 4, r, r * 0.7, 9)), self.second)
        neck = points(
            (0.22, -b * 0.7),
            (head[0] - 0.1, head[1]),
            (head[0] + 0.1, head[1] + 0.1),
            (0.52, b * 0.4),
        )
        canvas.polygon(smooth(neck, 1), self.coat)
        middle = neck.mean(0)
        canvas.line(np.array([[-0.14, -0.1], [0.14, 0.06]]) + middle, 0.08, self.collar)
        canvas.ellipse(middle[0] + 0.13, middle[1] + 0.12, 0.045, fill=(230, 200, 90))

    def _draw_head(self, canvas: Canvas, at: np.ndarray, tongue: bool) -> None:
        x, y = at
        tip = x + 0.12 + self.muzzle
        canvas.polygon(disc(x, y, 0.21, 0.19), self.coat)
        if tongue:
            canvas.polygon(disc(tip - 0.1, y + 0.17, 0.04, 0.08), (226, 110, 120))
        snout = smooth(points((x, y - 0.07), (tip, y), (tip, y + 0.13), (x, y + 0.17)))
        canvas.polygon(snout, mix(self.coat, self.second, 0.7))
        canvas.ellipse(tip - 0.02, y + 0.02, 0.055, 0.045, fill=NOSE)
        canvas.ellipse(x + 0.07, y - 0.06, 0.04, fill=WHITE)
        canvas.ellipse(x + 0.08, y - 0.06, 0.03, fill=NOSE)
        ear = (
            points((-0.16, -0.1), (-0.12, -0.16 - self.ear), (0.04, -0.16))
            if self.pricked
            else smooth(points((-0.16, -0.14), (0.0, -0.16), (-0.02, self.ear), (-0.2, self.ear)))
        )
        canvas.polygon(ear + at, shade(self.second, 0.85))
