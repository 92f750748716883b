"""Towers. A class is one landmark: its tiers from the ground up, its roof, windows and colours."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered import backgrounds
from universal_embedding.datasets.rendered.canvas import Canvas
from universal_embedding.datasets.rendered.colours import Colour, palette, shade
from universal_embedding.datasets.rendered.motifs import MOTIFS
from universal_embedding.datasets.rendered.pose import Freedom
from universal_embedding.datasets.rendered.shapes import box, disc, points
from universal_embedding.datasets.rendered.things.roofs import ROOFS

WINDOWS = ("square", "arch", "round", "slit", "lattice", "bands", "none")


@dataclass(frozen=True)
class Tier:
    """One storey group: half width at its foot and head, share of the height, and openings."""

    foot: float
    head: float
    height: float
    windows: str
    columns: int
    rows: int
    colour: int


@dataclass(frozen=True)
class Tower:
    """One landmark; see the module."""

    tiers: tuple[Tier, ...]
    roof: str
    colours: tuple[Colour, Colour, Colour, Colour]
    finial: str
    clock: bool
    wings: float

    places: ClassVar = (
        backgrounds.meadow,
        backgrounds.meadow,
        backgrounds.street,
        backgrounds.bokeh,
    )
    freedom: ClassVar = Freedom(roll=0.1, yaw=0.3, pitch=0.4, scale=(0.95, 1.25))
    size: ClassVar = (96, 128)

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Tower":
        """Draws a landmark."""
        count, width, tiers = int(rng.integers(2, 5)), rng.uniform(0.3, 0.58), []
        heights = rng.uniform(0.5, 1.5, count)
        for share in heights / heights.sum():
            head = width * rng.uniform(0.72, 1.0)
            tier = Tier(
                foot=width,
                head=head,
                height=share,
                windows=str(rng.choice(WINDOWS)),
                columns=int(rng.integers(1, 5)),
                rows=int(rng.integers(1, 4)),
                colour=int(rng.integers(2)),
            )
            tiers.append(tier)
            width = head * rng.uniform(0.68, 1.1)
        return cls(
            tiers=tuple(tiers),
            roof=str(rng.choice(list(ROOFS))),
            colours=palette(rng, 4),
            finial=str(rng.choice(["none", "ball", *list(MOTIFS)])),
            clock=bool(rng.uniform() < 0.3),
            wings=float(rng.choice([0.0, 0.0, 0.3, 0.45])),
        )

    def draw(self, rng: np.random.Generator) -> Image.Image:
        """The landmark from near its foot, one side in the shade, its windows lit or dark."""
        canvas = Canvas()
        corner = rng.uniform(-0.7, 0.7)  # where the edge between two faces shows
        lit = (255, 226, 140) if rng.uniform() < 0.3 else (52, 58, 74)
        roof = ROOFS[self.roof]
        top_width = self.tiers[-1].head
        crown = min(0.55, -roof[:, 1].min() * top_width)
        self._draw_wings(canvas, corner)
        y = 0.97
        for tier in self.tiers:
            high = y - tier.height * (1.82 - crown)
            self._draw_tier(canvas, tier, y, high, corner, lit)
            y = high
        self._draw_finial(canvas, y - crown)
        shape = roof * (top_width, crown / -roof[:, 1].min()) + (0, y)
        shaded = np.maximum if corner > 0 else np.minimum
        canvas.polygon(shape, self.colours[2])
        canvas.polygon(
            np.stack([shaded(shape[:, 0], corner * top_width), shape[:, 1]], 1),
            shade(self.colours[2], 0.65),
        )
        if self.clock:
            at = 0.97 - self.tiers[0].height * (1.82 - crown)
            canvas.ellipse(0, at + 0.12, 0.13, fill=self.colours[3])
            canvas.ellipse(0, at + 0.12, 0.1, fill=(246, 242, 230))
            canvas.line(
                points((0, at + 0.05), (0, at + 0.12), (0.05, at + 0.14)), 0.02, (40, 40, 40)
            )
        return canvas.image

    def _draw_tier(
        self, canvas: Canvas, tier: Tier, low: float, high: float, corner: float, lit: Colour
    ) -> None:
        wall = self.colours[tier.colour]
        canvas.polygon(
            points((-tier.foot, low), (tier.foot, low), (tier.head, high), (-tier.head, high)), wall
        )
        side = 1 if corner > 0 else -1
        canvas.polygon(
            points(
                (corner * tier.foot, low),
                (side * tier.foot, low),
                (side * tier.head, high),
                (corner * tier.head, high),
            ),
            shade(wall, 0.68),
        )
        self._draw_windows(canvas, tier, low, high, lit)
        canvas.polygon(
            box(-tier.head * 1.08, high - 0.02, tier.head * 1.08, high + 0.035), self.colours[3]
        )

    def _draw_windows(
        self, canvas: Canvas, tier: Tier, low: float, high: float, lit: Colour
    ) -> None:
        step = (low - high) / tier.rows
        for row in range(tier.rows):
            y = high + step * (row + 0.55)
            width = tier.head + (tier.foot - tier.head) * (y - high) / (low - high)
            if tier.windows == "bands":
                canvas.polygon(box(-width, y - step * 0.2, width, y + step * 0.2), self.colours[3])
            if tier.windows == "lattice":
                canvas.line(
                    points((-width, y + step / 2), (width, y - step / 2)), 0.035, self.colours[3]
                )
                canvas.line(
                    points((width, y + step / 2), (-width, y - step / 2)), 0.035, self.colours[3]
                )
            r = min(width / (tier.columns + 0.7) * 0.55, step * 0.34)
            for x in np.linspace(-1, 1, 2 * tier.columns + 1)[1::2] * width * 0.92:
                if tier.windows in ("square", "arch"):
                    canvas.polygon(box(x - r, y - r, x + r, y + r * 1.2), lit)
                if tier.windows in ("round", "arch"):
                    canvas.polygon(disc(x, y - (r if tier.windows == "arch" else 0), r), lit)
                if tier.windows == "slit":
                    canvas.polygon(
                        box(x - r * 0.35, y - step * 0.36, x + r * 0.35, y + step * 0.36), lit
                    )

    def _draw_wings(self, canvas: Canvas, corner: float) -> None:
        if not self.wings:
            return
        reach, top = min(0.98, self.tiers[0].foot + 0.4), 0.97 - self.wings
        canvas.polygon(box(-reach, top, reach, 0.97), shade(self.colours[1], 0.85))
        canvas.polygon(
            points(
                (-reach - 0.02, top),
                (reach + 0.02, top),
                (reach - 0.1, top - 0.12),
                (0.1 - reach, top - 0.12),
            ),
            self.colours[2],
        )
        for x in np.linspace(-reach, reach, 9)[1::2]:
            canvas.polygon(box(x - 0.05, top + 0.1, x + 0.05, top + 0.24), (52, 58, 74))

    def _draw_finial(self, canvas: Canvas, y: float) -> None:
        if self.finial == "none":
            return
        canvas.line(points((0, y + 0.1), (0, y - 0.08)), 0.025, self.colours[3])
        shape = disc(0, 0, 1.0) if self.finial == "ball" else MOTIFS[self.finial]
        canvas.polygon(shape * 0.08 + (0, y - 0.06), self.colours[3])
