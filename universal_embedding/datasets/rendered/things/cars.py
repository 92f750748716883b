"""Cars. A class is one car: its body's outline, paint, livery, windows and wheels."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import Canvas
from universal_embedding.datasets.rendered.colours import INK, WHITE, Colour, mix, palette, shade
from universal_embedding.datasets.rendered.motifs import MOTIFS
from universal_embedding.datasets.rendered.patterns import Pattern
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import TURN, box, disc, points, smooth, turned
from universal_embedding.datasets.rendered.things.bodies import BODIES, FLOOR

LIVERIES = ("plain", "two-tone", "stripe", "pattern", "roof", "motif", "nose")
EXTRAS = ("nothing", "rack", "spoiler", "sign", "lamps")


@dataclass(frozen=True)
class Car:
    """One car; see the module."""

    body: str
    length: float
    paint: Colour
    second: Colour
    third: Colour
    livery: str
    pattern: Pattern
    motif: str
    spokes: int
    wheel: float
    extra: str

    places: ClassVar = (backgrounds.street, backgrounds.meadow, backgrounds.room, backgrounds.bokeh)
    freedom: ClassVar = Freedom(roll=0.1, yaw=0.45, pitch=0.12, scale=(0.97, 1.25), mirror=True)
    size: ClassVar = (128, 96)

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Car":
        """Draws a car."""
        paint, second, third = palette(rng, 3)
        return cls(
            body=str(rng.choice(list(BODIES))),
            length=rng.uniform(0.82, 1.0),
            paint=paint,
            second=second,
            third=third,
            livery=str(rng.choice(LIVERIES)),
            pattern=Pattern(
                Pattern.design(rng).kind, (paint, second, third), rng.uniform(5, 9), 0.0
            ),
            motif=str(rng.choice(list(MOTIFS))),
            spokes=int(rng.integers(0, 8)),
            wheel=rng.uniform(0.16, 0.24),
            extra=str(rng.choice(EXTRAS)),
        )

    def draw(self, rng: np.random.Generator) -> Image.Image:
        """The car from its side, the camera a little above or before it."""
        canvas = Canvas()
        body = BODIES[self.body]
        stretch = np.array([self.length, 1.0])
        outline = smooth(points(*body.roof, (0.95, FLOOR), (-0.95, FLOOR)), 1) * stretch
        depth = np.array([rng.uniform(-0.12, 0.12), -rng.uniform(0.04, 0.16)])
        self._draw_wheels(canvas, depth * 0.8, far=True, turn=0)
        for share in np.linspace(1, 0, 8):
            canvas.polygon(outline + depth * share, shade(self._top, 0.75 + 0.3 * (share < 0.6)))
        self._draw_extra(canvas, outline, depth)
        side = Canvas()
        side.polygon(outline, self.paint)
        self._draw_livery(side)
        canvas.layer(side.image)
        self._draw_windows(canvas, body.glass * stretch, body.panes, rng.uniform(0.4, 1.0))
        self._draw_trim(canvas)
        self._draw_wheels(canvas, np.zeros(2), far=False, turn=rng.uniform(0, TURN))
        return canvas.image

    @property
    def _top(self) -> Colour:
        return self.second if self.livery == "roof" else self.paint

    def _draw_livery(self, canvas: Canvas) -> None:
        over = Canvas()
        if self.livery == "two-tone":
            over.polygon(box(-1, 0.08, 1, 0.5), self.second)
            over.polygon(box(-1, 0.06, 1, 0.1), self.third)
        if self.livery == "stripe":
            over.polygon(box(-1, -0.06, 1, 0.05), self.second)
            over.polygon(box(-1, 0.08, 1, 0.14), self.third)
        if self.livery == "roof":
            over.polygon(box(-1, -1, 1, -0.14), self.second)
        if self.livery == "nose":
            over.polygon(points((0.3, -1), (1, -1), (1, 1), (0.05, 1)), self.second)
            over.polygon(points((0.22, -1), (0.3, -1), (0.05, 1), (-0.03, 1)), self.third)
        if self.livery == "pattern":
            over.layer(self.pattern.texture.convert("RGBA"))
        if self.livery == "motif":
            over.polygon(box(-1, 0.2, 1, 0.5), self.third)
            over.polygon(MOTIFS[self.motif] * 0.24 + (-0.2, 0.02), self.second)
        canvas.stencil(over)

    def _draw_windows(self, canvas: Canvas, glass: np.ndarray, panes: int, sky: float) -> None:
        canvas.polygon((glass - glass.mean(0)) * 1.08 + glass.mean(0), shade(self.paint, 0.5))
        tint = mix((36, 50, 66), (170, 205, 225), sky)
        canvas.polygon(glass, tint)
        shine = glass.mean(0) + (glass - glass.mean(0)) * (0.3, 0.95)
        canvas.polygon(shine, mix(tint, WHITE, 0.25))
        left, right = glass[:, 0].min(), glass[:, 0].max()
        for x in np.linspace(left, right, panes + 1)[1:-1]:
            canvas.line(points((x, glass[:, 1].min()), (x, glass[:, 1].max())), 0.04, self._top)

    def _draw_trim(self, canvas: Canvas) -> None:
        end = 0.93 * self.length
        canvas.polygon(box(-end, FLOOR - 0.06, end, FLOOR + 0.01), shade(self.paint, 0.45))
        canvas.ellipse(end - 0.03, 0.1, 0.05, 0.065, fill=(255, 244, 190))
        canvas.polygon(box(-end - 0.01, 0.06, -end + 0.06, 0.16), (190, 30, 36))
        canvas.line(points((-0.12, 0.06), (0.0, 0.06)), 0.025, shade(self.paint, 0.4))

    def _draw_wheels(self, canvas: Canvas, at: np.ndarray, far: bool, turn: float) -> None:
        for x in (-0.56 * self.length, 0.58 * self.length):
            x, y = np.array([x, FLOOR]) + at
            if not far:
                canvas.ellipse(x, y - 0.02, self.wheel * 1.15, fill=shade(self.paint, 0.35))
            canvas.ellipse(x, y, self.wheel, fill=(34, 34, 38))
            if far:
                continue
            canvas.ellipse(x, y, self.wheel * 0.66, fill=(206, 208, 212))
            if self.spokes < 3:
                canvas.ellipse(x, y, self.wheel * 0.45, fill=self.third)
            else:
                rim = MOTIFS["disc"] * self.wheel * 0.2
                for n in range(self.spokes):
                    hole = turned(points((0, self.wheel * 0.4)), turn + TURN * n / self.spokes)
                    canvas.polygon(rim * 0.8 + hole + (x, y), (60, 62, 68))
            canvas.polygon(disc(x, y, self.wheel * 0.14), INK)

    def _draw_extra(self, canvas: Canvas, outline: np.ndarray, depth: np.ndarray) -> None:
        top = outline[:, 1].min()
        x = outline[np.abs(outline[:, 1] - top) < 0.06, 0].mean() + depth[0] / 2
        y = top + depth[1] / 2
        if self.extra == "rack":
            canvas.polygon(box(x - 0.25, y - 0.12, x + 0.22, y - 0.02), self.third)
            canvas.polygon(box(x - 0.1, y - 0.2, x + 0.2, y - 0.1), shade(self.second, 0.8))
        if self.extra == "spoiler":
            rear = -0.86 * self.length
            canvas.line(points((rear + 0.05, 0.0), (rear, -0.34)), 0.05, shade(self.second, 0.7))
            canvas.line(points((rear - 0.1, -0.36), (rear + 0.16, -0.32)), 0.07, self.second)
        if self.extra == "sign":
            canvas.polygon(box(x - 0.14, y - 0.14, x + 0.14, y), self.second)
            canvas.polygon(MOTIFS[self.motif] * 0.06 + (x, y - 0.07), WHITE)
        if self.extra == "lamps":
            for dx, colour in ((-0.15, (230, 60, 50)), (0, WHITE), (0.15, (60, 90, 230))):
                canvas.ellipse(x + dx, y - 0.03, 0.07, fill=colour)
