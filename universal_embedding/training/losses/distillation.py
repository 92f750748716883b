"""Distillation of the in-batch distances of trained teachers.

t_ij and s_ij are the Euclidean distances between images i and j in the teacher's and the student's
space. Only distances are compared, so the teachers may have any number of dimensions. An anchor i
is compared with the other images of its domain in the batch, or with all others that it knows where
the teacher is universal. With several teachers, each loss is a weighted mean; see `TeacherLoss`.

Distance distribution, Feng et al. 2020, arXiv 2003.03701:

    loss_i = KL(p_i || q_i),  p_i = softmax_j(-t_ij^2 / T_t),  q_i = softmax_j(-s_ij^2 / T_s)

Distance, the regression that Feng et al. improve on:

    loss_i = mean_j (t_ij - s_ij)^2

Relational knowledge distillation, RKD-D of Park et al., CVPR 2019, arXiv 1904.05068, with the
distances divided by their mean over the pairs of the batch (of the domain, where teachers are
specialists):

    loss_i = mean_j Huber(t_ij / mean(t) - s_ij / mean(s)),  delta 1
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import tensorflow as tf

from universal_embedding.training.losses import pairwise
from universal_embedding.training.losses.base import LossContext, ModelOutputs
from universal_embedding.training.losses.teacher_loss import TeacherLoss

if TYPE_CHECKING:
    from universal_embedding.training.teachers import Teacher


class DistanceDistributionDistillation(TeacherLoss):
    """KL(teacher || student) of each anchor's distance distribution.

    Options in `config.losses.distance_distribution`. Specialist teachers know nothing of other
    domains. With `mask_other_domains` the teacher's distribution gives their images probability 0
    and the student's covers the whole batch, so the student learns to keep domains apart, as a
    merged index needs it.
    """

    uses_whole_batch = True

    def __init__(self, context: LossContext) -> None:
        super().__init__(context)
        config = context.config.losses.distance_distribution
        self.teacher_temperature = config.teacher_temperature
        self.student_temperature = config.student_temperature
        self.mask_other_domains = config.mask_other_domains

    def compare(
        self, number: int, teacher: "Teacher", batch: Mapping[str, tf.Tensor], outputs: ModelOutputs
    ) -> tf.Tensor:
        """`[b]` float32; 0 where the batch has no image to compare with."""
        mask = _pair_mask(batch, teacher)
        expected = _log_probs(teacher(batch), mask, self.teacher_temperature)
        expected = tf.stop_gradient(expected)
        student_mask = mask
        if self.mask_other_domains:
            student_mask = pairwise.pair_mask(batch, across_domains=True)
        student = _log_probs(outputs.embedding, student_mask, self.student_temperature)
        return pairwise.masked_sum(tf.exp(expected) * (expected - student), mask)


class DistanceDistillation(TeacherLoss):
    """Mean squared difference of the teacher's and the student's distances."""

    uses_whole_batch = True

    def compare(
        self, number: int, teacher: "Teacher", batch: Mapping[str, tf.Tensor], outputs: ModelOutputs
    ) -> tf.Tensor:
        """`[b]` float32; 0 where the batch has no image to compare with."""
        mask = _pair_mask(batch, teacher)
        expected = tf.stop_gradient(pairwise.distances(teacher(batch)))
        student = pairwise.distances(outputs.embedding)
        return pairwise.masked_mean(tf.square(expected - student), mask)


class RKDDistanceLoss(TeacherLoss):
    """Mean Huber loss of the teacher's and the student's relative distances."""

    uses_whole_batch = True

    def compare(
        self, number: int, teacher: "Teacher", batch: Mapping[str, tf.Tensor], outputs: ModelOutputs
    ) -> tf.Tensor:
        """`[b]` float32; 0 where the batch has no image to compare with."""
        mask = _pair_mask(batch, teacher)
        expected = _relative_distances(teacher(batch), mask)
        expected = tf.stop_gradient(expected)
        student = _relative_distances(outputs.embedding, mask)
        error = tf.abs(expected - student)
        huber = tf.where(error < 1.0, 0.5 * tf.square(error), error - 0.5)
        return pairwise.masked_mean(huber, mask)


def _pair_mask(batch: Mapping[str, tf.Tensor], teacher: "Teacher") -> tf.Tensor:
    """`[b, B]` bool: the pairs whose distance the teacher knows."""
    mask = pairwise.pair_mask(batch, teacher.is_universal)
    known = teacher.knows(batch)
    if known is None:
        return mask
    return mask & known[:, None] & (pairwise.all_gather(tf.cast(known, tf.int32)) > 0)


def _log_probs(embedding: tf.Tensor, mask: tf.Tensor, temperature: float) -> tf.Tensor:
    return pairwise.masked_log_softmax(-pairwise.squared_distances(embedding) / temperature, mask)


def _relative_distances(embedding: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`[b, B]` distances over the mean of all pairs within the anchor's group, on all replicas."""
    distances = pairwise.distances(embedding)
    sums = pairwise.all_gather(pairwise.masked_sum(distances, mask))
    counts = pairwise.all_gather(tf.reduce_sum(tf.cast(mask, tf.float32), axis=1))
    group = tf.cast(mask | pairwise.self_mask(distances), tf.float32)
    mean = tf.math.divide_no_nan(tf.linalg.matvec(group, sums), tf.linalg.matvec(group, counts))
    return tf.math.divide_no_nan(distances, mean[:, None])
