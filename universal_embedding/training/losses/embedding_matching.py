"""Embedding matching: the student predicts each teacher's own embeddings."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from universal_embedding.models.heads import l2_normalize
from universal_embedding.training.losses.base import LossContext, ModelOutputs
from universal_embedding.training.losses.teacher_loss import TeacherLoss

if TYPE_CHECKING:
    from universal_embedding.training.teachers import Teacher


class EmbeddingMatching(TeacherLoss):
    """Half `1 - cosine` and half smooth L1 of a projector's output and the teacher's embedding.

    As in UNIC (ECCV 2024). The teacher's embedding is standardized by PHI-S; the projector maps the
    student's embedding to it: a linear layer, or one hidden layer of `hidden_dim` with GELU. There
    is one for each source of a teacher. Projectors are part of checkpoints, not of the model.
    Options in `config.losses.embedding_matching`.
    """

    def __init__(self, context: LossContext) -> None:
        super().__init__(context)
        hidden_dim = context.config.losses.embedding_matching.hidden_dim
        strategy = tf.distribute.get_strategy()
        self.projectors: list[list[keras.Sequential]] = []
        for teacher in self.teachers:
            dims = [source.dim(strategy) for source in teacher.sources]
            self.projectors.append(
                [_make_projector(context.model.output_dim, hidden_dim, dim) for dim in dims]
            )

    def variables_by_group(self) -> dict[str, list[keras.Variable]]:
        """`projector`: those of all teachers."""
        projectors = [projector for group in self.projectors for projector in group]
        return {"projector": [v for p in projectors for v in p.trainable_variables]}

    def compare(
        self, number: int, teacher: "Teacher", batch: Mapping[str, tf.Tensor], outputs: ModelOutputs
    ) -> tf.Tensor:
        """`[b]` float32; 0 for images that the teacher does not know."""
        targets = teacher.standardized(batch)
        result = tf.zeros_like(targets[:, 0])
        for source, projector in zip(teacher.sources, self.projectors[number], strict=True):
            predicted = projector(outputs.embedding)
            loss = cosine_smooth_l1(predicted, targets[:, : predicted.shape[-1]])
            result = tf.where(teacher.taught_by(source, batch), loss, result)
        return result


def cosine_smooth_l1(predicted: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Half of `1 - cosine`, and half of the mean smooth L1 (threshold 1) over the coordinates.

    Args:
        predicted: `[b, D]` float32.
        target: `[b, D]` float32.

    Returns:
        `[b]` float32.
    """
    cosine = tf.reduce_sum(l2_normalize(predicted) * l2_normalize(target), axis=1)
    error = tf.abs(predicted - target)
    smooth_l1 = tf.where(error < 1.0, 0.5 * tf.square(error), error - 0.5)
    return 0.5 * (1.0 - cosine) + 0.5 * tf.reduce_mean(smooth_l1, axis=1)


def _make_projector(dim: int, hidden_dim: int, output_dim: int) -> keras.Sequential:
    layers = [keras.layers.Dense(hidden_dim, "gelu", dtype="float32")] if hidden_dim else []
    projector = keras.Sequential([*layers, keras.layers.Dense(output_dim, dtype="float32")])
    projector.build((None, dim))
    return projector
