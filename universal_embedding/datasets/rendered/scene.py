"""A photograph: an object in a place, seen from somewhere, in some light."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, Self

import numpy as np
from PIL import Image

from universal_embedding.datasets.rendered.canvas import SIDE, homography
from universal_embedding.datasets.rendered.clutter import clutter
from universal_embedding.datasets.rendered.light import Light
from universal_embedding.datasets.rendered.pose import Freedom

Rng = np.random.Generator
Place = Callable[[Rng, int, int], np.ndarray]


class Thing(Protocol):
    """One instance of a domain: what every picture of a class shows.

    Attributes:
        places: The backgrounds it is found before.
        freedom: How it may stand.
        size: Width and height of its pictures, in pixels.
    """

    places: ClassVar[Sequence[Place]]
    freedom: ClassVar[Freedom]
    size: ClassVar[tuple[int, int]]

    @classmethod
    def design(cls, rng: Rng) -> Self:
        """Draws the parameters of a new instance."""
        ...

    def draw(self, rng: Rng) -> Image.Image:
        """The object alone, RGBA on a canvas, from a viewpoint drawn from `rng`."""
        ...


def photograph(thing: Thing, rng: Rng) -> Image.Image:
    """A picture of `thing` where everything but the thing is drawn from `rng`."""
    width, height = thing.size
    light = Light.design(rng)
    ground = thing.places[rng.integers(len(thing.places))](rng, width, height)
    thing_layer = project(thing.draw(rng), thing.freedom.corners(rng), width, height)
    front = project(clutter(rng).image, None, width, height)
    scene = light.cast_shadow(ground, thing_layer)
    scene = over(light.model(thing_layer), scene)
    scene = over(light.model(front), light.cast_shadow(scene, front))
    return light.expose(scene, rng)


def studio(thing: Thing, rng: Rng) -> Image.Image:
    """A catalogue picture: the thing alone, large, in even light, before a pale wall."""
    width, height = thing.size
    wall = np.full((height, width, 3), rng.uniform(225, 250), np.float32)
    pose = Freedom(roll=0.03, yaw=0.15, pitch=0.05, scale=(0.9, 0.98))
    layer = project(thing.draw(rng), pose.corners(rng), width, height)
    light = Light()
    return light.expose(over(light.model(layer), light.cast_shadow(wall, layer)), rng)


def project(layer: Image.Image, corners: np.ndarray | None, width: int, height: int) -> np.ndarray:
    """A canvas as seen in the picture, its square's corners at `corners`.

    Returns:
        `[height, width, 4]` float32, 0..255.
    """
    if corners is not None:
        aspect = np.array([min(1.0, height / width), min(1.0, width / height)])
        seen = (corners * aspect + 1) * (SIDE / 2)
        square = [(0, 0), (SIDE, 0), (SIDE, SIDE), (0, SIDE)]
        layer = layer.transform(
            (SIDE, SIDE), Image.Transform.PERSPECTIVE, homography(seen, square),
            Image.Resampling.BILINEAR,
        )  # fmt: skip
    return np.asarray(layer.resize((width, height), Image.Resampling.BOX), np.float32)


def over(layer: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """`layer` `[H, W, 4]` laid over `ground` `[H, W, 3]`."""
    cover = layer[..., 3:] / 255
    return layer[..., :3] * cover + ground * (1 - cover)
