"""Dynamic loss scaling for float16, as a few variables (arXiv 1710.03740)."""

import tensorflow as tf


class LossScale:
    """Doubles every `patience` good steps, halves and skips the step when gradients overflow.

    Args:
        patience: Good steps before the scale grows.
        initial: The first scale.
    """

    def __init__(self, patience: int = 2000, initial: float = 2.0**15) -> None:
        once = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self.scale = tf.Variable(initial, name="loss_scale", **once)
        self.good = tf.Variable(0, name="good_steps", dtype=tf.int32, **once)
        self.patience = patience

    @property
    def variables(self) -> list[tf.Variable]:
        """What a checkpoint keeps."""
        return [self.scale, self.good]

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss to take gradients of."""
        return loss * self.scale

    def unscaled(self, gradients: object) -> object:
        """Gradients of the loss itself, from those of the scaled one."""
        return tf.nest.map_structure(lambda gradient: gradient / self.scale, gradients)

    def update(self, norm: tf.Tensor) -> tf.Tensor:
        """Moves the scale; whether the step with gradients of this norm counts, bool scalar."""
        finite = tf.math.is_finite(norm)
        grows = self.good + 1 >= self.patience
        grown = tf.where(grows, self.scale * 2.0, self.scale)
        good = tf.where(grows, 0, self.good + 1)
        self.scale.assign(tf.where(finite, grown, tf.maximum(self.scale * 0.5, 1.0)))
        self.good.assign(tf.where(finite, good, 0))
        return finite
