"""A loss to each of several teachers, and the weights of their sum, for each image."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.input.hashing import hash_ints
from universal_embedding.training.losses.base import Loss, LossContext, ModelOutputs

if TYPE_CHECKING:
    from universal_embedding.training.teachers import Teacher, Teachers

_PURPOSE = 0x7EAC  # separates these draws from others of one seed


class TeacherLoss(Loss):
    """The weighted mean of a loss to each teacher; with several, the log has each of them too."""

    def __init__(self, context: LossContext) -> None:
        self.teachers = context.require_teachers()
        self.weights = TeacherWeights(context.config, self.teachers)
        names = tuple(teacher.name for teacher in self.teachers)
        self.monitors = names if len(names) > 1 else ()
        self.state = self.weights.variables

    @abstractmethod
    def compare(
        self, number: int, teacher: "Teacher", batch: Mapping[str, tf.Tensor], outputs: ModelOutputs
    ) -> tf.Tensor:
        """`[b]` float32: the loss to one teacher, the `number`-th; any where it is unknown."""

    def __call__(self, batch: Mapping[str, tf.Tensor], outputs: ModelOutputs) -> tf.Tensor:
        """`[b]` float32; with T > 1 teachers `[1 + T, b]`: the combined loss, and that to each."""
        losses = [
            self.compare(number, teacher, batch, outputs)
            for number, teacher in enumerate(self.teachers)
        ]
        return self.weights.combine(losses, batch, outputs.step)

    def update_state(self, sums: tf.Tensor, counts: tf.Tensor) -> None:
        """Moves the averages of the teachers' losses; see `TeacherWeights`."""
        self.weights.update(sums, counts)


class TeacherWeights:
    """Weighted mean over the teachers that know an image: `sum(w_t l_t) / sum(w_t)`.

    The weight w_t of a teacher is that of the config; with `balance_decay`, divided by the moving
    average of its loss, so that each teacher has an equal part in the sum whatever the scale of its
    losses. With `drop_probability` (teacher dropping of UNIC, ECCV 2024), the teacher with the
    largest `w_t l_t` of an image always counts, and each other one is left out with that
    probability. Draws are a function of the seed, the step and the image's record.

    Args:
        config: The config of the run.
        teachers: Its teachers.

    Attributes:
        variables: The moving averages, `[T]` float32, of the last steps; empty without
            `balance_decay`.

    Raises:
        UserError: an option is out of its range.
    """

    def __init__(self, config: ConfigDict, teachers: "Teachers") -> None:
        options, self._seed = config.distillation, config.seed
        self._teachers = list(teachers)
        self._drop, self._decay = options.drop_probability, options.balance_decay
        for name in ("drop_probability", "balance_decay"):
            if not 0.0 <= options[name] < 1.0:
                raise UserError(
                    f"config.distillation.{name} is {options[name]}; it must be in [0, 1)"
                )
        self._weights = [teacher.weight for teacher in self._teachers]
        if min(self._weights) <= 0.0:
            raise UserError(
                f"config.distillation.teachers have the weights {self._weights}; each must be "
                "above 0: remove a teacher that is not to count"
            )
        self.variables: list[tf.Variable] = []
        if self._decay and len(self._teachers) > 1:
            # Equal on all replicas, each of which updates its own.
            means = tf.Variable(tf.zeros([len(self._teachers)]), trainable=False)
            self.variables = [means]

    def combine(
        self, losses: Sequence[tf.Tensor], batch: Mapping[str, tf.Tensor], step: tf.Tensor
    ) -> tf.Tensor:
        """Combines the losses of the teachers.

        Args:
            losses: Of each teacher `[b]` float32.
            batch: This replica's slice of a batch.
            step: The run's step, int64 scalar.

        Returns:
            `[1 + T, b]` float32: the combined losses, and those of each teacher, 0 for images that
            it does not know; `[b]` with one teacher.
        """
        known = [teacher.knows(batch) for teacher in self._teachers]
        rows = [
            loss if mask is None else tf.where(mask, loss, 0.0)
            for loss, mask in zip(losses, known, strict=True)
        ]
        if len(rows) == 1:
            return rows[0]
        weights = tf.constant(self._weights)[:, None]
        if self.variables:
            means = self.variables[0].value()[:, None]
            weights *= tf.where(means > 0.0, tf.math.divide_no_nan(1.0, means), 1.0)
        ones = tf.ones_like(rows[0])
        is_known = tf.stack([ones if m is None else tf.cast(m, tf.float32) for m in known])
        values = tf.stack(rows)
        coefficients = weights * is_known
        if self._drop:
            coefficients *= self._kept(coefficients * values, is_known, batch, step)
        coefficients = tf.stop_gradient(
            tf.math.divide_no_nan(coefficients, tf.reduce_sum(coefficients, axis=0))
        )
        return tf.concat([tf.reduce_sum(coefficients * values, axis=0)[None], values], axis=0)

    def _kept(
        self,
        scores: tf.Tensor,
        is_known: tf.Tensor,
        batch: Mapping[str, tf.Tensor],
        step: tf.Tensor,
    ) -> tf.Tensor:
        """`[T, b]`: 1 for the teacher with the largest score of an image and for those drawn."""
        scores = tf.where(is_known > 0.0, scores, -1.0)
        largest = tf.one_hot(tf.argmax(scores, axis=0), len(self._weights), axis=0)
        numbers = tf.range(len(self._weights), dtype=tf.int64)[:, None]
        bits = hash_ints(_PURPOSE, self._seed, step, batch["domain"], batch["record"], numbers)
        bits = tf.bitcast(tf.bitwise.right_shift(bits, tf.constant(40, tf.uint64)), tf.int64)
        drawn = tf.cast(tf.cast(bits, tf.float32) * 2.0**-24 >= self._drop, tf.float32)
        return tf.maximum(largest, drawn)

    def update(self, sums: tf.Tensor, counts: tf.Tensor) -> None:
        """Moves the averages; call it in a replica context.

        Args:
            sums: `[1 + T, domains]` float32: sums of what `combine` returned, over all replicas.
            counts: `[domains]` float32: the number of images.
        """
        if not self.variables:
            return
        (means,) = self.variables
        known = tf.constant([teacher.known_domains for teacher in self._teachers], tf.float32)
        counts = tf.linalg.matvec(known, counts)
        new = tf.math.divide_no_nan(tf.reduce_sum(sums[1:], axis=1), counts)
        moved = tf.where(means > 0.0, self._decay * means + (1.0 - self._decay) * new, new)
        is_valid = (counts > 0.0) & tf.math.is_finite(new)
        means.assign(tf.where(is_valid, moved, means))
