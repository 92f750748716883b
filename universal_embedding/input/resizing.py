"""Resizing of any image to the square that a backbone takes; training, evaluation and export."""

import tensorflow as tf

from universal_embedding.input.augmentation_config import RESIZE_MODES

__all__ = ["RESIZE_MODES", "resize"]


def resize(images: tf.Tensor, size: int, resize_mode: str = "squash") -> tf.Tensor:
    """Resizes with antialiased bilinear interpolation.

    Args:
        images: `[H, W, 3]` or `[B, H, W, 3]`, any numeric dtype, 0..255, H and W >= 1.
        size: Side of the result in pixels.
        resize_mode: `squash` changes the aspect ratio, `crop` keeps the central square, `pad` keeps
            the whole image and fills the rest with mid gray (127.5).

    Returns:
        `[size, size, 3]` or `[B, size, size, 3]` float32, 0..255.

    Raises:
        ValueError: the resize mode is unknown.
    """
    if resize_mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode is {resize_mode!r}; it must be one of {RESIZE_MODES}")
    images = tf.cast(images, tf.float32)
    shape = tf.shape(images)
    height, width = shape[-3], shape[-2]
    if resize_mode == "crop":
        # Cropping first gives the same result and keeps a 1 x 3000 image small.
        side = tf.minimum(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        images = images[..., top : top + side, left : left + side, :]
    if resize_mode != "pad":
        return _resize(images, [size, size])
    scale = size / tf.maximum(height, width)
    inner_size = tf.cast(tf.round(tf.cast([height, width], tf.float64) * scale), tf.int32)
    inner_size = tf.clip_by_value(inner_size, 1, size)
    start = (size - inner_size) // 2
    end = size - inner_size - start
    paddings = [[start[0], end[0]], [start[1], end[1]], [0, 0]]
    if images.shape.rank == 4:
        paddings = [[0, 0], *paddings]
    padded = tf.pad(_resize(images, inner_size), paddings, constant_values=127.5)
    return tf.ensure_shape(padded, [*images.shape[:-3], size, size, 3])


def _resize(images: tf.Tensor, size: list[int] | tf.Tensor) -> tf.Tensor:
    # float32 rounding can exceed the range slightly
    return tf.clip_by_value(tf.image.resize(images, size, antialias=True), 0.0, 255.0)
