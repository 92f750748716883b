"""Cars and towers."""

from itertools import pairwise

import numpy as np

from examples.demo_data.canvas import (  # isort: skip
    DISC, FRAME, INK, MOTIFS, TURN, Color, Draw, Rng, Shapes, box, choice, disc, fill,
    make_pattern, mirror, mix, palette, rotate, shade, smooth, star,
)  # fmt: skip

FLOOR = 0.34  # of a car's body


def design_car(rng: Rng) -> Draw:
    """Samples a car: its body, windows, paint, livery and wheels."""
    paint, second, accent = colors = palette(rng, 3)
    rear, top, trunk, hood = rng.uniform((-0.9, -0.72, 0, 0.1), (-0.3, -0.36, 0.3, 0.35))
    front, width = min(rear + rng.uniform(0.4, 1.5), 0.7), (rng.uniform(0.82, 1), 1)
    cabin = [(max(rear - trunk, -0.93), -0.1), (rear, top), (front, top), (front + hood, -0.1)]
    hull = [(-0.95, 0), *cabin, (0.88, -0.04), (0.96, 0.1), (0.95, FLOOR), (-0.95, FLOOR)]
    body, glass = smooth(hull, 1) * width, np.array(cabin) * width
    middle, pillars = glass.mean(0), np.linspace(*glass[[0, 3], 0], rng.integers(3, 7))[1:-1]
    rear, front = body[:, 0].min(), body[:, 0].max()
    wheel, spokes = rng.uniform(0.16, 0.24), star(rng.integers(3, 9), 0.3) * 0.6
    axles = np.array([(-0.56, FLOOR), (0.58, FLOOR)]) * width
    pattern, motif = make_pattern(rng, colors, (5, 9)), choice(rng, MOTIFS) * 0.24
    livery = fill([(FRAME, paint), *choice(rng, (
        [(box(-1, -0.06, 1, 0.05), second), (box(-1, 0.08, 1, 0.14), accent)],
        [(box(-1, 0.2, 1, 1), accent), (motif + (-0.15, 0.06), second)],
        [([(0.22, -1), (1, -1), (1, 1), (-0.03, 1)], second)],
        [(box(-1, 0.06, 1, 1), second)], [(FRAME, pattern)], [],
    ))])  # fmt: skip

    def draw(rng: Rng) -> Shapes:
        depth, turn = rng.uniform((-0.12, -0.16), (0.12, -0.04)), rng.uniform(0, TURN)
        tint = mix((36, 50, 66), (170, 205, 225), rng.uniform(0.4, 1))
        yield from ((DISC * wheel + axle + depth * 0.8, INK) for axle in axles)
        for n in range(8, 0, -1):  # the roof or the hood, seen from above
            yield body + depth * n / 8, shade(paint, 1.05 if n < 5 else 0.75)
        yield body, livery
        for size, color in ((0.88, INK), (0.8, tint), ((0.3, 0.74), shade(tint, 1.2))):
            yield (glass - middle) * size + middle, color
        yield from ((box(x - 0.02, glass[1, 1], x + 0.02, -0.1), paint) for x in pillars)
        yield box(rear, FLOOR - 0.06, front, FLOOR + 0.01), shade(paint, 0.45)
        yield disc(front - 0.06, 0.1, 0.05, 0.065), (255, 244, 190)
        yield box(rear, 0.06, rear + 0.06, 0.16), (190, 30, 36)
        tire = [(DISC * 1.15, shade(paint, 0.35)), (DISC, INK), (DISC * 0.66, (206, 208, 212))]
        for outline, color in (*tire, (rotate(spokes, turn), accent)):
            yield from ((outline * wheel + axle, color) for axle in axles)

    return draw


ROOFS = (  # of half width 1 and height 1, over y = 0
    mirror([(0, -1), (0.25, -0.45), (1.1, 0)]),
    smooth(mirror([(0, -1), (0.9, -0.85), (1.05, 0)])),
    smooth(mirror([(0, -1), (0.15, -0.65), (1.3, -0.4), (1, 0)])),
    mirror([(0.22, -0.7), (0.22, -0.35), (0.66, -0.35), (0.66, -0.7), (1.1, -0.7), (1.1, 0)]),
)


def design_tower(rng: Rng) -> Draw:
    """Samples a landmark: its tiers, windows, roof, finial and colors."""
    *walls, cover, trim = palette(rng, 4)
    crown = rng.uniform(0.3, 0.55)
    heights = np.cumsum([0, *rng.uniform(0.5, 1.5, rng.integers(2, 5))])
    width, tiers = rng.uniform(0.3, 0.58), []
    for low, high in pairwise(0.97 - (1.82 - crown) * heights / heights[-1]):
        head, window = width * rng.uniform(0.72, 1), choice(rng, MOTIFS)
        columns, rows = rng.integers(1, (5, 4))
        radius = min(head / (columns + 0.7) * 0.55, (low - high) / rows * 0.34)
        x = head * 0.92 * (np.arange(1, 2 * columns, 2) / columns - 1)
        y = high + (low - high) * (np.arange(rows) + 0.55) / rows
        panes = [window * radius + center for center in np.dstack(np.meshgrid(x, y)).reshape(-1, 2)]
        tiers.append((mirror([(head, high), (width, low)]), choice(rng, walls), panes))
        width = head * rng.uniform(0.68, 1.1)
    roof, finial = choice(rng, ROOFS) * (head, crown) + (0, high), choice(rng, MOTIFS) * 0.08
    tip = high - crown - 0.06

    def draw(rng: Rng) -> Shapes:
        edge, clip = rng.uniform(-0.7, 0.7) * head, choice(rng, (np.maximum, np.minimum))
        pane = choice(rng, ((255, 226, 140), (52, 58, 74), (52, 58, 74)))

        def build(outline: np.ndarray, color: Color) -> Shapes:
            """Darkens one side of the edge."""
            dark = np.stack([clip(outline[:, 0], edge), outline[:, 1]], 1)
            return [(outline, color), (dark, shade(color, 0.68))]

        for tier, wall, panes in tiers:
            x, y = tier[0] * (1.08, 1)
            yield from (*build(tier, wall), *((outline, pane) for outline in panes))
            yield box(-x, y - 0.02, x, y + 0.035), trim
        yield from ((box(-0.012, tip, 0.012, high), trim), (finial + (0, tip), trim))
        yield from build(roof, cover)

    return draw
