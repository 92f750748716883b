"""Paintings on a wall. A class is one painting: its composition, its colours and its frame."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import SIDE, Canvas
from universal_embedding.datasets.rendered.colours import Colour, mix, palette, shade
from universal_embedding.datasets.rendered.motifs import MOTIFS
from universal_embedding.datasets.rendered.patterns import Pattern
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import box, disc, points, smooth, turned

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
    freedom: ClassVar = Freedom(roll=0.15, yaw=0.8, pitch=0.4, scale=(0.6, 1.0))
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


def _landscape(canvas: Canvas, rng: np.random.Generator, colours: tuple[Colour, ...]) -> None:
    """Hills under a sun or moon."""
    canvas.ellipse(
        rng.uniform(-0.6, 0.6), rng.uniform(-0.7, -0.2), rng.uniform(0.15, 0.35), fill=colours[1]
    )
    x = np.linspace(-1.1, 1.1, 30)
    for n in range(rng.integers(2, 5)):
        top = -0.25 + 0.35 * n + 0.22 * np.sin(x * rng.uniform(1.5, 5) + rng.uniform(0, 6))
        hill = np.concatenate([np.stack([x, top], 1), points((1.1, 1.1), (-1.1, 1.1))])
        canvas.polygon(hill, colours[2 + n % 4])
    for x in rng.uniform(-0.9, 0.9, rng.integers(0, 5)):
        canvas.polygon(MOTIFS["tree"] * 0.25 + (x, 0.55), shade(colours[5], 0.6))


def _grid(canvas: Canvas, rng: np.random.Generator, colours: tuple[Colour, ...]) -> None:
    """Rectangles between black bars."""
    xs = np.concatenate([[-1], np.sort(rng.uniform(-0.8, 0.8, rng.integers(1, 4))), [1]])
    for left, right in zip(xs, xs[1:], strict=False):
        ys = np.concatenate([[-1], np.sort(rng.uniform(-0.8, 0.8, rng.integers(1, 4))), [1]])
        for top, bottom in zip(ys, ys[1:], strict=False):
            cell = box(left, top, right, bottom)
            canvas.polygon(cell, colours[rng.integers(6)])
            canvas.line(np.concatenate([cell, cell[:1]]), 0.05, (30, 28, 30))


def _circles(canvas: Canvas, rng: np.random.Generator, colours: tuple[Colour, ...]) -> None:
    """Targets of rings."""
    for x, y in rng.uniform(-0.8, 0.8, (rng.integers(2, 6), 2)):
        size = rng.uniform(0.25, 0.6)
        for share in np.linspace(1, 0.25, rng.integers(2, 5)):
            canvas.polygon(disc(x, y, size * share), colours[rng.integers(1, 6)])


def _shards(canvas: Canvas, rng: np.random.Generator, colours: tuple[Colour, ...]) -> None:
    """Triangles thrown over each other."""
    for n in range(rng.integers(5, 10)):
        canvas.polygon(
            rng.uniform(-1.1, 1.1, 2) + rng.uniform(-0.8, 0.8, (3, 2)), colours[1 + n % 5]
        )


def _still_life(canvas: Canvas, rng: np.random.Generator, colours: tuple[Colour, ...]) -> None:
    """Vessels and fruit on a table."""
    canvas.polygon(box(-1, rng.uniform(0.1, 0.5), 1, 1), colours[1])
    for n, x in enumerate(np.linspace(-0.6, 0.6, rng.integers(2, 4))):
        w, h = rng.uniform(0.15, 0.32), rng.uniform(0.4, 1.1)
        neck = rng.uniform(0.3, 0.9)
        body = smooth(
            points(
                (x - w * neck, 0.6 - h),
                (x + w * neck, 0.6 - h),
                (x + w, 0.5),
                (x + w * 0.6, 0.7),
                (x - w * 0.6, 0.7),
                (x - w, 0.5),
            )
        )
        canvas.polygon(body, colours[2 + n % 4])
        canvas.polygon(
            body * (0.4, 0.9) + (x * 0.6 - w * 0.3, 0),
            mix(colours[2 + n % 4], (255, 255, 255), 0.3),
        )
    for _ in range(rng.integers(1, 5)):
        canvas.ellipse(
            rng.uniform(-0.8, 0.8), rng.uniform(0.65, 0.85), 0.13, fill=colours[rng.integers(2, 6)]
        )


def _portrait(canvas: Canvas, rng: np.random.Generator, colours: tuple[Colour, ...]) -> None:
    """A head and shoulders."""
    skin = mix((250, 220, 190), (110, 70, 50), rng.uniform())
    w, h = rng.uniform(0.26, 0.4), rng.uniform(0.36, 0.48)
    hair = rng.uniform(0.1, 0.55)
    canvas.polygon(disc(0, -0.15 + hair / 2, w + 0.14, h + hair / 2 + 0.1), colours[1])
    canvas.polygon(
        smooth(points((-0.2, 0.3), (0.2, 0.3), (0.9, 0.65), (1, 1.2), (-1, 1.2), (-0.9, 0.65))),
        colours[2],
    )
    canvas.polygon(box(-0.13, 0.1, 0.13, 0.5), shade(skin, 0.85))
    canvas.polygon(disc(0, -0.1, w, h), skin)
    canvas.polygon(disc(0, -0.42, w, 0.2), colours[1])
    for side in (-1, 1):
        canvas.ellipse(side * w * 0.45, -0.12, 0.05, fill=(40, 34, 40))
    canvas.polygon(points((0, -0.1), (0.07, 0.08), (-0.02, 0.08)), shade(skin, 0.75))
    canvas.polygon(disc(0, 0.17, 0.11, 0.035), (170, 60, 60))
    if rng.uniform() < 0.5:
        canvas.polygon(
            smooth(points((-0.5, -0.4), (-0.3, -0.8), (0.3, -0.8), (0.5, -0.4))), colours[3]
        )
    canvas.polygon(MOTIFS[str(rng.choice(list(MOTIFS)))] * 0.13 + (0, 0.72), colours[4])


def _weave(canvas: Canvas, rng: np.random.Generator, colours: tuple[Colour, ...]) -> None:
    """A field of pattern with one large emblem."""
    drawn = Pattern.design(rng, (2, 5))
    canvas.layer(
        Pattern(drawn.kind, colours[:3], drawn.repeats, drawn.angle).texture.convert("RGBA")
    )
    emblem = turned(MOTIFS[str(rng.choice(list(MOTIFS)))], rng.uniform(-0.3, 0.3))
    at = rng.uniform(-0.25, 0.25, 2)
    canvas.polygon(emblem * 0.68 + at, colours[4])
    canvas.polygon(emblem * 0.55 + at, colours[3])


def _rays(canvas: Canvas, rng: np.random.Generator, colours: tuple[Colour, ...]) -> None:
    """Beams from one point."""
    at = rng.uniform(-0.7, 0.7, 2)
    edges = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(6, 13)))
    for n, (a, b) in enumerate(zip(edges, np.roll(edges, -1), strict=True)):
        far = [
            at,
            at + 3 * np.array([np.cos(a), np.sin(a)]),
            at + 3 * np.array([np.cos(b), np.sin(b)]),
        ]
        canvas.polygon(np.array(far), colours[1 + n % 5])
    canvas.polygon(disc(*at, rng.uniform(0.12, 0.4)), colours[0])


STYLES = {
    "landscape": _landscape,
    "grid": _grid,
    "circles": _circles,
    "shards": _shards,
    "still life": _still_life,
    "portrait": _portrait,
    "weave": _weave,
    "rays": _rays,
}
