"""Sampled softmax over classes (Partial FC, arXiv 2203.15565), for heads with millions of classes.

The batch's own classes are always included. The class ids are divided into equal strata; one class
is sampled from each, and its exponential counts as often as its stratum has classes. So the
expectation of the summed exponentials is exactly the sum over all classes. (Their logarithm, the
loss, is slightly lower on average; the gap closes as more classes are sampled.)
"""

import numpy as np
import tensorflow as tf

from universal_embedding.models.heads.softmax import NEG_INF


def sample_classes(
    labels: tf.Tensor, num_classes: int, num_sampled: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Samples classes for a batch.

    Args:
        labels: `[B]` int32, -1 where the image's class is not among these.
        num_classes: C, to sample from.
        num_sampled: M <= C, to sample besides the batch's own.
        seed: `[2]` int32; the sample is a function of it.

    Returns:
        ids: `[B + M]` int32, the included classes.
        bias: `[B + M]` float32, log of the number of classes that each represents, `NEG_INF` for
            none.
        positions: `[B]` int32, the position of each label in `ids`, -1 where the label is -1.
    """
    valid = labels >= 0
    first = tf.argmax(labels[:, None] == labels[None], axis=1, output_type=tf.int32)
    is_first = valid & (first == tf.range(tf.size(labels)))

    starts = np.arange(num_sampled + 1, dtype=np.int64) * num_classes // num_sampled
    widths = np.float32(np.diff(starts))
    sampled = tf.random.stateless_uniform([num_sampled], seed, alg="philox") * widths
    sampled = np.int32(starts[:-1]) + tf.cast(tf.minimum(sampled, widths - 1), tf.int32)
    sorted_labels = tf.sort(labels)
    place = tf.minimum(tf.searchsorted(sorted_labels, sampled), tf.size(labels) - 1)
    in_batch = tf.gather(sorted_labels, place) == sampled

    ids = tf.concat((tf.maximum(labels, 0), sampled), axis=0)
    bias = tf.concat(
        (tf.where(is_first, 0.0, NEG_INF), tf.where(in_batch, NEG_INF, np.log(widths))), 0
    )
    return ids, bias, tf.where(valid, first, -1)


def gather_class_weights(weights: tf.Tensor, ids: tf.Tensor, num_subcenters: int) -> tf.Tensor:
    """Gathers the weights of N classes; the gradient is sparse (`tf.IndexedSlices`).

    Args:
        weights: `[C * num_subcenters, D]`.
        ids: `[N]` int32 classes.
        num_subcenters: Weight rows per class.

    Returns:
        `[N * num_subcenters, D]`.
    """
    rows = ids[:, None] * num_subcenters + tf.range(num_subcenters)
    return tf.gather(weights, tf.reshape(rows, [-1]))
