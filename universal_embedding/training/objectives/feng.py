"""Distilling in-batch distance distributions: Feng et al. 2020, arXiv 2003.03701.

The distances from a picture to the others of its domain become probabilities, softmax of
-d^2 / temperature; the student's distribution follows the teacher's. Only distances are compared,
so teachers may have any number of dimensions.

Specialists say nothing of other domains. With `config.distillation.domains_apart` a specialist's
distribution gives their pictures the probability 0 and the student's is over the whole batch, so
that the student learns to keep domains apart, as one merged index needs it.
"""

from collections.abc import Mapping

import tensorflow as tf

from universal_embedding.training.objectives import in_batch
from universal_embedding.training.objectives.base import Objective, Outputs, Setting


class Loss(Objective):
    """KL(teacher || student) for each anchor; temperatures in `config.distillation`."""

    def __init__(self, setting: Setting) -> None:
        self.teachers = setting.required_teachers()
        config = setting.config.distillation
        self.teacher_temperature = config.teacher_temperature
        self.student_temperature = config.student_temperature
        self.domains_apart = config.domains_apart

    def losses(self, batch: Mapping[str, tf.Tensor], outputs: Outputs) -> tf.Tensor:
        """`[b]` float32; 0 where the batch has no other picture to compare with."""
        mask = in_batch.comparable(batch, self.teachers.universal)
        teacher = _log_probabilities(self.teachers(batch), mask, self.teacher_temperature)
        teacher = tf.stop_gradient(teacher)
        wide = in_batch.comparable(batch, across_domains=True) if self.domains_apart else mask
        student = _log_probabilities(outputs.embedding, wide, self.student_temperature)
        return in_batch.row_sums(tf.exp(teacher) * (teacher - student), mask)


def _log_probabilities(embedding: tf.Tensor, mask: tf.Tensor, temperature: float) -> tf.Tensor:
    return in_batch.log_softmax(-in_batch.squared_distances(embedding) / temperature, mask)
