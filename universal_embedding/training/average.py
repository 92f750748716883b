"""The moving average of the weights (EMA), kept beside them."""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf


class WeightAverage:
    """`average = momentum * average + (1 - momentum) * weight` after every step.

    In a run's first stage the momentum grows from 0 as `(1 + t) / (10 + t)`, so that the random
    start is forgotten. Each later stage averages anew from the weights it begins with, and keeps
    its part of them, `momentum ** steps`: what a pretrained model knew of pictures unlike those of
    training stays, as with the interpolation of WiSE-FT (arXiv 2109.01903).

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

    def restart(self) -> None:
        """Makes the averages the weights of now; outside of any replica."""
        _assign(self.averages, self.weights)

    def update(self, step: tf.Tensor, forgets: bool) -> None:
        """Moves the averages after step number `step`; in a replica's context.

        Args:
            step: Counted over the whole run.
            forgets: Whether the momentum is still growing.
        """
        step = tf.cast(step, tf.float32)
        grown = (1.0 + step) / (10.0 + step) if forgets else 1.0
        keep = tf.minimum(self.momentum, grown)
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
