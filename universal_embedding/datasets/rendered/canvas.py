"""A transparent square to draw on, from -1 to 1 in both directions, y down."""

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from universal_embedding.datasets.rendered.colours import Colour

SIDE = 256  # pixels: twice what pictures show, so that edges come out smooth


class Canvas:
    """Draws filled shapes, the later over the earlier.

    Attributes:
        image: The RGBA picture, `SIDE` x `SIDE`.
    """

    def __init__(self) -> None:
        self.image = Image.new("RGBA", (SIDE, SIDE))
        self._pen = ImageDraw.Draw(self.image)

    def polygon(self, outline: np.ndarray, fill: Colour) -> None:
        """Fills an outline `[N, 2]`."""
        self._pen.polygon(pixels(outline), fill=(*fill, 255))

    def ellipse(
        self, x: float, y: float, rx: float, ry: float | None = None, fill: Colour = (0, 0, 0)
    ) -> None:
        """Fills an upright ellipse."""
        ry = rx if ry is None else ry
        corners = np.array([[x - rx, y - ry], [x + rx, y + ry]])
        self._pen.ellipse(pixels(corners), fill=(*fill, 255))

    def line(self, path: np.ndarray, width: float, fill: Colour) -> None:
        """Strokes a path `[N, 2]`."""
        thickness = max(1, round(width * SIDE / 2))
        self._pen.line(pixels(np.asarray(path)), fill=(*fill, 255), width=thickness, joint="curve")

    def textured(self, outline: np.ndarray, texture: Image.Image) -> None:
        """Fills an outline with a `SIDE` x `SIDE` picture that lies under the whole canvas."""
        mask = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(mask).polygon(pixels(outline), fill=255)
        self.image.paste(texture, (0, 0), mask)

    def quad(self, corners: np.ndarray, texture: Image.Image) -> None:
        """Lays a picture into four corners, clockwise from its top left one."""
        width, height = texture.size
        source = [(0, 0), (width, 0), (width, height), (0, height)]
        target = np.asarray(pixels(corners)).reshape(4, 2)
        warped = texture.convert("RGBA").transform(
            (SIDE, SIDE), Image.Transform.PERSPECTIVE, homography(target, source),
            Image.Resampling.BILINEAR,
        )  # fmt: skip
        self.image.alpha_composite(warped)

    def stencil(self, over: "Canvas") -> None:
        """Puts another canvas on top, but only where this one is drawn on already."""
        mask = ImageChops.multiply(self.image.getchannel("A"), over.image.getchannel("A"))
        self.image.paste(over.image, (0, 0), mask)

    def layer(self, image: Image.Image) -> None:
        """Puts another RGBA picture of the same size on top."""
        self.image.alpha_composite(image)


def pixels(outline: np.ndarray) -> list[float]:
    """Canvas coordinates as the flat list of pixel coordinates that Pillow takes."""
    return ((np.asarray(outline) + 1) * (SIDE / 2)).ravel().tolist()


def homography(source: np.ndarray, target: np.ndarray) -> list[float]:
    """The 8 numbers of the perspective map that takes four points to four others."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows, float), np.array(values, float)).tolist()
