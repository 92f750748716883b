"""Garments, packages, paintings and vessels."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from examples.demo_data.canvas import (  # isort: skip
    FRAME, INK, MOTIFS, SIDE, TREE, TURN, WHITE, Color, Draw, Rng, Shapes, box, choice, disc,
    fill, make_pattern, mirror, palette, rotate, shade, to_pixels, warp,
)  # fmt: skip

# Right half of the outline from the neck down, and length of the sleeves.
CUTS = (
    ([(0.16, -0.8), (0.48, -0.66), (0.42, -0.2), (0.44, 0.75)], 0.6),  # shirt
    ([(0.22, -0.82), (0.34, -0.8), (0.3, -0.4), (0.42, 0.75)], 0),  # vest
    ([(0.18, -0.88), (0.38, -0.8), (0.28, -0.15), (0.66, 0.92)], 0.35),  # dress
    ([(0.32, -0.6), (0.36, -0.45), (0.72, 0.65)], 0),  # skirt
    ([(0.36, -0.88), (0.42, -0.3), (0.46, 0.92), (0.14, 0.92), (0.02, -0.1)], 0),  # trousers
)


def design_garment(rng: Rng) -> Draw:
    """Samples a garment: its cut, cloth, neck, print and buttons."""
    *colors, trim, accent = palette(rng, 5)
    half, sleeve = choice(rng, CUTS)
    sleeve *= rng.uniform(0.6, 1.4)
    half = np.array(half) * (rng.uniform(0.88, 1.12), 1)
    body, (x, y), low = mirror(half), half[0], half[-1, 1]
    motif, dark = choice(rng, MOTIFS), shade(colors[0], 0.5)
    texture = fill([
        (FRAME, choice(rng, (make_pattern(rng, colors, (4, 12)), colors[0]))),
        *choice(rng, (
            [(motif * 0.11 + (0, n), accent) for n in (-0.35, -0.03, 0.29)],
            [(disc(0, -0.1, 0.28), trim), (motif * 0.22 + (0, -0.1), accent)],
            [(box(n, 0.12, n + 0.2, 0.42), trim) for n in (-0.3, 0.1)],
            [(box(-1, -0.2, 1, -0.1), trim), (box(-1, -0.05, 1, 0.05), accent)],
            [(box(-1, low - 0.2, 1, 1), trim)], [(box(-1, -1, 1, -0.45), trim)], [],
        )),
    ])  # fmt: skip
    deep, buttons = choice(rng, (0.16, 0.4)), np.linspace(-0.4, 0.45, choice(rng, (0, 0, 3, 5)))
    opening = mirror([(x, y - 0.01), (x * 0.6, y + deep * 0.7), (0, y + deep)])
    neck = [(opening * (1.15, 1) + (0, 0.035), trim), (opening, dark)]
    waist = [(box(-x, y - 0.03, x, y + 0.09), trim)]

    def draw(rng: Rng) -> Shapes:
        spread = rng.uniform(0.45, 1.4)
        for side in (-1, 1) if sleeve else ():
            angle = spread + rng.uniform(-0.15, 0.15)
            for reach, paint in ((sleeve, trim), (sleeve - 0.09, texture)):
                arm = rotate(box(0, -0.15, reach, 0.15), angle) + (half[1, 0] * 0.78, -0.6)
                yield arm * (side, 1), paint
        yield from ((body * 1.015, dark), (body, texture), *(neck if x < 0.3 else waist))
        yield from ((disc(0, n, 0.04), accent) for n in buttons)

    return draw


def design_package(rng: Rng) -> Draw:
    """Samples a printed carton: its shape, brand, layout, emblem and colors."""
    base, second, third, cover = colors = palette(rng, 4)
    half_size = rng.uniform((0.42, 0.55, 0.2), (0.8, 0.95, 0.6))
    count, motif = choice(rng, (1, 1, 2, 3, 5)), choice(rng, MOTIFS)
    emblem = motif * 0.45 if count == 1 else motif * 0.24 + (0, -0.36)
    front = fill([
        (FRAME, base),
        (choice(rng, (
            box(-1, -0.1, 1, 0.75), box(0, -1, 1, 1), [(-1, 0.4), (1, -0.4), (1, 1), (-1, 1)],
            disc(0, 0.3, 0.85, 0.6), disc(0, 1, 1, 1.2), box(-0.86, -0.9, 0.86, 0.9),
        )), second),
        *((rotate(emblem, TURN * n / count) + (0, 0.3), third) for n in range(count)),
        (box(-0.9, -0.85, 0.9, -0.25), base),
    ])  # fmt: skip
    syllables = ("BA", "CO", "DA", "FE", "GO", "LU", "MA", "NO", "RI", "SA", "TO", "VE", "ZO")
    brand = "".join(rng.permutation(syllables)[: rng.integers(2, 4)])
    font = ImageFont.load_default(74 if len(brand) < 5 else 54)
    ink = WHITE if sum(base) < 380 else INK
    ImageDraw.Draw(front).text((SIDE / 2, 60), brand, ink, font, anchor="mm", stroke_width=1)
    flank = make_pattern(rng, [shade(color, 0.7) for color in colors[:3]], (4, 8))

    def draw(rng: Rng) -> Shapes:
        yaw, pitch = rng.uniform((-0.8, -0.15), (0.8, 0.5))
        z, y, x = (np.indices((2, 2, 2)).reshape(3, 8) * 2 - 1) * half_size[::-1, None]
        x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
        y, z = y * np.cos(pitch) - z * np.sin(pitch), z * np.cos(pitch) + y * np.sin(pitch)
        corners = (np.array([x, y]) * 4.25 / (5 + z)).T
        yield corners[[4, 5, 1, 0] if pitch > 0 else [2, 3, 7, 6]], cover
        side = corners[[1, 5, 7, 3] if yaw > 0 else [4, 0, 2, 6]]
        for face, image in ((side, flank), (corners[[0, 1, 3, 2]], front)):
            yield face, warp(image, to_pixels(face), image.size)

    return draw


def _landscape(rng: Rng, colors: list[Color]) -> Shapes:
    yield disc(*rng.uniform((-0.6, -0.7, 0.15), (0.6, -0.2, 0.35))), colors[1]
    x = np.linspace(-1, 1, 30)
    for n, (frequency, phase) in enumerate(rng.uniform(1.5, 6, (3, 2))):
        ridge = 0.35 * n - 0.25 + 0.22 * np.sin(x * frequency + phase)
        yield [(-1, 1), *np.stack([x, ridge], 1), (1, 1)], colors[2 + n]
    for x in rng.uniform(-0.9, 0.9, rng.integers(0, 5)):
        yield TREE * 0.25 + (x, 0.55), colors[5]


def _mosaic(rng: Rng, colors: list[Color]) -> Shapes:
    for y in (-1, *np.sort(rng.uniform(-0.8, 0.7, 3))):
        for x in (-1, *np.sort(rng.uniform(-0.8, 0.8, rng.integers(1, 4)))):
            yield box(x - 0.04, y - 0.04, 1, 1), INK
            yield box(x, y, 1, 1), choice(rng, colors)


def _rays(rng: Rng, colors: list[Color]) -> Shapes:
    x, y, size = rng.uniform((-0.7, -0.7, 0.12), (0.7, 0.7, 0.4))
    for n, angle in enumerate(np.sort(rng.uniform(0, TURN, rng.integers(6, 13)))):
        yield rotate([(0, 0), (-1, 3), (1, 3)], angle) + (x, y), colors[n % 5]
    yield disc(x, y, size), colors[5]


def design_painting(rng: Rng) -> Draw:
    """Samples a painting: its composition, colors and frame."""
    compose = choice(rng, (_landscape, _mosaic, _rays))
    colors, border, aspect = palette(rng, 6), *rng.uniform((0.04, 0.65), (0.11, 1.5))
    art = fill([(FRAME, colors[0]), *compose(rng, colors)])
    frame = choice(rng, ((196, 156, 66), INK, WHITE, (104, 66, 42), (176, 180, 186)))
    outer = FRAME * np.array([min(1, aspect), min(1, 1 / aspect)]) * 0.95
    inner = outer - FRAME * border
    groove, canvas = outer - FRAME * 0.7 * border, warp(art, to_pixels(inner), art.size)
    mount = inner - FRAME * choice(rng, (0, 0.09))
    shapes = (outer, frame), (groove, shade(frame, 0.6)), (inner, WHITE), (mount, canvas)
    return lambda rng: shapes


# The height of the top, and the half widths at five heights from the top down.
PROFILES = (
    (-0.6, (0.55, 0.54, 0.54, 0.54, 0.5)), (-0.4, (0.68, 0.66, 0.58, 0.45, 0.3)),
    (-0.95, (0.34, 0.24, 0.5, 0.58, 0.32)), (-0.95, (0.13, 0.14, 0.36, 0.42, 0.4)),
    (-0.7, (0.4, 0.58, 0.62, 0.58, 0.42)), (-0.1, (0.85, 0.82, 0.7, 0.5, 0.3)),
)  # fmt: skip


def design_vessel(rng: Rng) -> Draw:
    """Samples a cup, vase, jar, bottle or bowl: its profile and bands of pattern."""
    first, second, third = colors = palette(rng, 3)
    top, widths = choice(rng, PROFILES)
    widths = np.clip(widths * rng.uniform(0.85, 1.15, 5), 0.1, 0.85)
    upper, lower = top + (0.95 - top) * rng.uniform((0, 0.5), (0.4, 1))
    glaze = np.asarray(fill([
        (FRAME, make_pattern(rng, colors[::-1], (6, 14))),
        (box(-1, upper - 0.06, 1, lower + 0.06), third),
        (box(-1, upper, 1, lower), make_pattern(rng, colors, (6, 14))),
    ]))  # fmt: skip
    y = np.linspace(-1, 1, SIDE)[:, None]

    def draw(rng: Rng) -> Shapes:
        turn, tilt = rng.uniform((0, 0.08), (TURN, 0.35))
        heights = np.linspace(top, 0.95 - tilt * widths[-1], 5)
        yield disc(0, heights[-1], widths[-1], widths[-1] * tilt), shade(first, 0.6)
        width = np.interp(y, heights, widths)
        across = (y.T / width).clip(-1, 1)
        front = np.sqrt(1 - across**2)
        column = (np.arcsin(across) + turn) / TURN * SIDE
        row = ((y + 1 - tilt * width * front) * (SIDE / 2)).clip(0, SIDE - 1)
        pixels = glaze[row.astype(int), column.astype(int) % SIDE, :3]
        surface = pixels * (0.62 + 0.38 * front)[..., None]  # darker towards the sides
        yield mirror(np.stack([widths, heights], 1)), Image.fromarray(surface.astype(np.uint8))
        for size, gain in ((1, 1.2), (0.9, 0.55)):
            yield disc(0, top, widths[0] * size, widths[0] * size * tilt), shade(second, gain)

    return draw
