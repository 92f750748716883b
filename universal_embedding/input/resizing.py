"""From a picture of any size to the square that a backbone takes; the same in training,
evaluation and export.
"""

import tensorflow as tf

ASPECTS = ("squash", "crop", "pad")


def resize(images: tf.Tensor, size: int, aspect: str = "squash") -> tf.Tensor:
    """Resizes with antialiased bilinear interpolation.

    Args:
        images: `[H, W, 3]` or `[B, H, W, 3]`, any numeric dtype, 0..255, H and W >= 1.
        size: Side of the result in pixels.
        aspect: `squash` changes the aspect ratio, `crop` keeps the central square, `pad` keeps the
            whole picture and fills the rest with its mid grey (127.5).

    Returns:
        `[size, size, 3]` or `[B, size, size, 3]` float32, 0..255.
    """
    if aspect not in ASPECTS:
        raise ValueError(f"aspect is {aspect!r}; it must be one of {ASPECTS}")
    images = tf.cast(images, tf.float32)
    shape = tf.shape(images)
    height, width = shape[-3], shape[-2]
    if aspect == "crop":
        # Cropping first gives the same picture and keeps a 1 x 3000 one small.
        side = tf.minimum(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        images = images[..., top : top + side, left : left + side, :]
    if aspect != "pad":
        return _resize(images, [size, size])
    scale = size / tf.maximum(height, width)
    new = tf.cast(tf.round(tf.cast([height, width], tf.float64) * scale), tf.int32)
    new = tf.clip_by_value(new, 1, size)
    before = (size - new) // 2
    after = size - new - before
    edges = [[before[0], after[0]], [before[1], after[1]], [0, 0]]
    if images.shape.rank == 4:
        edges = [[0, 0], *edges]
    padded = tf.pad(_resize(images, new), edges, constant_values=127.5)
    return tf.ensure_shape(padded, [*images.shape[:-3], size, size, 3])


def _resize(images: tf.Tensor, size: list[int] | tf.Tensor) -> tf.Tensor:
    # float32 rounding can leave the range by a hair
    return tf.clip_by_value(tf.image.resize(images, size, antialias=True), 0.0, 255.0)
