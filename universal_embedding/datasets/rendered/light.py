"""The light that a picture is taken in: direction, colour, shadows, and the camera's response."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from universal_embedding.datasets.rendered.colours import hsv


@dataclass(frozen=True)
class Light:
    """A lamp.

    Attributes:
        direction: Unit vector in the picture, from the object towards the lamp; y down.
        tint: Gains of red, green and blue.
        exposure: Gain of all.
        fall: How much the brightness changes across the picture, 0..1.
        depth: Strength of shadows and modelling, 0..1.
        grain: Deviation of the camera's noise, in 8-bit units.
        softness: Blur, in pixels.
    """

    direction: tuple[float, float] = (-0.6, -0.8)
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    exposure: float = 1.0
    fall: float = 0.0
    depth: float = 0.3
    grain: float = 1.0
    softness: float = 0.0

    @classmethod
    def design(cls, rng: np.random.Generator) -> "Light":
        """Draws a light: daylight, lamps, dusk."""
        angle = rng.uniform(-np.pi, 0)
        hue = np.array(hsv(rng.uniform(), rng.uniform(0, 0.14), 1.0)) / 255
        return cls(
            (np.cos(angle), np.sin(angle)), tuple(hue / hue.mean()), rng.uniform(0.76, 1.2),
            rng.uniform(0, 0.3), rng.uniform(0.15, 0.45), rng.uniform(0.5, 3), rng.uniform(0, 0.6),
        )  # fmt: skip

    def cast_shadow(self, ground: np.ndarray, layer: np.ndarray) -> np.ndarray:
        """`ground` `[H, W, 3]` under the shadow of `layer` `[H, W, 4]`."""
        dx, dy = (round(-5 * c) for c in self.direction)
        shadow = np.roll(_blurred(layer[..., 3], 4), (dy, dx), axis=(0, 1))
        return ground * (1 - self.depth * shadow / 255)[..., None]

    def model(self, layer: np.ndarray) -> np.ndarray:
        """A flat layer made to look round: brighter towards the lamp, darker away from it."""
        dy, dx = np.gradient(_blurred(_blurred(layer[..., 3], 7), 7))
        facing = -(dx * self.direction[0] + dy * self.direction[1]) / 12
        lit = layer.copy()
        lit[..., :3] *= (1 + self.depth * np.clip(facing, -0.9, 0.9))[..., None]
        return lit

    def expose(self, scene: np.ndarray, rng: np.random.Generator) -> Image.Image:
        """The RGB picture that the camera makes of a scene `[H, W, 3]`."""
        height, width = scene.shape[:2]
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        gain = 1 + self.fall * (x * self.direction[0] + y * self.direction[1])
        seen = scene * (gain[..., None] * (np.float32(self.exposure) * np.float32(self.tint)))
        seen += rng.standard_normal((height, width, 1), np.float32) * self.grain
        image = Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8))
        return image.filter(ImageFilter.GaussianBlur(self.softness)) if self.softness else image


def _blurred(channel: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray(channel.astype(np.uint8)).filter(ImageFilter.BoxBlur(radius))
    return np.asarray(image, np.float32)
