"""Pairs within the global batch: this replica's anchors against the pictures of all replicas.

A loss over such pairs does not depend on how the batch is split. The gather passes gradients back
to the replica that a picture came from, and the step sums the replicas' losses.
"""

from collections.abc import Mapping

import tensorflow as tf

from universal_embedding.models.heads.sharding import gather_batch

NEVER = -1e30  # a logit whose exponential is zero, and finite, so that no NaN can come of it


def gathered(part: tf.Tensor) -> tf.Tensor:
    """`[b, ...]` of each replica -> `[B, ...]` of the global batch, the same on all."""
    context = tf.distribute.get_replica_context()
    return part if context.num_replicas_in_sync == 1 else gather_batch(part)


def itself(anchors: tf.Tensor) -> tf.Tensor:
    """`[b, B]` bool: where an anchor meets itself; `anchors` is any `[b, ...]`."""
    context = tf.distribute.get_replica_context()
    size = tf.shape(anchors)[0]
    columns = tf.range(size * context.num_replicas_in_sync)
    return (context.replica_id_in_sync_group * size + tf.range(size))[:, None] == columns


def comparable(batch: Mapping[str, tf.Tensor], across_domains: bool = False) -> tf.Tensor:
    """`[b, B]` bool: the pictures that an anchor is compared with, never itself.

    Args:
        batch: With `domain` `[b]`.
        across_domains: All others, instead of those of the anchor's own domain.
    """
    domain = batch["domain"]
    others = ~itself(domain)
    return others if across_domains else others & (domain[:, None] == gathered(domain))


def cosines(embedding: tf.Tensor) -> tf.Tensor:
    """`[b, D]` unit rows -> `[b, B]`."""
    return tf.matmul(embedding, gathered(embedding), transpose_b=True)


def squared_distances(embedding: tf.Tensor) -> tf.Tensor:
    """`[b, D]` unit rows -> `[b, B]` squared Euclidean distances."""
    return 2.0 - 2.0 * cosines(embedding)


def distances(embedding: tf.Tensor) -> tf.Tensor:
    """`[b, D]` unit rows -> `[b, B]` Euclidean distances; none has an infinite gradient."""
    square = squared_distances(embedding)
    apart = square > 1e-6  # nearer than that, rounding decides
    return tf.where(apart, tf.sqrt(tf.where(apart, square, 1.0)), 0.0)


def log_softmax(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Over each row's columns in `mask`; elsewhere finite and without meaning."""
    return tf.nn.log_softmax(tf.where(mask, logits, NEVER), axis=1)


def row_sums(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`[b]`: each row's sum over its columns in `mask`."""
    return tf.reduce_sum(tf.where(mask, values, 0.0), axis=1)


def row_means(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`[b]`: each row's mean over its columns in `mask`; 0 where there are none."""
    counts = tf.reduce_sum(tf.cast(mask, tf.float32), axis=1)
    return tf.math.divide_no_nan(row_sums(values, mask), counts)
