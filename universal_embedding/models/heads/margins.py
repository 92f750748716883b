"""What a margin does to the cosine between a picture and its own class."""

import numpy as np
import tensorflow as tf

MARGINS = ("none", "cosface", "arcface")


def apply_margin(cosine: tf.Tensor, margin: tf.Tensor, kind: str) -> tf.Tensor:
    """The target's cosine with its margin, finite with finite gradients on all of [-1, 1].

    Args:
        cosine: `[B]` float32, clamped here to [-1, 1]; the gradient passes through the clamp.
        margin: `[B]` or scalar float32: radians in [0, pi] for `arcface`, a cosine for `cosface`.
        kind: `none` (NormFace, arXiv 1704.06369): cos t. `cosface` (arXiv 1801.09414): cos t - m.
            `arcface` (arXiv 1801.07698): cos(t + m), and past t + m = pi the easy continuation
            cos t - m sin m, which keeps falling as t grows.

    Returns:
        `[B]` float32.
    """
    cosine += tf.stop_gradient(tf.clip_by_value(cosine, -1.0, 1.0) - cosine)
    if kind == "none":
        return cosine
    if kind == "cosface":
        return cosine - margin
    # sin t has an infinite slope at t = 0 and pi: exact there in value, its slope taken as 0.
    square = (1.0 - cosine) * (1.0 + cosine)
    inside = square > 0.0
    sine = tf.where(inside, tf.sqrt(tf.where(inside, square, 1.0)), 0.0)
    turned = cosine * tf.cos(margin) - sine * tf.sin(margin)
    return tf.where(cosine >= -tf.cos(margin), turned, cosine - margin * tf.sin(margin))


def dynamic_margins(
    sizes: np.ndarray, scale: float = 0.5, power: float = 0.25, offset: float = 0.0
) -> np.ndarray:
    """Margins by class size, larger for rarer classes: `scale * size ** -power + offset`.

    Args:
        sizes: `[C]`, pictures of each class, at least one.
        scale: The margin of a class with one picture, without the offset.
        power: How fast it falls with the size.
        offset: The margin of an infinitely large class.

    Returns:
        `[C]` float32, as the winners of Google Landmark Recognition 2020 (arXiv 2010.05350).
    """
    return np.float32(scale * np.asarray(sizes, np.float64) ** -power + offset)
