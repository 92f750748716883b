"""Means of the losses between two rows of `metrics.jsonl`."""

import numpy as np
import tensorflow as tf


class LogMeans:
    """Losses and gradient norms since the last row; a part of each checkpoint.

    So a row has the mean of the same steps whether or not the run was interrupted between them.

    Args:
        num_losses: Number of logged losses.
        num_domains: Number of domains.

    Attributes:
        variables: The complete state, for the checkpoint.
    """

    def __init__(self, num_losses: int, num_domains: int) -> None:
        self._sums = _variable(np.zeros([num_losses + 1, num_domains]))
        self._norms = _variable(np.zeros(2))  # sum of the gradient norms, number of steps
        self.variables = [self._sums, self._norms]

    def update(self, loss_sums: np.ndarray, grad_norms: np.ndarray) -> None:
        """Adds steps: the `[steps, losses + 1, domains]` and `[steps]` of `MultiStepLoop`."""
        sums, norms = self._sums.numpy(), self._norms.numpy()
        # Step by step: the result does not depend on how they are grouped into calls.
        for step_sums, norm in zip(loss_sums, grad_norms, strict=True):
            sums += step_sums
            norms += [norm, 1]
        self._sums.assign(sums)
        self._norms.assign(norms)

    def pop(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Returns the sums and starts again from zero.

        Returns:
            `[losses, domains]` sums of the losses, `[domains]` numbers of examples, and the mean
            gradient norm.
        """
        sums, (norm, steps) = self._sums.numpy(), self._norms.numpy()
        self._sums.assign(np.zeros_like(sums))
        self._norms.assign(np.zeros(2))
        return sums[:-1], sums[-1], norm / steps


def _variable(value: np.ndarray) -> tf.Variable:
    aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(value, dtype=tf.float64, trainable=False, aggregation=aggregation)
