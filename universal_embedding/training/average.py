"""The moving average of the weights (EMA), kept beside them."""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf


class WeightAverage:
    """`average = momentum * average + (1 - momentum) * weight` after every step.

    The momentum grows from 0 as `(1 + t) / (10 + t)` at first, so that the start is forgotten.

    Args:
        weights: The variables; ones that are not float are kept as they are.
        momentum: In (0, 1).
    """

    def __init__(self, weights: Sequence[tf.Variable], momentum: float) -> None:
        self.weights = [weight for weight in weights if weight.dtype.is_floating]
        self.momentum = momentum
        self.averages = [
            tf.Variable(
                weight, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
            )
            for weight in self.weights
        ]

    def update(self, step: tf.Tensor) -> None:
        """Moves the averages after step number `step`; in a replica's context."""
        step = tf.cast(step, tf.float32)
        keep = tf.minimum(self.momentum, (1.0 + step) / (10.0 + step))
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.assign(average + (weight - average) * tf.cast(1.0 - keep, weight.dtype))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the weights are their averages."""
        own = [tf.identity(weight) for weight in self.weights]
        _assign(self.weights, self.averages)
        try:
            yield
        finally:
            _assign(self.weights, own)


def _assign(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
