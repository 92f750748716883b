"""The softmax of scaled cosines, split at the target class.

The loss of a picture is `log(1 + exp(others - target))`: `target` its logit for its own class,
which a margin may still change, `others` the log of the summed exponentials of all other classes.
Everything that grows with the number of classes is in `others`, and knows nothing of margins.
"""

import tensorflow as tf

NEVER = -1e30  # a logit whose exponential is zero, and finite, so that no NaN can come of it
Split = tuple[tf.Tensor, tf.Tensor]  # target `[B]`, others `[B]`


def unit_rows(matrix: tf.Tensor) -> tf.Tensor:
    """`[N, D]` rows scaled to length 1. A zero row stays zero and gets no gradient."""
    square = tf.reduce_sum(tf.square(matrix), axis=-1, keepdims=True)
    inside = square > 1e-30
    return matrix * tf.where(inside, tf.math.rsqrt(tf.where(inside, square, 1.0)), 0.0)


def class_logits(queries: tf.Tensor, weights: tf.Tensor, centers: int) -> tf.Tensor:
    """`[B, D]` scaled queries, `[C * centers, D]` weights -> `[B, C]`, each class's best centre."""
    logits = tf.matmul(queries, unit_rows(weights), transpose_b=True)
    if centers > 1:
        classes = weights.shape[0] // centers
        logits = tf.reduce_max(tf.reshape(logits, (-1, classes, centers)), axis=-1)
    return logits


def plain_split(
    queries: tf.Tensor,
    weights: tf.Tensor,
    labels: tf.Tensor,
    centers: int = 1,
    bias: tf.Tensor | None = None,
) -> Split:
    """Target logit and log-sum-exp of the other classes, by the whole `[B, C]` matrix.

    Args:
        queries: `[B, D]` float32, unit rows times the scale.
        weights: `[C * centers, D]` float32 of any length; class c has rows `c * centers` and on.
        labels: `[B]` int32, the target's class, or -1 where it is not among these.
        centers: Weights for each class.
        bias: `[C]` float32 added to the logits of a class as one of the others, or None.

    Returns:
        target: `[B]` float32, 0 where the label is -1.
        others: `[B]` float32, `NEVER` where no other class is.
    """
    logits = class_logits(queries, weights, centers)
    is_target = tf.range(logits.shape[1])[None] == labels[:, None]
    target = tf.reduce_sum(tf.where(is_target, logits, 0.0), axis=1)
    if bias is not None:
        logits += bias
    return target, tf.reduce_logsumexp(tf.where(is_target, NEVER, logits), axis=1)
