"""How an object stands before the camera."""

from dataclasses import dataclass

import numpy as np

CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
DISTANCE = 3.2  # of the camera, in half sides of the object's square


@dataclass(frozen=True)
class Freedom:
    """The most by which an object turns (radians), and its scale within the picture.

    Attributes:
        roll: About the line of sight.
        yaw: About the upright axis.
        pitch: About the level axis.
        scale: Smallest and largest share of the picture's height.
        mirror: Whether the object may be seen from its mirrored side.
    """

    roll: float = 0.15
    yaw: float = 0.5
    pitch: float = 0.2
    scale: tuple[float, float] = (0.6, 0.95)
    mirror: bool = False

    def corners(self, rng: np.random.Generator) -> np.ndarray:
        """Where the four corners of the object's square come to lie; `[4, 2]`, picture -1..1."""
        roll, yaw, pitch = rng.uniform(-1, 1, 3) * (self.roll, self.yaw, self.pitch)
        x, y = (CORNERS * (-1 if self.mirror and rng.uniform() < 0.5 else 1, 1)).T
        x, y = x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll)
        x, depth = x * np.cos(yaw), x * np.sin(yaw)
        y, depth = y * np.cos(pitch) - depth * np.sin(pitch), y * np.sin(pitch) + depth
        scale = rng.uniform(*self.scale)
        near = scale * DISTANCE / (DISTANCE + depth)
        shift = rng.uniform(-1, 1, 2) * max(0.1, 1.12 - scale) * (0.8, 0.7)
        return np.stack([x * near, y * near], 1) + shift
