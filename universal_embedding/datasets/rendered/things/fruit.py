"""Fruit on plates. A class is a dish: a plate with its rim, and two kinds of fruit."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import Canvas
from universal_embedding.datasets.rendered.colours import WHITE, Colour, hsv, mix, palette, shade
from universal_embedding.datasets.rendered.motifs import MOTIFS, star
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import TURN, disc, points, polar, smooth, turned

PLATES = {
    "round": disc(0, 0, 1.0, count=60),
    "square": smooth(points((-1, -1), (1, -1), (1, 1), (-1, 1))) * 0.98,
    "octagon": star(4, 1.0),
    "scalloped": polar(lambda a: 0.93 + 0.06 * np.abs(np.cos(8 * a)), 128),
    "flower": polar(lambda a: 0.88 + 0.11 * np.cos(6 * a)),
}
RIMS = ("band", "double", "dots", "rays", "motifs", "dashes")


@dataclass(frozen=True)
class Fruit:
    """A plate of fruit; see the module."""

    plate: str
    rim: str
    rim_count: int
    motif: str
    colours: tuple[Colour, Colour, Colour]
    kinds: tuple[str, str]
    hues: tuple[float, float]
    counts: tuple[int, int]

    places: ClassVar = (backgrounds.planks, backgrounds.cloth, backgrounds.stone)
    freedom: ClassVar = Freedom(roll=np.pi, yaw=0.35, pitch=0.5, scale=(0.72, 1.0))
    size: ClassVar = (128, 112)

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Fruit":
        """Draws a dish."""
        plate, rim, accent = palette(rng, 3)
        return cls(
            plate=str(rng.choice(list(PLATES))),
            rim=str(rng.choice(RIMS)),
            rim_count=int(rng.integers(3, 9)) * 2,
            motif=str(rng.choice(list(MOTIFS))),
            colours=(mix(plate, WHITE, rng.choice([0.0, 0.85])), rim, accent),
            kinds=tuple(str(k) for k in rng.choice(list(KINDS), 2, replace=False)),
            hues=tuple(rng.uniform(-0.05, 0.05, 2)),
            counts=(int(rng.integers(2, 5)), int(rng.integers(2, 5))),
        )

    def draw(self, rng: np.random.Generator) -> Image.Image:
        """The dish from above, the fruit arranged anew."""
        canvas = Canvas()
        self._draw_plate(canvas)
        pile = [i for i in (0, 1) for _ in range(self.counts[i])]
        start, count = rng.uniform(0, TURN), len(pile)
        spots = [(0.42 + rng.uniform(-0.06, 0.04), start + TURN * n / count) for n in range(count)]
        for (r, angle), which in zip(spots, rng.permutation(pile), strict=True):
            at = np.array([r * np.cos(angle), r * np.sin(angle)])
            scale, turn = rng.uniform(0.85, 1.1) * 0.27, rng.uniform(0, TURN)
            KINDS[self.kinds[which]](canvas, at, scale, turn, self.hues[which])
        return canvas.image

    def _draw_plate(self, canvas: Canvas) -> None:
        outline, (base, rim, accent) = PLATES[self.plate] * 0.97, self.colours
        canvas.polygon(outline, shade(base, 0.8))
        canvas.polygon(outline * 0.985, base)
        if self.rim in ("band", "double"):
            canvas.polygon(outline * 0.95, rim)
            canvas.polygon(outline * (0.8 if self.rim == "band" else 0.9), base)
        if self.rim == "double":
            canvas.polygon(outline * 0.84, accent)
            canvas.polygon(outline * 0.76, base)
        for n in range(self.rim_count):
            angle, colour = TURN * n / self.rim_count, (rim, accent)[n % 2]
            at = turned(points((0, -0.84)), angle)
            if self.rim == "dots":
                canvas.polygon(disc(*at[0], 0.09), colour)
            if self.rim == "motifs":
                canvas.polygon(turned(MOTIFS[self.motif] * 0.12, angle) + at, colour)
            if self.rim == "rays":
                canvas.line(turned(points((0, -0.7), (0, -0.95)), angle), 0.05, colour)
            if self.rim == "dashes":
                arc = (
                    turned(points((0, -0.84)), angle),
                    turned(points((0, -0.84)), angle + 2 / self.rim_count),
                )
                canvas.line(np.concatenate(arc), 0.08, colour)
        canvas.polygon(outline * 0.68, shade(base, 0.9))
        canvas.polygon(outline * 0.66, shade(base, 1.04))


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


def _plums(canvas: Canvas, at: np.ndarray, scale: float, turn: float, hue: float) -> None:
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


KINDS = {
    "apple": _apple,
    "green apple": _green_apple,
    "pear": _pear,
    "banana": _banana,
    "plum": _plums,
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
