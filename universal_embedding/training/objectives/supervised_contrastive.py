"""Supervised contrastive learning: Khosla et al., NeurIPS 2020, arXiv 2004.11362, `L_out`.

For batches of P classes x K pictures (`config.data.pictures_per_class`): a picture without another
one of its class has no loss.
"""

from collections.abc import Mapping

import tensorflow as tf

from universal_embedding.training.objectives import in_batch
from universal_embedding.training.objectives.base import Objective, Outputs, Setting


class Loss(Objective):
    """Mean over the positives of -log softmax(cosine / temperature) among all others."""

    def __init__(self, setting: Setting) -> None:
        self.temperature = setting.config.pairs.temperature

    def losses(self, batch: Mapping[str, tf.Tensor], outputs: Outputs) -> tf.Tensor:
        """`[b]` float32."""
        positive, negative = positives_and_negatives(batch)
        logits = in_batch.cosines(outputs.embedding) / self.temperature
        return in_batch.row_means(-in_batch.log_softmax(logits, positive | negative), positive)


def positives_and_negatives(batch: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """`[b, B]` bool each: other pictures of the anchor's class, and of any other class."""
    same = in_batch.comparable(batch) & (
        batch["label"][:, None] == in_batch.gathered(batch["label"])
    )
    return same, in_batch.comparable(batch, across_domains=True) & ~same
