"""Pairs within the global batch: this replica's anchors against the examples of all replicas.

`b` is the size of this replica's slice of the batch, `B` the size of the global batch. A loss over
such pairs does not depend on how the batch is split: the gather passes gradients back to the
replica that an example came from, and the train step sums them over the replicas.
"""

from collections.abc import Mapping

import tensorflow as tf

from universal_embedding.models import heads
from universal_embedding.models.heads import all_gather


def self_mask(anchors: tf.Tensor) -> tf.Tensor:
    """`[b, B]` bool: True where an anchor meets itself; `anchors` is any `[b, ...]`."""
    context = tf.distribute.get_replica_context()
    size = tf.shape(anchors)[0]
    columns = tf.range(size * context.num_replicas_in_sync)
    return (context.replica_id_in_sync_group * size + tf.range(size))[:, None] == columns


def pair_mask(batch: Mapping[str, tf.Tensor], across_domains: bool = False) -> tf.Tensor:
    """`[b, B]` bool: the examples to compare with each anchor, never the anchor itself.

    Args:
        batch: Has `domain [b]`.
        across_domains: Select the examples of all domains, not only those of the anchor's domain.
    """
    domain = batch["domain"]
    mask = ~self_mask(domain)
    return mask if across_domains else mask & (domain[:, None] == all_gather(domain))


def cosine_similarity(embedding: tf.Tensor) -> tf.Tensor:
    """`[b, D]` unit rows -> `[b, B]` cosine similarities."""
    return tf.matmul(embedding, all_gather(embedding), transpose_b=True)


def squared_distances(embedding: tf.Tensor) -> tf.Tensor:
    """`[b, D]` unit rows -> `[b, B]` squared Euclidean distances."""
    return 2.0 - 2.0 * cosine_similarity(embedding)


def distances(embedding: tf.Tensor) -> tf.Tensor:
    """`[b, D]` unit rows -> `[b, B]` Euclidean distances, with finite gradients everywhere."""
    square = squared_distances(embedding)
    distinct = square > 1e-6  # anything closer is rounding noise
    return tf.where(distinct, tf.sqrt(tf.where(distinct, square, 1.0)), 0.0)


def masked_log_softmax(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Log softmax over each row's columns in `mask`; finite but meaningless elsewhere."""
    return tf.nn.log_softmax(tf.where(mask, logits, heads.NEG_INF), axis=1)


def masked_sum(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`[b]`: each row's sum over its columns in `mask`."""
    return tf.reduce_sum(tf.where(mask, values, 0.0), axis=1)


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`[b]`: each row's mean over its columns in `mask`; 0 where there are none."""
    counts = tf.reduce_sum(tf.cast(mask, tf.float32), axis=1)
    return tf.math.divide_no_nan(masked_sum(values, mask), counts)
