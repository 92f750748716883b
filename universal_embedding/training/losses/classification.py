"""Margin softmax classification: CosFace (arXiv 1801.09414) and ArcFace (arXiv 1801.07698).

For an embedding x of class y, with t_c the angle between x and the weight of class c,

    loss = -log( exp(s m(t_y)) / (exp(s m(t_y)) + sum_{c != y} exp(s cos t_c)) ),

with scale s and m(t) = cos t - margin (CosFace) or cos(t + margin) (ArcFace). Options are those of
`config.head`. The classes are those of all domains, or of the example's own domain
(`config.head.joint`). With `config.head.prefixes` it is the sum of the losses of the first 8, 16,
... dimensions, each scaled to unit length (Matryoshka, arXiv 2205.13147). An image that MixUp
(arXiv 1710.09412) or CutMix (arXiv 1905.04899) mixed with another has the mixture of the losses of
both labels.
"""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.models.heads import MarginHead, class_margins
from universal_embedding.training.losses.base import Loss, LossContext, ModelOutputs


class ClassificationLoss(Loss):
    """Cross-entropy of `models.heads.MarginHead` on the embedding."""

    def __init__(self, context: LossContext) -> None:
        self.domains = tuple(context.class_sizes)
        self.head: MarginHead = make_head(context, context.model.output_dim)
        self.uses_whole_batch = self.head.uses_whole_batch
        self.seed = context.config.seed
        self.prefixes = read_prefixes(context.config, context.model.output_dim)

    def variables_by_group(self) -> dict[str, list[keras.Variable]]:
        """`head`, or `head/<domain>` for each domain where classifiers are separate."""
        if self.head.joint:
            return {"head": self.head.class_weights}
        weights = zip(self.domains, self.head.class_weights, strict=True)
        return {f"head/{domain}": [variable] for domain, variable in weights}

    def updated_groups(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Separate classifiers are updated if the batch has examples of their domain."""
        if self.head.joint:
            return {}
        updated = tf.unstack(self.head.updated_groups(batch["domain"]), len(self.domains))
        return {
            f"head/{domain}": is_updated
            for domain, is_updated in zip(self.domains, updated, strict=True)
        }

    def __call__(self, batch: Mapping[str, tf.Tensor], outputs: ModelOutputs) -> tf.Tensor:
        """`[b]` float32."""
        seed = class_seed(self.seed, outputs.step, purpose="student")
        terms = [
            classify(self.head, outputs.embedding[:, :prefix], batch, outputs, seed)
            for prefix in self.prefixes
        ]
        return tf.add_n(terms)


def read_prefixes(config: ConfigDict, dim: int) -> tuple[int, ...]:
    """The dimensions of `config.head.prefixes`; `(dim,)` where it is empty.

    Raises:
        UserError: They do not rise to `dim`, or the head is sharded.
    """
    prefixes = tuple(config.head.prefixes) or (dim,)
    if min(prefixes) < 1 or list(prefixes) != sorted(set(prefixes)) or prefixes[-1] != dim:
        raise UserError(
            f"config.head.prefixes is {prefixes}; give rising numbers of dimensions, up to all "
            f"{dim} of the embedding, such as (8, 16, {dim})"
        )
    if len(prefixes) > 1 and config.head.sharded:
        raise UserError(
            f"config.head.prefixes is {prefixes}, which sharded classes do not support; set "
            "config.head.sharded=False, or leave config.head.prefixes empty"
        )
    return prefixes


def classify(
    head: MarginHead,
    embedding: tf.Tensor,
    batch: Mapping[str, tf.Tensor],
    outputs: ModelOutputs,
    seed: tf.Tensor,
) -> tf.Tensor:
    """`[b]` float32: a head's loss, of mixed images `mix * loss(label) + (1 - mix) * loss(label2)`.

    Args:
        head: The head.
        embedding: `[b, D]` float32.
        batch: `label` and `domain` `[b]`; if images are mixed, also `label2` and `mix` `[b]`.
        outputs: The stage's margin and label smoothing.
        seed: `[2]` int32, see `class_seed`.
    """
    options = {
        "margin_scale": outputs.margin_scale,
        "margin_shift": outputs.margin_shift,
        "label_smoothing": outputs.label_smoothing,
        "seed": seed,
    }
    loss = head(embedding, batch["label"], batch["domain"], **options)
    if "mix" not in batch:
        return loss
    partner_loss = head(embedding, batch["label2"], batch["domain"], **options)
    return batch["mix"] * loss + (1.0 - batch["mix"]) * partner_loss


def class_seed(seed: int, step: tf.Tensor, purpose: str) -> tf.Tensor:
    """`[2]` int32 seed of the classes that a head samples at a step (`num_sampled_classes`).

    Args:
        seed: The run's seed.
        step: int64 scalar.
        purpose: `student` or `teacher`. No two heads sample alike, nor as dropout does.
    """
    key = tf.stack([tf.constant(seed, tf.int64), step])
    purposes = {"student": 1, "teacher": 2}
    return tf.random.experimental.stateless_fold_in(tf.cast(key, tf.int32), purposes[purpose])


def make_head(context: LossContext, dim: int) -> MarginHead:
    """Creates the head of `config.head` for embeddings of `dim` dimensions."""
    config = context.config.head
    return MarginHead(
        {domain: len(sizes) for domain, sizes in context.class_sizes.items()},
        dim,
        margin_type=config.margin_type,
        margin=_margins(context),
        scale=config.scale,
        num_subcenters=config.num_subcenters,
        joint=config.joint,
        softmax_impl=config.softmax_impl,
        num_sampled_classes=config.num_sampled_classes or None,
        num_shards=context.num_replicas if config.sharded else 1,
    )


def _margins(context: LossContext) -> float | dict[str, np.ndarray]:
    """One margin for all classes, or one for each class by its number of images."""
    config = context.config.head
    if not config.class_margin:
        return config.margin
    return {
        domain: np.clip(
            class_margins(sizes, config.class_margin, config.class_margin_power, config.margin),
            *(config.class_margin_range or (None, None)),
        )
        for domain, sizes in context.class_sizes.items()
    }
