"""Dishes of fruit, leaves and dogs."""

from collections.abc import Sequence

import numpy as np

from examples.demo_data.canvas import (  # isort: skip
    DISC, DROP, FRAME, INK, MOON, MOTIFS, TURN, WHITE, Color, Draw, Rng, Shapes, box, choice,
    disc, fill, hsv, mirror, mix, palette, polar, rotate, shade, smooth, star,
)  # fmt: skip

PLATES = (
    DISC, star(4, 1), smooth([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    polar(lambda a: 0.93 + 0.06 * np.cos(16 * a)), polar(lambda a: 0.88 + 0.11 * np.cos(6 * a)),
)  # fmt: skip
PEAR = polar(lambda a: 0.7 + 0.35 * np.exp(-4 * (1 - np.cos(a))))
LEMON = polar(lambda a: 0.65 + 0.2 * np.cos(2 * a) + 0.16 * np.cos(a) ** 12)
BUNCH = [(x / 4, 0.9 - 0.4 * row) for row in range(4) for x in range(-row, row + 1, 2)]


def _whole(outline: np.ndarray, color: Color, centers: Sequence = ((0, 0),)) -> Shapes:
    """A fruit or a bunch of them, each with a dark side and a highlight."""
    layers = (
        (outline, shade(color, 0.6)), (outline * 0.92 - 0.04, color),
        (outline * 0.55 - 0.1, shade(color, 1.13)), (DISC * 0.13 - 0.35, mix(color, WHITE, 0.75)),
    )  # fmt: skip
    size = 1 if len(centers) == 1 else 0.32
    return [(shape * size + center, paint) for center in centers for shape, paint in layers]


def _half(rind: Color, flesh: Color, segments: int) -> Shapes:
    """A fruit cut in two."""
    wedges = polar(lambda a: np.abs(np.cos(segments * a / 2)) ** 0.3, 160) * 0.8
    pale = mix(flesh, WHITE, 0.75)
    return [(DISC, rind), (DISC * 0.88, pale), (wedges, flesh), (DISC * 0.15, pale)]


FRUIT = (
    _whole(DISC, (210, 48, 44)), _whole(DISC * 0.8, (100, 46, 118)), _whole(DISC, (250, 172, 112)),
    _whole(DISC, (130, 72, 150), BUNCH), _whole(DISC, (150, 190, 96), BUNCH),
    _whole(PEAR, (190, 200, 76)), _whole(MOON * 1.2, (242, 206, 60)), _whole(DROP, (220, 40, 62)),
    _whole(LEMON, (250, 234, 70)), _half((236, 130, 30), (250, 156, 50), 10),
    _half((240, 180, 70), (230, 90, 90), 9), _half((120, 90, 50), (140, 190, 60), 14),
)  # fmt: skip


def design_dish(rng: Rng) -> Draw:
    """Samples a plate with its rim, and two kinds of fruit on it."""
    base, *rim = palette(rng, 3)
    base = mix(base, WHITE, choice(rng, (0, 0.85)))
    plate, (outer, inner) = choice(rng, PLATES) * 0.97, rng.uniform((0.85, 0.7), (0.98, 0.85))
    mark, count = choice(rng, (*MOTIFS, star(2, 0.2))) * 0.11 + (0, -0.83), 2 * rng.integers(0, 9)
    shapes = [
        (plate, shade(base, 0.8)), (plate * 0.985, base),
        (plate * outer, rim[0]), (plate * inner, base),
        *((rotate(mark, TURN * n / count), rim[n % 2]) for n in range(count)),
        (plate * 0.68, shade(base, 0.9)), (plate * 0.66, base),
    ]  # fmt: skip
    pile = rng.permutation(len(FRUIT))[:2].repeat(rng.integers(2, 5, 2))

    def draw(rng: Rng) -> Shapes:
        yield from shapes
        for n, kind in enumerate(rng.permutation(pile)):
            angle, radius, turn, size = rng.uniform((0, 0.36, 0, 0.23), (0.3, 0.46, TURN, 0.3))
            center = rotate((0, radius), (n + angle) * TURN / len(pile))
            yield from ((rotate(o, turn) * size + center, paint) for o, paint in FRUIT[kind])

    return draw


def design_leaf(rng: Rng) -> Draw:
    """Samples a plant: the form of its leaves, their edge, marks, veins and colors."""
    hues = (0, 0.06, 0.11, 0.16, 0.25, 0.33, 0.4, 0.85)
    green = hsv(choice(rng, hues), *rng.uniform((0.45, 0.35), (0.85, 0.8)))
    pale = hsv(choice(rng, hues), *rng.uniform((0.1, 0.85), (0.6, 1)))
    width, taper, cleft, bite = rng.uniform((0.3, 0.5, 0.2, 0.05), (0.75, 1.6, 0.6, 0.12))
    count, teeth, t = rng.integers(3, 9), choice(rng, (0, 0, 14, 24)), np.linspace(0, 1, 60)
    half = width * np.sin(np.pi * t**taper) ** 0.9 * (1 - bite * (t * teeth % 1))
    oval = mirror(np.stack([half, 1.5 * t - 0.85], 1))
    lobed = polar(lambda a: 0.8 - cleft * (0.4 - 0.4 * np.cos(count * a)), 160) * (1, 0.95)
    heart = polar(lambda a: 0.72 + 0.2 * np.abs(np.sin(a)) - 0.4 * np.exp(-12 * (a - np.pi) ** 2))
    blade = choice(rng, (oval, oval, lobed, heart * (0.6 + width / 2, 1)))
    pairs = [(0.46, side, y) for y in np.linspace(0.5, -0.35, 5) for side in (-1.05, 1.05)]
    fan = [(0.62, turn, 0.2) for turn in np.linspace(-1.7, 1.7, count)]
    # Size, rotation and foot of each blade; a blade of size 1 stands on (0, 0.65).
    places = choice(rng, ([(1, 0, 0.65)], [(1, 0, 0.65)], [*pairs, (0.46, 0, -0.4)], fan))
    spots = [disc(0.2 * (-1) ** n, y, 0.07) for n, y in enumerate(np.linspace(-0.6, 0.4, 7))]
    marks = choice(rng, ([], [], spots, [box(0, -1, 1, 1)], [blade * 0.5]))
    has_pale_rim, has_pale_veins = rng.uniform(size=2) < 0.35
    thick, reach = 0.05 if has_pale_veins else 0.02, np.abs(blade[:, 0]).max() * 0.75
    veins = [box(-thick / 2, -0.85, thick / 2, 0.65)]
    for share in np.linspace(0.08, 0.75, rng.integers(3, 9)):
        y, x = 0.65 - 1.5 * share, reach * np.sin(2.5 * share + 0.5)
        veins.append(np.array([(-x, y - 0.2), (0, y - thick), (x, y - 0.2), (0, y)]))

    def draw(rng: Rng) -> Shapes:
        color, bend = shade(green, rng.uniform(0.8, 1.25)), rng.uniform(-0.12, 0.12)
        dark = shade(color, 0.6)
        shapes = [(blade * (0.8 if has_pale_rim else 0.95), color), *((m, pale) for m in marks)]
        shapes += [(vein, pale if has_pale_veins else dark) for vein in veins]

        def place(outline: np.ndarray, size: float, turn: float, foot: float) -> np.ndarray:
            x, y = (rotate((outline - (0, 0.65)) * size, turn) + (0, foot)).T
            return np.stack([x + bend * (y - 0.6) ** 2, y], 1)

        yield box(-0.025, -0.2, 0.025, 0.98), shade(color, 0.5)
        for at in places:
            inside = [(place(outline, *at), paint) for outline, paint in shapes]
            yield place(blade, *at), fill([(FRAME, pale if has_pale_rim else dark), *inside])

    return draw


COATS = ((196, 146, 88), (120, 78, 48), (62, 56, 56), (236, 222, 198), (160, 156, 152))
PRICKED_EAR = smooth([(-0.16, -0.1), (-0.12, -0.45), (0.04, -0.16)], 1)
FLOPPY_EAR = smooth([(-0.2, -0.14), (0, -0.16), (-0.05, 0.3), (-0.22, 0.3)], 1)


def design_dog(rng: Rng) -> Draw:
    """Samples a dog: its build, ears, coat, spots and collar."""
    (coat, patch), (collar,) = map(tuple, rng.permutation(COATS)[:2].tolist()), palette(rng, 1)
    leg, b, tip, length = rng.uniform((0.5, 0.2, 0.28, 0.8), (0.8, 0.3, 0.46, 1.2))
    ear = choice(rng, (PRICKED_EAR, FLOPPY_EAR)) * (1, length)
    spots = rng.uniform((-0.5, -0.1), (0.3, 0.1), (rng.integers(5), 2))
    trunk = [(-0.72, -0.7 * b), (0.3, -0.9 * b), (0.55, -0.3 * b), (0.5, b), (-0.72, 0.5 * b)]
    face = (
        (disc(0, 0, 0.21, 0.19), coat),
        (smooth([(0, -0.07), (tip, 0), (tip, 0.13), (0, 0.17)]), mix(coat, patch, 0.7)),
        (disc(tip - 0.02, 0.02, 0.055, 0.045), INK), (disc(0.07, -0.06, 0.04), WHITE),
        (disc(0.08, -0.06, 0.03), INK), (ear, shade(patch, 0.85)),
    )  # fmt: skip

    def draw(rng: Rng) -> Shapes:
        stride, wag, nod = rng.uniform((-0.16, -0.4, -0.5), (0.16, 0.2, -0.2))
        head = np.array([0.58, nod])
        yield [(-0.65, -0.1), (-0.95, wag), (-0.92, wag + 0.1), (-0.6, 0.05)], shade(coat, 0.85)
        for step, color in ((-stride, shade(coat, 0.62)), (stride, coat)):
            for hip, paw in ((-0.52, step - 0.52), (0.34, 0.34 - step)):
                yield [(hip - 0.1, 0), (hip + 0.1, 0), (paw + 0.06, leg), (paw - 0.06, leg)], color
                yield disc(paw + 0.04, leg, 0.1, 0.055), mix(color, patch, 0.6)
        yield smooth(trunk), coat
        yield from ((disc(*spot, 0.14, 0.1), patch) for spot in spots)
        neck = np.array([(0.22, -0.7 * b), head - (0.1, 0), head + (0.1, 0.1), (0.52, 0.4 * b)])
        yield from ((smooth(neck, 1), coat), (disc(*neck.mean(0), 0.16, 0.05), collar))
        yield from ((outline + head, color) for outline, color in face)

    return draw
