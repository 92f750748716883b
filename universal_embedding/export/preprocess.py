"""The resize before an exported network, by numpy and Pillow alone.

An ONNX or LiteRT file takes square images; a program that runs one needs no more than this file, or
its translation into another language. `settings` are those of the JSON file beside the network.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

MEAN_GRAY = 127.5


def preprocess(image: np.ndarray | Image.Image, settings: Mapping[str, Any]) -> np.ndarray:
    """Resizes one image as the network was trained to see it.

    Args:
        image: RGB, `[H, W, 3]` uint8 or a Pillow image in mode RGB.
        settings: `image_size`, in pixels, and `resize_mode`: `squash` changes the aspect ratio,
            `crop` keeps the central square, `pad` fills the rest with mid gray.

    Returns:
        `[S, S, 3]` float32 in 0..255. Antialiased bilinear interpolation, as in the SavedModel.
    """
    pixels = np.asarray(image)
    size, mode = settings["image_size"], settings["resize_mode"]
    height, width = pixels.shape[:2]
    if mode == "squash":
        return _resize(pixels, size, size)
    if mode == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _resize(pixels[top : top + side, left : left + side], size, size)
    scale = size / max(height, width)
    inner_height, inner_width = (
        int(np.clip(np.round(length * scale), 1, size)) for length in (height, width)
    )
    padded = np.full((size, size, 3), MEAN_GRAY, np.float32)
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    inner = _resize(pixels, inner_height, inner_width)
    padded[top : top + inner_height, left : left + inner_width] = inner
    return padded


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each channel in float32, so that nothing is rounded to whole gray levels."""
    channels = [
        Image.fromarray(np.ascontiguousarray(pixels[..., c], np.float32)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        for c in range(3)
    ]
    return np.clip(np.stack([np.asarray(c) for c in channels], axis=-1), 0.0, 255.0)
