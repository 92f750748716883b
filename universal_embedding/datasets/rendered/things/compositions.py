"""What paintings show. Each covers a canvas, by a random generator and six colours."""

from itertools import pairwise

import numpy as np

from universal_embedding.datasets.rendered.canvas import Canvas
from universal_embedding.datasets.rendered.colours import Colour, mix, shade
from universal_embedding.datasets.rendered.motifs import MOTIFS
from universal_embedding.datasets.rendered.patterns import Pattern
from universal_embedding.datasets.rendered.shapes import box, disc, points, smooth, turned

Rng = np.random.Generator
Colours = tuple[Colour, ...]


def _landscape(canvas: Canvas, rng: Rng, colours: Colours) -> None:
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


def _grid(canvas: Canvas, rng: Rng, colours: Colours) -> None:
    """Rectangles between black bars."""
    xs = np.concatenate([[-1], np.sort(rng.uniform(-0.8, 0.8, rng.integers(1, 4))), [1]])
    for left, right in pairwise(xs):
        ys = np.concatenate([[-1], np.sort(rng.uniform(-0.8, 0.8, rng.integers(1, 4))), [1]])
        for top, bottom in pairwise(ys):
            cell = box(left, top, right, bottom)
            canvas.polygon(cell, colours[rng.integers(6)])
            canvas.line(np.concatenate([cell, cell[:1]]), 0.05, (30, 28, 30))


def _circles(canvas: Canvas, rng: Rng, colours: Colours) -> None:
    """Targets of rings."""
    for x, y in rng.uniform(-0.8, 0.8, (rng.integers(2, 6), 2)):
        size = rng.uniform(0.25, 0.6)
        for share in np.linspace(1, 0.25, rng.integers(2, 5)):
            canvas.polygon(disc(x, y, size * share), colours[rng.integers(1, 6)])


def _shards(canvas: Canvas, rng: Rng, colours: Colours) -> None:
    """Triangles thrown over each other."""
    for n in range(rng.integers(5, 10)):
        canvas.polygon(
            rng.uniform(-1.1, 1.1, 2) + rng.uniform(-0.8, 0.8, (3, 2)), colours[1 + n % 5]
        )


def _still_life(canvas: Canvas, rng: Rng, colours: Colours) -> None:
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


def _portrait(canvas: Canvas, rng: Rng, colours: Colours) -> None:
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


def _weave(canvas: Canvas, rng: Rng, colours: Colours) -> None:
    """A field of pattern with one large emblem."""
    drawn = Pattern.design(rng, (2, 5))
    canvas.layer(
        Pattern(drawn.kind, colours[:3], drawn.repeats, drawn.angle).texture.convert("RGBA")
    )
    emblem = turned(MOTIFS[str(rng.choice(list(MOTIFS)))], rng.uniform(-0.3, 0.3))
    at = rng.uniform(-0.25, 0.25, 2)
    canvas.polygon(emblem * 0.68 + at, colours[4])
    canvas.polygon(emblem * 0.55 + at, colours[3])


def _rays(canvas: Canvas, rng: Rng, colours: Colours) -> None:
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
