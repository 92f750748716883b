"""Exponential moving average (EMA) of the weights, kept beside them."""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf


class ExponentialMovingAverage:
    """`average = decay * average + (1 - decay) * weight` after every step.

    In a run's first stage the decay grows from 0 as `(1 + step) / (10 + step)`, so that the random
    initialization is forgotten. Each later stage starts a new average from its initial weights,
    which keep their share `decay ** steps`: as with the interpolation of WiSE-FT (arXiv
    2109.01903), the model retains pretrained knowledge of images unlike the training set.

    Args:
        weights: Variables to average; those that are not floating point are ignored.
        decay: In (0, 1).

    Attributes:
        weights: The floating-point variables.
        averages: Their averages, in the same order.
    """

    def __init__(self, weights: Sequence[tf.Variable], decay: float) -> None:
        self.weights = [weight for weight in weights if weight.dtype.is_floating]
        self.decay = decay
        # Weights are equal on all replicas, and so are averages that each updates by itself.
        self.averages = [tf.Variable(weight, trainable=False) for weight in self.weights]

    def reset(self) -> None:
        """Sets the averages to the current weights; call it outside of replica contexts."""
        _assign(self.averages, self.weights)

    def update(self, step: tf.Tensor, bias_correct: bool) -> None:
        """Moves the averages toward the weights; call it in a replica context.

        Args:
            step: Number of the step just taken, counted over the whole run.
            bias_correct: Whether the decay is still growing from 0.
        """
        step = tf.cast(step, tf.float32)
        limit = (1.0 + step) / (10.0 + step) if bias_correct else 1.0
        decay = tf.minimum(self.decay, limit)
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.assign(average + (weight - average) * tf.cast(1.0 - decay, weight.dtype))

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Gives the model the averaged weights within the `with` block."""
        trained = [tf.identity(weight) for weight in self.weights]
        _assign(self.weights, self.averages)
        try:
            yield
        finally:
            _assign(self.weights, trained)


def _assign(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
