"""Garments. A class is one piece: its cut, cloth, trim and what is printed or sewn on it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image, ImageChops

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import SIDE, Canvas
from universal_embedding.datasets.rendered.colours import Colour, palette, shade
from universal_embedding.datasets.rendered.motifs import MOTIFS
from universal_embedding.datasets.rendered.patterns import Pattern
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import box, disc, mirrored, points, smooth

# Right half of the body from the neck down.
CUTS: dict[str, list[tuple[float, float]]] = {
    "shirt": [(0.16, -0.8), (0.48, -0.66), (0.42, -0.2), (0.44, 0.75)],
    "jumper": [(0.18, -0.78), (0.55, -0.62), (0.5, 0.0), (0.52, 0.7)],
    "vest": [(0.22, -0.82), (0.34, -0.8), (0.3, -0.4), (0.42, 0.75)],
    "dress": [(0.18, -0.88), (0.38, -0.8), (0.28, -0.15), (0.62, 0.92)],
    "gown": [(0.2, -0.85), (0.34, -0.8), (0.3, -0.1), (0.42, 0.2), (0.8, 0.92)],
    "coat": [(0.14, -0.88), (0.5, -0.72), (0.46, 0), (0.6, 0.9)],
    "skirt": [(0.32, -0.6), (0.36, -0.45), (0.72, 0.65)],
    "trousers": [(0.36, -0.88), (0.42, -0.3), (0.46, 0.92), (0.14, 0.92), (0.02, -0.1)],
    "shorts": [(0.42, -0.55), (0.5, 0), (0.58, 0.45), (0.12, 0.5), (0.03, 0)],
}
WITH_SLEEVES = {
    "shirt": (0.42, 0.95),
    "jumper": (0.9, 1.1),
    "coat": (0.95, 1.15),
    "dress": (0.2, 0.8),
}
NECKS = ("round", "deep", "collar", "hood", "scarf")
PRINTS = ("none", "motif", "stripes", "panel", "yoke", "hem", "pocket", "row")


@dataclass(frozen=True)
class Garment:
    """One piece; see the module."""

    cut: str
    width: float
    sleeve: float
    neck: str
    printed: str
    motif: str
    buttons: int
    cloth: Pattern
    woven: bool
    trim: Colour
    accent: Colour

    places: ClassVar = (backgrounds.room, backgrounds.planks, backgrounds.cloth, backgrounds.plain)
    freedom: ClassVar = Freedom(roll=0.3, yaw=0.35, pitch=0.2, scale=(0.85, 1.1))
    size: ClassVar = (112, 128)

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Garment":
        """Draws a piece."""
        main, second, third, trim, accent = palette(rng, 5)
        drawn = Pattern.design(rng, (4, 12))
        cut = str(rng.choice(list(CUTS)))
        return cls(
            cut=cut,
            width=rng.uniform(0.88, 1.12),
            sleeve=rng.uniform(*WITH_SLEEVES.get(cut, (0, 0.01))),
            neck=str(rng.choice(NECKS)),
            printed=str(rng.choice(PRINTS)),
            motif=str(rng.choice(list(MOTIFS))),
            buttons=int(rng.choice([0, 0, 3, 4, 6])),
            cloth=Pattern(drawn.kind, (main, second, third), drawn.repeats, drawn.angle),
            woven=bool(rng.uniform() < 0.6),
            trim=trim,
            accent=accent,
        )

    def draw(self, rng: np.random.Generator) -> Image.Image:
        """The piece laid out or hung, sleeves and folds falling anew."""
        canvas = Canvas()
        spread = rng.uniform(0.15, 1.1)
        for side in (-1, 1):
            self._draw_sleeve(canvas, side, spread + rng.uniform(-0.15, 0.15))
        half = np.array(CUTS[self.cut]) * (self.width, 1)
        body = mirrored([tuple(p) for p in half])
        self._fill(canvas, body)
        self._draw_print(canvas, half)
        self._draw_neck(canvas, half)
        for y in np.linspace(-0.4, 0.45, self.buttons) if self.buttons else ():
            canvas.ellipse(0, y, 0.04, fill=self.accent)
        return _folded(canvas.image, rng)

    def _fill(self, canvas: Canvas, outline: np.ndarray) -> None:
        canvas.polygon(outline * 1.015, shade(self.cloth.colours[0], 0.6))
        if self.woven:
            canvas.textured(outline, self.cloth.texture)
        else:
            canvas.polygon(outline, self.cloth.colours[0])

    def _draw_sleeve(self, canvas: Canvas, side: int, angle: float) -> None:
        if self.sleeve < 0.05:
            return
        along = np.array([np.cos(angle + 0.3), np.sin(angle + 0.3)]) * (side, 1)
        across = np.array([-along[1], along[0]]) * 0.14
        start = np.array([side * 0.36 * self.width, -0.6])
        end = start + along * self.sleeve * 0.85
        arm = np.array([start - across * 1.2, end - across, end + across, start + across * 1.4])
        self._fill(canvas, arm)
        cuff = end - along * 0.09
        canvas.polygon(
            np.array([cuff - across, end - across, end + across, cuff + across]), self.trim
        )

    def _draw_print(self, canvas: Canvas, half: np.ndarray) -> None:
        x = np.interp(0, half[:, 1], half[:, 0])
        low, wide = half[:, 1].max(), half[np.argmax(half[:, 1]), 0]
        if self.printed == "motif":
            canvas.polygon(disc(0, -0.1, 0.28), self.trim)
            canvas.polygon(MOTIFS[self.motif] * 0.22 + (0, -0.1), self.accent)
        if self.printed == "stripes":
            for y, colour in ((-0.2, self.trim), (-0.08, self.accent), (0.04, self.trim)):
                edge = np.interp([y, y + 0.1], half[:, 1], half[:, 0])
                canvas.polygon(
                    points((-edge[0], y), (edge[0], y), (edge[1], y + 0.1), (-edge[1], y + 0.1)),
                    colour,
                )
        if self.printed == "panel":
            canvas.polygon(box(-0.13, half[0, 1] + 0.05, 0.13, low), self.trim)
        if self.printed == "yoke":
            canvas.polygon(
                mirrored([tuple(half[0]), tuple(half[1]), (half[1, 0] * 0.9, half[1, 1] + 0.22)]),
                self.accent,
            )
        if self.printed == "hem":
            foot = points(
                (-wide, low), (wide, low), (wide * 0.97, low - 0.2), (-wide * 0.97, low - 0.2)
            )
            canvas.polygon(foot, self.trim)
            for n in np.linspace(-0.75, 0.75, 5):
                canvas.polygon(MOTIFS[self.motif] * 0.07 + (n * wide, low - 0.1), self.accent)
        if self.printed == "pocket":
            for side in (-1, 1):
                canvas.polygon(
                    smooth(box(side * x * 0.55 - 0.12, 0.12, side * x * 0.55 + 0.12, 0.42), 1),
                    self.trim,
                )
        if self.printed == "row":
            for n in range(3):
                canvas.polygon(MOTIFS[self.motif] * 0.11 + (0, -0.35 + 0.32 * n), self.accent)

    def _draw_neck(self, canvas: Canvas, half: np.ndarray) -> None:
        x, y = half[0]
        if self.cut in ("skirt", "trousers", "shorts"):
            canvas.polygon(box(-x, y - 0.03, x, y + 0.09), self.trim)
            return
        inner = shade(self.cloth.colours[0], 0.45)
        if self.neck == "hood":
            canvas.polygon(
                smooth(
                    mirrored([(0, y - 0.14), (x * 1.7, y - 0.1), (x * 1.6, y + 0.1), (0, y + 0.2)])
                ),
                self.trim,
            )
        depth = 0.4 if self.neck == "deep" else 0.16
        cleft = mirrored([(x, y - 0.01), (x * 0.6, y + depth * 0.7), (0, y + depth)])
        canvas.polygon(cleft * (1.15, 1) + (0, 0.035), self.trim)
        canvas.polygon(cleft, inner)
        if self.neck == "collar":
            for side in (-1, 1):
                flap = points(
                    (x, y - 0.03), (x * 1.5, y + 0.08), (x * 0.7, y + 0.3), (0.02, y + 0.14)
                )
                canvas.polygon(flap * (side, 1), self.accent)
        if self.neck == "scarf":
            canvas.polygon(disc(0, y + 0.04, x * 1.25, 0.12), self.accent)
            canvas.polygon(
                points((0.02, y), (0.16, y), (0.22, y + 0.5), (0.06, y + 0.52)), self.accent
            )


def _folded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The cloth with soft folds across it."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    angle, waves = rng.uniform(-0.6, 0.6), rng.uniform(4, 9)
    bend = 0.25 * np.sin(3 * y + rng.uniform(0, 6))
    fold = np.sin(waves * (x * np.cos(angle) + y * np.sin(angle) + bend) + rng.uniform(0, 6))
    light = np.clip(225 + 30 * fold, 0, 255).astype(np.uint8)
    shading = Image.merge(
        "RGBA", [Image.fromarray(light)] * 3 + [Image.new("L", (SIDE, SIDE), 255)]
    )
    return ImageChops.multiply(image, shading)
