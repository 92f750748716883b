"""Matching a teacher's distances as they are: what Feng et al. (arXiv 2003.03701) improve on."""

from collections.abc import Mapping

import tensorflow as tf

from universal_embedding.training.objectives import in_batch
from universal_embedding.training.objectives.base import Objective, Outputs, Setting


class Loss(Objective):
    """The squared difference of the two Euclidean distances, mean over an anchor's others."""

    def __init__(self, setting: Setting) -> None:
        self.teachers = setting.required_teachers()

    def losses(self, batch: Mapping[str, tf.Tensor], outputs: Outputs) -> tf.Tensor:
        """`[b]` float32; 0 where the batch has no other picture to compare with."""
        mask = in_batch.comparable(batch, self.teachers.universal)
        teacher = tf.stop_gradient(in_batch.distances(self.teachers(batch)))
        student = in_batch.distances(outputs.embedding)
        return in_batch.row_means(tf.square(teacher - student), mask)
