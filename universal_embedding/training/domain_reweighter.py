"""Domain weights that follow the losses: the adaptive sampler of UDON, arXiv 2406.08332."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.input.batch_sampler import BatchSampler
from universal_embedding.input.domain_slots import SamplerState

MIN_LOSS = 1e-6  # keeps every domain sampled, so that its loss is measured again


class DomainReweighter:
    """Sets the domain weights in proportion to mean losses every `reweight_every_steps` steps.

    A domain's weight is its mean loss over the steps since the last change, divided by the sum over
    all domains. A domain that was in none of those steps keeps its last mean. Until the first
    change the sampler of the config is in force.

    Args:
        config: `config.data` of the run.
        domains: Keys of all domains, in order.
        loss_names: Names of the run's losses; `config.data.reweight_by` is one of them.

    Attributes:
        variables: The complete state, for the checkpoint.

    Raises:
        UserError: the run has no such loss.
    """

    def __init__(
        self, config: ConfigDict, domains: Sequence[str], loss_names: Sequence[str]
    ) -> None:
        if config.reweight_by not in loss_names:
            raise UserError(
                f"config.data.reweight_by is {config.reweight_by!r}; the run's losses are "
                f"{', '.join(loss_names)}"
            )
        self.every_steps, self.domains = config.reweight_every_steps, tuple(domains)
        self._row = list(loss_names).index(config.reweight_by)
        count = len(self.domains)
        self._since = _variable(0, tf.int64)
        self._weights = _variable([0.0] * count, tf.float64)
        self._slots = _variable([0] * count, tf.int64)
        self._means = _variable([1.0] * count, tf.float64)
        self._sums = _variable([[0.0] * count] * 2, tf.float64)  # of losses, and of examples
        self.variables = [self._since, self._weights, self._slots, self._means, self._sums]

    def is_due(self, step: int) -> bool:
        """Whether the weights change after `step` steps."""
        return step % self.every_steps == 0

    def update(self, loss_sums: np.ndarray) -> None:
        """Accumulates the `[steps, losses + 1, domains]` sums of `MultiStepLoop`."""
        total = self._sums.numpy()
        for step_sums in loss_sums:  # step by step: the result does not depend on their grouping
            total += step_sums[[self._row, -1]]
        self._sums.assign(total)

    def apply(self, sampler: BatchSampler) -> BatchSampler:
        """Returns `sampler` with the current weights."""
        since = int(self._since.numpy())
        if not since:
            return sampler
        weights, slots = self._weights.numpy().tolist(), self._slots.numpy().tolist()
        return sampler.with_state(
            SamplerState(since=since, weights=tuple(weights), round_robin=False, slots=tuple(slots))
        )

    def reweight(self, sampler: BatchSampler, step: int) -> dict[str, float]:
        """Changes the weights from `step` on.

        Args:
            sampler: The sampler in force until `step`, with the weights before the change.
            step: The step after which the weights change.

        Returns:
            The new weight of each domain.
        """
        losses, counts = self._sums.numpy()
        means = np.where(counts > 0, losses / np.maximum(counts, 1), self._means.numpy())
        means = np.maximum(means, MIN_LOSS)
        changed = sampler.with_weights(step, dict(zip(self.domains, means.tolist(), strict=True)))
        self._since.assign(step)
        self._weights.assign(changed.state.weights)
        self._slots.assign(changed.state.slots)
        self._means.assign(means)
        self._sums.assign(np.zeros_like(self._sums.numpy()))
        return changed.weights


def _variable(value: Any, dtype: tf.DType) -> tf.Variable:
    aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(value, dtype=dtype, trainable=False, aggregation=aggregation)
