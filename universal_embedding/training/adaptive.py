"""Domain weights that follow the losses: the sampler of UDON, arXiv 2406.08332."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.input.draws import Draws, State

LEAST = 1e-6  # of a mean loss, so that every domain comes again and is measured again


class AdaptiveSampler:
    """Every `config.data.reweight_every` steps, weights in proportion to mean losses.

    A domain's weight is its mean loss over the steps since the last change, divided by the sum of
    all domains'; a domain that was in none of those steps keeps its last mean. Until the first
    change the config's own sampler holds.

    Args:
        config: `config.data` of the run.
        domains: All domains, in order.
        losses: Names of the run's losses; `config.data.reweight_by` is one of them.

    Attributes:
        variables: All of its state, for the checkpoint.

    Raises:
        UserError: the run has no such loss.
    """

    def __init__(self, config: ConfigDict, domains: Sequence[str], losses: Sequence[str]) -> None:
        if config.reweight_by not in losses:
            raise UserError(
                f"config.data.reweight_by is {config.reweight_by!r}; the run's losses are "
                f"{', '.join(losses)}"
            )
        self.every, self.domains = config.reweight_every, tuple(domains)
        self._row = list(losses).index(config.reweight_by)
        count = len(self.domains)
        self._since = _variable(0, tf.int64)
        self._weights = _variable([0.0] * count, tf.float64)
        self._turns = _variable([0] * count, tf.int64)
        self._means = _variable([1.0] * count, tf.float64)
        self._sums = _variable([[0.0] * count] * 2, tf.float64)  # of losses, and of examples
        self.variables = [self._since, self._weights, self._turns, self._means, self._sums]

    def due(self, step: int) -> bool:
        """Whether the weights change after `step` steps."""
        return step % self.every == 0

    def observe(self, sums: np.ndarray) -> None:
        """Takes note of some steps' `[steps, losses + 1, domains]` sums; see `loop.Loop`."""
        total = self._sums.numpy()
        for step in sums:  # one by one: the result does not depend on how many come at once
            total += step[[self._row, -1]]
        self._sums.assign(total)

    def applied(self, draws: Draws) -> Draws:
        """`draws` with the weights of now."""
        since = int(self._since.numpy())
        if not since:
            return draws
        weights, turns = self._weights.numpy().tolist(), self._turns.numpy().tolist()
        return draws.restored(State(since, tuple(weights), False, tuple(turns)))

    def reweight(self, draws: Draws, step: int) -> dict[str, float]:
        """Sets the weights from `step` on; `draws` are those until then. Returns the weights."""
        losses, counts = self._sums.numpy()
        means = np.where(counts > 0, losses / np.maximum(counts, 1), self._means.numpy())
        means = np.maximum(means, LEAST)
        changed = draws.reweighted(step, dict(zip(self.domains, means.tolist(), strict=True)))
        self._since.assign(step)
        self._weights.assign(changed.state.weights)
        self._turns.assign(changed.state.turns)
        self._means.assign(means)
        self._sums.assign(np.zeros_like(self._sums.numpy()))
        return changed.weights


def _variable(value: object, dtype: tf.DType) -> tf.Variable:
    once = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(value, dtype=dtype, trainable=False, aggregation=once)
