"""Relational knowledge distillation by distances, RKD-D: Park et al., CVPR 2019, arXiv 1904.05068.

Distances are divided by their mean over the pairs of the batch (those of one domain, where each
domain has a teacher of its own), and the student's follow the teacher's by the Huber loss.
"""

from collections.abc import Mapping

import tensorflow as tf

from universal_embedding.training.objectives import in_batch
from universal_embedding.training.objectives.base import Objective, Outputs, Setting


class Loss(Objective):
    """The Huber loss (delta 1) of relative distances, mean over an anchor's others."""

    def __init__(self, setting: Setting) -> None:
        self.teachers = setting.required_teachers()

    def losses(self, batch: Mapping[str, tf.Tensor], outputs: Outputs) -> tf.Tensor:
        """`[b]` float32; 0 where the batch has no other picture to compare with."""
        mask = in_batch.comparable(batch, self.teachers.universal)
        teacher = tf.stop_gradient(_relative(in_batch.distances(self.teachers(batch)), mask))
        student = _relative(in_batch.distances(outputs.embedding), mask)
        error = tf.abs(teacher - student)
        huber = tf.where(error < 1.0, 0.5 * tf.square(error), error - 0.5)
        return in_batch.row_means(huber, mask)


def _relative(distances: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Distances over the mean of all pairs within the anchor's group, anchors of all replicas."""
    sums = in_batch.gathered(in_batch.row_sums(distances, mask))
    counts = in_batch.gathered(tf.reduce_sum(tf.cast(mask, tf.float32), axis=1))
    group = tf.cast(mask | in_batch.itself(distances), tf.float32)
    mean = tf.math.divide_no_nan(tf.linalg.matvec(group, sums), tf.linalg.matvec(group, counts))
    return tf.math.divide_no_nan(distances, mean[:, None])
