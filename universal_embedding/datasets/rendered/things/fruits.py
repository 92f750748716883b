"""The kinds of fruit. Each draws one piece at a place, scale and turn of its own."""

from functools import partial

import numpy as np

from universal_embedding.datasets.rendered.canvas import Canvas
from universal_embedding.datasets.rendered.colours import WHITE, Colour, hsv, mix, shade
from universal_embedding.datasets.rendered.motifs import MOTIFS, star
from universal_embedding.datasets.rendered.shapes import TURN, disc, points, polar, turned


def _ball(
    canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float,
    colour: tuple[float, float, float], outline: np.ndarray = MOTIFS["disc"], size: float = 1.0,
) -> None:  # fmt: skip
    """A fruit with its shaded side, body and highlight."""
    body = hsv(colour[0] + hue, *colour[1:])
    shape = turned(outline, turn) * scale * size
    canvas.polygon(shape + at + 0.02, shade(body, 0.6))
    canvas.polygon(shape * 0.96 + at, body)
    canvas.polygon(shape * 0.6 + at - 0.03, shade(body, 1.13))
    canvas.ellipse(*(at - 0.3 * scale), 0.13 * scale, fill=mix(body, WHITE, 0.75))


def _stem(canvas: Canvas, at: np.ndarray, scale: float, turn: float) -> None:
    canvas.line(turned(points((0, 0), (0.15, -0.6)), turn) * scale + at, 0.03, (84, 62, 40))


def _apple(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
    _ball(canvas, at, scale, turn, 2 * hue, (0.0, 0.78, 0.82))
    _stem(canvas, at, scale, turn)


def _green_apple(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
    _ball(canvas, at, scale, turn, hue, (0.24, 0.7, 0.78))
    _stem(canvas, at, scale, turn)


def _pear(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
    outline = polar(lambda a: 0.8 + 0.35 * np.exp(-4 * (1 - np.cos(a))))
    _ball(canvas, at, scale, turn, hue, (0.18, 0.62, 0.8), outline)
    _stem(canvas, at + turned(points((0, -1.0)), turn)[0] * scale, scale * 0.7, turn)


def _banana(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
    _ball(canvas, at, scale, turn, 0.4 * hue, (0.145, 0.75, 0.95), MOTIFS["moon"], 1.25)


def _plum(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
    outline = polar(lambda a: 0.85 + 0.08 * np.cos(2 * a))
    _ball(canvas, at, scale, turn, hue, (0.78, 0.6, 0.46), outline)


def _lemon(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
    outline = polar(lambda a: 0.62 + 0.2 * np.cos(2 * a) + 0.16 * np.cos(a) ** 12)
    _ball(canvas, at, scale, turn, 0.5 * hue, (0.15, 0.72, 0.98), outline, 1.1)


def _strawberry(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
    _ball(canvas, at, scale, turn + np.pi, 0.5 * hue, (0.98, 0.82, 0.86), MOTIFS["drop"], 0.95)
    for x, y in ((-0.3, 0.1), (0.25, 0.15), (0, 0.45), (0, -0.2), (0.3, -0.3), (-0.35, -0.3)):
        spot = turned(points((x, y)), turn)[0] * scale + at
        canvas.ellipse(*spot, 0.05 * scale, fill=(250, 222, 130))
    crown = turned(star(6, 0.4) * (0.55, 0.35) - (0, 0.72), turn) * scale + at
    canvas.polygon(crown, (70, 140, 60))


def _cherries(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
    for side in (-0.5, 0.5):
        berry = at + turned(points((side, 0.35)), turn)[0] * scale
        path = turned(points((side, 0.2), (0, -1)), turn) * scale + at
        canvas.line(path, 0.025, (86, 120, 50))
        _ball(canvas, berry, scale * 0.5, turn, 0.5 * hue, (0.96, 0.85, 0.6))


def _grapes(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
    colour = (0.24, 0.5, 0.75) if hue > 0 else (0.82, 0.55, 0.4)
    for row, count in enumerate((4, 3, 2, 1)):
        for n in range(count):
            spot = points(((n - (count - 1) / 2) * 0.5, row * 0.45 - 0.7))
            _ball(canvas, at + turned(spot, turn)[0] * scale, scale * 0.3, turn, 0, colour)


def _slice(
    canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float,
    rind: Colour, flesh: Colour, seeds: Colour, segments: int,
) -> None:  # fmt: skip
    """Half a fruit, cut side up."""
    for radius, colour in ((1.0, rind), (0.86, mix(flesh, WHITE, 0.7)), (0.78, flesh)):
        canvas.polygon(disc(*at, scale * radius), colour)
    for n in range(segments):
        ray = turned(points((0, 0.1), (0, 0.8)), turn + TURN * n / segments) * scale + at
        canvas.line(ray, 0.014, seeds)
    canvas.polygon(disc(*at, scale * 0.2), mix(flesh, WHITE, 0.75))


def _melon(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
    for radius, colour in ((1.15, (50, 120, 60)), (1.0, (226, 240, 200)), (0.9, (232, 78, 84))):
        half = np.concatenate([disc(0, 0, radius)[:21], [[0, radius]]])
        canvas.polygon(turned(half - (0.4, 0), turn) * scale + at, colour)
    for y in (-0.5, -0.15, 0.2, 0.55):
        spot = turned(points((0.05 if abs(y) > 0.3 else 0.25, y)), turn)[0] * scale + at
        canvas.ellipse(*spot, 0.07 * scale, fill=(50, 34, 30))


def _peach(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
    _ball(canvas, at, scale, turn, 0.4 * hue, (0.06, 0.55, 0.98))
    crease = turned(points((0, -0.9), (0.25, 0), (0.1, 0.7)), turn) * scale * 0.9 + at
    canvas.line(crease, 0.025, hsv(0.02 + hue, 0.6, 0.8))


FRUITS = {
    "apple": _apple,
    "green apple": _green_apple,
    "pear": _pear,
    "banana": _banana,
    "plum": _plum,
    "lemon": _lemon,
    "strawberry": _strawberry,
    "cherry": _cherries,
    "grapes": _grapes,
    "melon": _melon,
    "peach": _peach,
    "orange": partial(_slice, rind=(236, 130, 30), flesh=(250, 166, 60), seeds=WHITE, segments=10),
    "kiwi": partial(
        _slice, rind=(120, 90, 50), flesh=(140, 190, 60), seeds=(40, 50, 20), segments=16
    ),
    "grapefruit": partial(
        _slice, rind=(240, 180, 70), flesh=(230, 90, 90), seeds=WHITE, segments=9
    ),
    "fig": partial(
        _slice, rind=(80, 44, 84), flesh=(200, 80, 100), seeds=(250, 220, 170), segments=22
    ),
}
