"""Softmax over scaled cosines, split at the target class, and the margins of the target.

The loss of an image is `log(1 + exp(rest_logsumexp - target_logit))`: the logit of its own class,
which a margin may change, and the log of the summed exponentials of all other classes. Everything
that grows with the number of classes is in `rest_logsumexp`, which does not depend on margins.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

MARGIN_TYPES = ("none", "cosface", "arcface")
NEG_INF = -1e30  # a logit whose exponential is zero; finite, so that it cannot cause NaN
SoftmaxTerms = tuple[tf.Tensor, tf.Tensor]  # target_logit [B], rest_logsumexp [B]


def l2_normalize(matrix: tf.Tensor) -> tf.Tensor:
    """Scales the rows of `[N, D]` to length 1; a zero row stays zero and gets no gradient."""
    square = tf.reduce_sum(tf.square(matrix), axis=-1, keepdims=True)
    nonzero = square > 1e-30
    return matrix * tf.where(nonzero, tf.math.rsqrt(tf.where(nonzero, square, 1.0)), 0.0)


def class_logits(queries: tf.Tensor, weights: tf.Tensor, num_subcenters: int) -> tf.Tensor:
    """Logits of every class, each by its nearest sub-center.

    Args:
        queries: `[B, D]` float32, unit rows times the scale.
        weights: `[C * num_subcenters, D]` float32 of any length.
        num_subcenters: Weight rows per class.

    Returns:
        `[B, C]` float32.
    """
    logits = tf.matmul(queries, l2_normalize(weights), transpose_b=True)
    if num_subcenters > 1:
        num_classes = weights.shape[0] // num_subcenters
        logits = tf.reduce_max(tf.reshape(logits, (-1, num_classes, num_subcenters)), axis=-1)
    return logits


def softmax_terms(
    queries: tf.Tensor,
    weights: tf.Tensor,
    labels: tf.Tensor,
    num_subcenters: int = 1,
    bias: tf.Tensor | None = None,
) -> SoftmaxTerms:
    """Computes the target logit and the log-sum-exp of the other classes, from all logits at once.

    Args:
        queries: `[B, D]` float32, unit rows times the scale.
        weights: `[C * num_subcenters, D]` float32 of any length; the rows of class c start at
            `c * num_subcenters`.
        labels: `[B]` int32, the target class, or -1 where it is not among these.
        num_subcenters: Weight rows per class.
        bias: `[C]` float32, added to the logits of the classes other than the target, or None.

    Returns:
        target_logit: `[B]` float32, 0 where the label is -1.
        rest_logsumexp: `[B]` float32, `NEG_INF` where there is no other class.
    """
    logits = class_logits(queries, weights, num_subcenters)
    is_target = tf.range(logits.shape[1])[None] == labels[:, None]
    target_logit = tf.reduce_sum(tf.where(is_target, logits, 0.0), axis=1)
    if bias is not None:
        logits += bias
    return target_logit, tf.reduce_logsumexp(tf.where(is_target, NEG_INF, logits), axis=1)


def apply_margin(cosine: tf.Tensor, margin: tf.Tensor, margin_type: str) -> tf.Tensor:
    """Applies a margin to the target's cosine; finite, with finite gradients, on all of [-1, 1].

    Args:
        cosine: `[B]` float32, clamped here to [-1, 1]; the gradient passes through the clamp.
        margin: `[B]` or scalar float32: radians in [0, pi] for `arcface`, a cosine for `cosface`.
        margin_type: `none` (NormFace, arXiv 1704.06369): cos t. `cosface` (arXiv 1801.09414):
            cos t - m. `arcface` (arXiv 1801.07698): cos(t + m), and past t + m = pi the easy
            continuation cos t - m sin m, which keeps falling as t grows.

    Returns:
        `[B]` float32.
    """
    cosine += tf.stop_gradient(tf.clip_by_value(cosine, -1.0, 1.0) - cosine)
    if margin_type == "none":
        return cosine
    if margin_type == "cosface":
        return cosine - margin
    # sin t has infinite slope at t = 0 and pi: its value is exact there, its slope taken as 0.
    square = (1.0 - cosine) * (1.0 + cosine)
    inside = square > 0.0
    sine = tf.where(inside, tf.sqrt(tf.where(inside, square, 1.0)), 0.0)
    shifted = cosine * tf.cos(margin) - sine * tf.sin(margin)
    return tf.where(cosine >= -tf.cos(margin), shifted, cosine - margin * tf.sin(margin))


def class_margins(
    sizes: Sequence[int] | np.ndarray, scale: float = 0.5, power: float = 0.25, offset: float = 0.0
) -> np.ndarray:
    """Margins by class size, larger for rarer classes: `scale * size ** -power + offset`.

    Used by the winners of Google Landmark Recognition 2020 (arXiv 2010.05350).

    Args:
        sizes: `[C]` images per class, at least one.
        scale: Margin of a class with one image, before the offset.
        power: How fast the margin falls with the class size.
        offset: Margin of an infinitely large class.

    Returns:
        `[C]` float32.
    """
    margins = scale * np.asarray(sizes, np.float64) ** -power + offset
    return margins.astype(np.float32)
