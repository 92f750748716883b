"""What lies behind and around the object of a picture. Each gives `[height, width, 3]` float32,
0..255, and takes only a random generator and the size, so that no background tells the class.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from universal_embedding.datasets.rendered.colours import PAINTS, Colour, hsv, mix, shade
from universal_embedding.datasets.rendered.noise import rough_noise, smooth_noise
from universal_embedding.datasets.rendered.patterns import Pattern

Rng = np.random.Generator


def _any_colour(rng: Rng, saturation: float = 0.5) -> Colour:
    return hsv(rng.uniform(), rng.uniform(0, saturation), rng.uniform(0.25, 0.97))


def _fill(width: int, height: int, colour: Colour) -> np.ndarray:
    return np.tile(np.array(colour, np.float32), (height, width, 1))


def plain(rng: Rng, width: int, height: int) -> np.ndarray:
    """One colour that fades to another, as in a studio."""
    a, b = _any_colour(rng), _any_colour(rng)
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    return _fill(width, height, a) * (1 - share) + _fill(width, height, mix(a, b, 0.5)) * share


def stone(rng: Rng, width: int, height: int) -> np.ndarray:
    """Rock, soil or concrete."""
    grain = rough_noise(rng, width, height)[..., None]
    return _fill(width, height, _any_colour(rng, 0.4)) + grain * rng.uniform(8, 24)


def planks(rng: Rng, width: int, height: int) -> np.ndarray:
    """Boards of wood, across or upright."""
    wood = hsv(rng.uniform(0.04, 0.12), rng.uniform(0.2, 0.65), rng.uniform(0.35, 0.9))
    count = int(rng.integers(3, 8))
    row = np.arange(height) * count // height
    tone = rng.uniform(0.82, 1.12, count)[row][:, None]
    grain = smooth_noise(rng, 4, height, 60)[:, :1] * 4 + smooth_noise(rng, width, height, 9) * 4
    seam = np.where(np.diff(row, prepend=0) > 0, 0.6, 1.0)[:, None]
    board = _fill(width, height, wood) * (tone * seam)[..., None] + grain[..., None]
    if rng.uniform() < 0.5:
        return board
    turned = Image.fromarray(np.clip(board, 0, 255).astype(np.uint8)).transpose(
        Image.Transpose.ROTATE_90
    )
    return np.asarray(turned.resize((width, height)), np.float32)


def cloth(rng: Rng, width: int, height: int) -> np.ndarray:
    """A patterned table cloth, wallpaper or tiles."""
    pattern = Pattern.design(rng, (2, 9))
    base = _any_colour(rng)
    soft = rng.uniform(0.1, 0.4)
    colours = tuple(mix(base, c, soft) for c in pattern.colours)
    angle = rng.uniform(0, np.pi)
    texture = Pattern(pattern.kind, colours, pattern.repeats, angle).texture
    return np.asarray(texture.resize((width, height), Image.Resampling.BOX), np.float32)


def meadow(rng: Rng, width: int, height: int) -> np.ndarray:
    """Sky over rows of hills."""
    sky = hsv(rng.uniform(0.5, 0.66), rng.uniform(0.05, 0.6), rng.uniform(0.7, 1))
    if rng.uniform() < 0.25:
        sky = hsv(rng.uniform(-0.05, 0.12), rng.uniform(0.3, 0.6), rng.uniform(0.6, 1))
    horizon = rng.uniform(0.35, 0.75)
    haze = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    clouds = np.clip(smooth_noise(rng, width, height, 5), 0, 1.5)[..., None] * rng.uniform(0, 40)
    scene = _fill(width, height, sky) * (1 - 0.5 * haze) + 235 * 0.5 * haze + clouds
    hill = hsv(rng.uniform(0.08, 0.45), rng.uniform(0.2, 0.6), rng.uniform(0.35, 0.8))
    rows = np.arange(height)[:, None]
    for n in range(3):
        edge = smooth_noise(rng, width, 4, 4 + 2 * n)[1] * height * 0.05
        top = (horizon + 0.1 * n) * height + edge
        colour = mix(sky, shade(hill, 1 - 0.12 * n), 0.45 + 0.27 * n)
        scene = np.where((rows > top)[..., None], np.array(colour, np.float32), scene)
    return scene + smooth_noise(rng, width, height, 50)[..., None] * 4


def street(rng: Rng, width: int, height: int) -> np.ndarray:
    """A row of houses behind a road."""
    image = Image.new(
        "RGB",
        (width, height),
        hsv(rng.uniform(0.5, 0.65), rng.uniform(0, 0.5), rng.uniform(0.4, 1)),
    )
    pen = ImageDraw.Draw(image)
    ground = round(height * rng.uniform(0.55, 0.75))
    x = -rng.integers(20)
    while x < width:
        w, top = int(rng.integers(14, 40)), round(ground * rng.uniform(0.1, 0.7))
        wall = _any_colour(rng)
        pen.rectangle((x, top, x + w, ground), fill=wall)
        pane = shade(wall, rng.uniform(0.5, 1.5))
        for wy in range(top + 4, ground - 4, 8):
            for wx in range(int(x) + 3, int(x) + w - 4, 7):
                pen.rectangle((wx, wy, wx + 3, wy + 4), fill=pane)
        x += w
    pen.rectangle((0, ground, width, height), fill=_any_colour(rng, 0.15))
    pen.rectangle((0, ground, width, ground + 3), fill=(190, 188, 184))
    for x in range(int(rng.integers(30)), width, 34):
        pen.rectangle((x, height - 9, x + 16, height - 7), fill=(232, 228, 210))
    return np.asarray(image.filter(ImageFilter.BoxBlur(rng.uniform(0, 1.6))), np.float32)


def bokeh(rng: Rng, width: int, height: int) -> np.ndarray:
    """Blurred spots of light."""
    base = _any_colour(rng)
    image = Image.new("RGB", (width, height), base)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(8, 26)):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(3, 22)
        pen.ellipse(
            (x - r, y - r, x + r, y + r),
            fill=mix(base, _any_colour(rng, 0.9), rng.uniform(0.2, 0.8)),
        )
    return np.asarray(image.filter(ImageFilter.BoxBlur(rng.uniform(1, 4))), np.float32)


def room(rng: Rng, width: int, height: int) -> np.ndarray:
    """A wall, plain or papered, over a floor."""
    wall = (plain, cloth, stone)[rng.integers(3)](rng, width, height)
    floor = (planks, stone, cloth)[rng.integers(3)](rng, width, height)
    edge = round(height * rng.uniform(0.55, 0.9))
    scene = wall.copy()
    scene[edge:] = floor[edge:]
    scene[edge : edge + 3] = PAINTS["cream"] if rng.uniform() < 0.5 else shade(PAINTS["brown"], 0.7)
    return scene


def shelf(rng: Rng, width: int, height: int) -> np.ndarray:
    """A shelf full of other things, out of focus."""
    image = Image.new("RGB", (width, height), _any_colour(rng, 0.3))
    pen = ImageDraw.Draw(image)
    board = height // int(rng.integers(2, 4))
    for bottom in range(board, height + board, board):
        x = 0
        while x < width:
            w, tall = int(rng.integers(6, 24)), board * rng.uniform(0.4, 0.92)
            colour = _any_colour(rng, 0.9)
            pen.rectangle((x, bottom - tall, x + w, bottom), fill=colour)
            pen.rectangle(
                (x, bottom - tall * 0.6, x + w, bottom - tall * 0.3), fill=_any_colour(rng, 0.9)
            )
            x += w + int(rng.integers(1, 5))
        pen.rectangle((0, bottom - 3, width, bottom), fill=(214, 210, 204))
    return np.asarray(image.filter(ImageFilter.BoxBlur(rng.uniform(0.5, 2.5))), np.float32)
