"""Contrastive losses on pairs of labels, for batches of P classes x K images.

Set K by `config.data.images_per_class`. Positives of an anchor i are the other images of its class
(P_i), negatives all images of other classes and domains (N_i); s_ij is the cosine similarity.

Supervised contrastive learning, `L_out` of Khosla et al., NeurIPS 2020, arXiv 2004.11362:

    loss_i = mean_{p in P_i} -log( exp(s_ip / T) / sum_{j != i} exp(s_ij / T) )

Multi-similarity loss, equations 11 to 15 of Wang et al., CVPR 2019, arXiv 1904.06627:

    loss_i = log(1 + sum_{p in P'_i} exp(-alpha (s_ip - base))) / alpha
           + log(1 + sum_{n in N'_i} exp(beta (s_in - base))) / beta

over the hard pairs: positives P'_i with s_ip < max_n s_in + epsilon and negatives N'_i with
s_in > min_p s_ip - epsilon.
"""

from collections.abc import Mapping

import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads import NEG_INF
from universal_embedding.training.losses import pairwise
from universal_embedding.training.losses.base import Loss, LossContext, ModelOutputs


class SupConLoss(Loss):
    """Supervised contrastive loss; options in `config.losses.supcon`."""

    uses_whole_batch = True

    def __init__(self, context: LossContext) -> None:
        _refuse_mixed_images(context, "supcon")
        self.temperature = context.config.losses.supcon.temperature

    def __call__(self, batch: Mapping[str, tf.Tensor], outputs: ModelOutputs) -> tf.Tensor:
        """`[b]` float32; 0 for an image without another one of its class."""
        positive, negative = label_masks(batch)
        logits = pairwise.cosine_similarity(outputs.embedding) / self.temperature
        log_probs = pairwise.masked_log_softmax(logits, positive | negative)
        return pairwise.masked_mean(-log_probs, positive)


class MultiSimilarityLoss(Loss):
    """Multi-similarity loss with hard-pair mining; options in `config.losses.multi_similarity`."""

    uses_whole_batch = True

    def __init__(self, context: LossContext) -> None:
        _refuse_mixed_images(context, "multi_similarity")
        config = context.config.losses.multi_similarity
        self.alpha, self.beta = config.alpha, config.beta
        self.base, self.epsilon = config.base, config.epsilon

    def __call__(self, batch: Mapping[str, tf.Tensor], outputs: ModelOutputs) -> tf.Tensor:
        """`[b]` float32; 0 where no pair is hard."""
        similarity = pairwise.cosine_similarity(outputs.embedding)
        positive, negative = label_masks(batch)
        nearest_negative = tf.reduce_max(tf.where(negative, similarity, -2.0), 1, keepdims=True)
        farthest_positive = tf.reduce_min(tf.where(positive, similarity, 2.0), 1, keepdims=True)
        positive &= similarity - self.epsilon < nearest_negative
        negative &= similarity + self.epsilon > farthest_positive
        pull = _log_one_plus_sum_exp(-self.alpha * (similarity - self.base), positive) / self.alpha
        push = _log_one_plus_sum_exp(self.beta * (similarity - self.base), negative) / self.beta
        return pull + push


def label_masks(batch: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """`[b, B]` bool masks of each anchor's positives and negatives."""
    positive = pairwise.pair_mask(batch) & (
        batch["label"][:, None] == pairwise.all_gather(batch["label"])
    )
    return positive, pairwise.pair_mask(batch, across_domains=True) & ~positive


def _log_one_plus_sum_exp(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`[b]`: log(1 + sum of exponentials over the columns in `mask`)."""
    logits = tf.where(mask, logits, NEG_INF)
    return tf.reduce_logsumexp(tf.pad(logits, [[0, 0], [1, 0]]), axis=1)


def _refuse_mixed_images(context: LossContext, name: str) -> None:
    augmentation = context.config.augmentation
    if augmentation.mixup or augmentation.cutmix:
        raise UserError(
            f"config.losses.{name} compares pairs of labels, and a mixed image has two; set "
            "config.augmentation.mixup and config.augmentation.cutmix to 0"
        )
