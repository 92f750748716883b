"""A sample of the classes instead of all of them, for heads past a million classes (Partial FC).

The batch's own classes always take part; of the others one is drawn from each of many equal strata
of class numbers, its exponential counted as often as its stratum has classes. So the expectation of
the summed exponentials is exactly the sum over all classes (their logarithm, the loss, is a little
lower on average; it comes closer as more are drawn). Partial FC: arXiv 2203.15565.
"""

import numpy as np
import tensorflow as tf

from universal_embedding.models.heads.softmax import NEVER


def sample_classes(
    labels: tf.Tensor, classes: int, samples: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws classes for a batch.

    Args:
        labels: `[B]` int32, -1 where the picture's class is not among these.
        classes: C, to draw from.
        samples: M <= C, to draw besides the batch's own.
        seed: `[2]` int32; the draw is a function of it.

    Returns:
        ids: `[B + M]` int32, the classes that take part.
        bias: `[B + M]` float32, log of how many classes each stands for, `NEVER` for none.
        positions: `[B]` int32, where in `ids` each label stands, -1 where the label is -1.
    """
    valid = labels >= 0
    first = tf.argmax(labels[:, None] == labels[None], axis=1, output_type=tf.int32)
    once = valid & (first == tf.range(tf.size(labels)))

    starts = np.arange(samples + 1, dtype=np.int64) * classes // samples
    widths = np.float32(np.diff(starts))
    drawn = tf.random.stateless_uniform([samples], seed, alg="philox") * widths
    drawn = np.int32(starts[:-1]) + tf.cast(tf.minimum(drawn, widths - 1), tf.int32)
    known = tf.sort(labels)
    place = tf.minimum(tf.searchsorted(known, drawn), tf.size(labels) - 1)
    in_batch = tf.gather(known, place) == drawn

    ids = tf.concat((tf.maximum(labels, 0), drawn), axis=0)
    bias = tf.concat((tf.where(once, 0.0, NEVER), tf.where(in_batch, NEVER, np.log(widths))), 0)
    return ids, bias, tf.where(valid, first, -1)


def gather_classes(weights: tf.Tensor, ids: tf.Tensor, centers: int) -> tf.Tensor:
    """The `[N * centers, D]` rows of N classes; their gradient is sparse (`tf.IndexedSlices`)."""
    rows = ids[:, None] * centers + tf.range(centers)
    return tf.gather(weights, tf.reshape(rows, [-1]))
