"""The multi-similarity loss: Wang et al., CVPR 2019, arXiv 1904.06627, equations 11 to 15.

For batches of P classes x K pictures (`config.data.pictures_per_class`). Of the pairs, those count
that are hard by the anchor's other kind: negatives nearer than its farthest positive, positives
farther than its nearest negative, within the margin `mining`.
"""

from collections.abc import Mapping

import tensorflow as tf

from universal_embedding.training.objectives import in_batch
from universal_embedding.training.objectives.base import Objective, Outputs, Setting
from universal_embedding.training.objectives.supervised_contrastive import positives_and_negatives


class Loss(Objective):
    """Log-sum-exp of the mined positives below, and negatives above, the similarity `base`."""

    def __init__(self, setting: Setting) -> None:
        config = setting.config.pairs
        self.alpha, self.beta = config.alpha, config.beta
        self.base, self.mining = config.base, config.mining

    def losses(self, batch: Mapping[str, tf.Tensor], outputs: Outputs) -> tf.Tensor:
        """`[b]` float32; 0 where no pair is hard."""
        cosines = in_batch.cosines(outputs.embedding)
        positive, negative = positives_and_negatives(batch)
        nearest_negative = tf.reduce_max(tf.where(negative, cosines, -2.0), 1, keepdims=True)
        farthest_positive = tf.reduce_min(tf.where(positive, cosines, 2.0), 1, keepdims=True)
        positive &= cosines - self.mining < nearest_negative
        negative &= cosines + self.mining > farthest_positive
        pull = _soft_plus(-self.alpha * (cosines - self.base), positive) / self.alpha
        return pull + _soft_plus(self.beta * (cosines - self.base), negative) / self.beta


def _soft_plus(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`[b]`: log(1 + sum of exponentials over the columns in `mask`)."""
    logits = tf.where(mask, logits, in_batch.NEVER)
    return tf.reduce_logsumexp(tf.pad(logits, [[0, 0], [1, 0]]), axis=1)
