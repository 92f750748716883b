"""Photographs of an object: its pose, the background and the light."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from examples.demo_data.backgrounds import Background
from examples.demo_data.canvas import FRAME, Draw, Rng, choice, fill, hsv, rotate, warp

CAMERA_DISTANCE = 3.2  # in half sides of the canvas


class Subject(NamedTuple):
    """A kind of object, and how it is photographed."""

    design: Callable[[Rng], Draw]  # samples an instance
    size: tuple[int, int]  # width and height of an image, in pixels
    tilt: tuple[float, float, float]  # largest roll, yaw and pitch, in radians
    scale: tuple[float, float]  # smallest and largest, relative to the shorter side of the image
    backgrounds: Sequence[Background]


def photograph(draw: Draw, subject: Subject, rng: Rng, studio: bool = False) -> Image.Image:
    """Takes a photograph in which everything but the object is sampled from `rng`.

    A studio photograph is that of a catalog: frontal and large, in even light on a pale wall.
    """
    (width, height), tilt, scale, variation = subject.size, subject.tilt, subject.scale, 1.0
    if studio:
        tilt, scale, variation = (0.03, 0.15, 0.05), (0.9, 0.98), 0.1
        scene = np.full((height, width, 3), rng.uniform(225, 245), np.float32)
    else:
        scene = choice(rng, subject.backgrounds)(rng, width, height)
    corners = _sample_pose(rng, tilt, scale) * min(width, height) + (width, height)
    canvas = fill(draw(rng)).convert("RGBa")  # premultiplied by opacity
    layer = np.asarray(warp(canvas, corners, (2 * width, 2 * height)).reduce(2), np.float32)
    color, opacity = layer[..., :3], layer[..., 3]

    # Sides that face the light are brighter, and the background is darker in the shadow.
    angle, contrast = rng.uniform((-np.pi, 0.15), (0, 0.45))
    light = np.array([np.sin(angle), np.cos(angle)], np.float32)  # from the object, as (y, x)
    facing = np.tensordot(light, np.gradient(_blur(_blur(opacity, 7), 7)), 1) / 12
    shading = 1 - contrast * facing.clip(-0.9, 0.9)
    shift = (-5 * light).round().astype(int)
    shadow = 1 - contrast / 255 * np.roll(_blur(opacity, 4), shift, (0, 1))
    scene = color * shading[..., None] + scene * (shadow * (1 - opacity / 255))[..., None]

    # The light has a color and fades across the image; the camera adds noise.
    tint = np.array(hsv(rng.uniform(), rng.uniform(0, 0.14 * variation), 1.0)) / 245
    gain, fade, noise = rng.uniform((-0.24, 0, 0), (0.2, 0.3, 3)) * variation
    y, x = (np.linspace(-fade, fade, n) for n in (height, width))
    scene *= (1 + np.add.outer(y * light[0], x * light[1]))[..., None] * tint * (1 + gain)
    scene += rng.standard_normal((height, width, 1), np.float32) * np.float32(noise)
    return Image.fromarray(scene.clip(0, 255).astype(np.uint8))


def _sample_pose(rng: Rng, tilt: Sequence[float], scale: Sequence[float]) -> np.ndarray:
    """Samples the positions `[4, 2]` of the canvas's corners, in image coordinates -1..1."""
    roll, yaw, pitch = rng.uniform(-1, 1, 3) * tilt
    x, y = rotate(FRAME, roll).T
    x, z = x * np.cos(yaw), x * np.sin(yaw)
    y, z = y * np.cos(pitch) - z * np.sin(pitch), y * np.sin(pitch) + z
    size = rng.uniform(*scale)
    offset = rng.uniform(-1, 1, 2) * max(0.1, 1.12 - size) * (0.8, 0.7)
    return (np.array([x, y]) * size * CAMERA_DISTANCE / (CAMERA_DISTANCE + z)).T + offset


def _blur(channel: np.ndarray, radius: float) -> np.ndarray:
    blurred = Image.fromarray(channel.astype(np.uint8)).filter(ImageFilter.BoxBlur(radius))
    return np.asarray(blurred, np.float32)
