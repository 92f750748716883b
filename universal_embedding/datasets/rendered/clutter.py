"""Things that stand in front of the object and hide a part of it."""

import numpy as np

from universal_embedding.datasets.rendered.canvas import Canvas
from universal_embedding.datasets.rendered.colours import hsv, shade
from universal_embedding.datasets.rendered.motifs import MOTIFS
from universal_embedding.datasets.rendered.shapes import disc, points, turned

Rng = np.random.Generator


def _edge_point(rng: Rng) -> np.ndarray:
    """A point near the border of the canvas."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.85, 1.1)


def pebbles(canvas: Canvas, rng: Rng) -> None:
    """A few round things: stones, coins, berries."""
    centre, colour = _edge_point(rng), hsv(rng.uniform(), rng.uniform(0, 0.8), rng.uniform(0.2, 1))
    for x, y in centre + rng.normal(0, 0.16, (rng.integers(2, 6), 2)):
        r = rng.uniform(0.04, 0.12)
        canvas.ellipse(x, y + 0.02, r, r * 0.9, fill=shade(colour, 0.7))
        canvas.ellipse(x, y, r, r * 0.9, fill=colour)
        canvas.ellipse(x - r * 0.3, y - r * 0.3, r * 0.3, fill=shade(colour, 1.3))


def branch(canvas: Canvas, rng: Rng) -> None:
    """A twig with leaves, reaching in from the border."""
    green = hsv(rng.uniform(0.15, 0.45), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.7))
    start = _edge_point(rng) * 1.4
    path = start + (rng.normal(0, 0.3, 2) - start) * np.linspace(0, 0.55, 6)[:, None]
    canvas.line(path, 0.035, shade(green, 0.6))
    leaf = MOTIFS["leaf"] * rng.uniform(0.1, 0.2)
    for x, y in path[1:]:
        canvas.polygon(
            turned(leaf, rng.uniform(0, 6.3)) + np.array([x, y]),
            shade(green, rng.uniform(0.8, 1.3)),
        )


def stick(canvas: Canvas, rng: Rng) -> None:
    """A pencil, spoon or pole across a corner."""
    colour = hsv(rng.uniform(), rng.uniform(0, 0.7), rng.uniform(0.3, 1))
    along = turned(points((-0.6, 0), (0.6, 0)), rng.uniform(0, 6.3)) + _edge_point(rng)
    width = rng.uniform(0.04, 0.09)
    canvas.line(along + 0.015, width, shade(colour, 0.6))
    canvas.line(along, width * 0.8, colour)
    canvas.ellipse(*along[0], width * rng.uniform(0.5, 1.6), fill=colour)


def cup(canvas: Canvas, rng: Rng) -> None:
    """A cup from above."""
    x, y = _edge_point(rng)
    colour = hsv(rng.uniform(), rng.uniform(0, 0.6), rng.uniform(0.5, 1))
    for radius, light in ((0.26, 0.8), (0.24, 1.1), (0.19, 0.6), (0.17, 0.4)):
        canvas.polygon(disc(x, y, radius), shade(colour, light))


def card(canvas: Canvas, rng: Rng) -> None:
    """A card or a price tag with a few lines of writing."""
    centre, angle = _edge_point(rng), rng.uniform(-0.7, 0.7)
    colour = hsv(rng.uniform(), rng.uniform(0, 0.5), rng.uniform(0.7, 1))
    w, h = rng.uniform(0.15, 0.32, 2)
    canvas.polygon(turned(points((-w, -h), (w, -h), (w, h), (-w, h)), angle) + centre, colour)
    for row in np.linspace(-0.6, 0.6, 4) * h:
        line = points((-w * 0.7, row), (w * rng.uniform(-0.2, 0.7), row))
        canvas.line(turned(line, angle) + centre, 0.02, shade(colour, 0.5))


def ribbon(canvas: Canvas, rng: Rng) -> None:
    """A band hanging through the picture's side."""
    x = rng.choice([-1, 1]) * rng.uniform(0.7, 0.95)
    y = np.linspace(-1.1, 1.1, 16)
    sway = 0.07 * np.sin(y * rng.uniform(2, 6) + rng.uniform(0, 6))
    colour = hsv(rng.uniform(), rng.uniform(0.3, 0.9), rng.uniform(0.4, 1))
    path = np.stack([x + sway, y], 1)
    if rng.uniform() < 0.5:
        path = path[:, ::-1]
    canvas.line(path, rng.uniform(0.04, 0.1), colour)


KINDS = (pebbles, branch, stick, cup, card, ribbon)


def clutter(rng: Rng) -> Canvas:
    """Up to two things along the border."""
    canvas = Canvas()
    for _ in range(rng.integers(0, 3)):
        KINDS[rng.integers(len(KINDS))](canvas, rng)
    return canvas
