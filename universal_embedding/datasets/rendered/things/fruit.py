"""Fruit on plates. A class is a dish: a plate with its rim, and two kinds of fruit."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import Canvas
from universal_embedding.datasets.rendered.colours import WHITE, Colour, mix, palette, shade
from universal_embedding.datasets.rendered.motifs import MOTIFS, star
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import TURN, disc, points, polar, smooth, turned
from universal_embedding.datasets.rendered.things.fruits import FRUITS

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
    freedom: ClassVar = Freedom(roll=np.pi, yaw=0.25, pitch=0.4, scale=(0.85, 1.08))
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
            kinds=tuple(str(k) for k in rng.choice(list(FRUITS), 2, replace=False)),
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
            FRUITS[self.kinds[which]](canvas, at, scale, turn, self.hues[which])
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
