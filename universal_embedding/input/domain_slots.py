"""Assigns the slots of a run to domains: a pure function of the weights and the seed."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tensorflow as tf

from universal_embedding.input.hashing import hash_ints, index_shuffle

SLOTS_PER_CYCLE = 2**16
_DOMAIN_ORDER = 0  # of a hash: see `batch_sampler`


@dataclass(frozen=True)
class SamplerState:
    """State of a `BatchSampler` beyond its arguments and the step; part of a checkpoint.

    Attributes:
        since: First step at which the weights apply.
        weights: Weight of each domain, sum 1.
        round_robin: Whether the domains alternate in a fixed order instead of at random.
        slots: Number of slots that each domain had before `since`.
    """

    since: int
    weights: tuple[float, ...]
    round_robin: bool
    slots: tuple[int, ...]


@dataclass(frozen=True)
class DomainSlots:
    """Assignment of slots to domains, a pure function of the state and the seed.

    Slots come in cycles of `SLOTS_PER_CYCLE`, in which each domain has exactly its weight (rounded
    to whole slots, at least one) in an order of that cycle's own. So the number of slots that a
    domain had before any step is known without counting from the start.

    Attributes:
        state: Weights, and the counts to continue from.
        seed: Seed of the run.
        slots_per_step: Number of slots S that a step takes.
    """

    state: SamplerState
    seed: int
    slots_per_step: int

    def slots_at(self, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Assigns the slots of `[K]` int64 steps.

        Returns:
            `[K, S]` int64 domain of each slot, and `[K, S]` int64 number of slots that this domain
            had before it.
        """
        first = (steps - self.state.since) * self.slots_per_step
        slots = first[:, None] + tf.range(self.slots_per_step, dtype=tf.int64)
        length = int(self._per_cycle.sum())
        domain, count = self._in_cycle(slots // length, slots % length)
        count += tf.gather(tf.constant(self.state.slots, tf.int64), domain)
        return domain, count + slots // length * tf.gather(self._per_cycle, domain)

    def count_before(self, step: int) -> np.ndarray:
        """Counts the slots of each domain before a step, `[D]` int64.

        Raises:
            ValueError: the step is before `state.since`.
        """
        if step < self.state.since:
            raise ValueError(f"step {step} is before step {self.state.since} of these weights")
        first = (step - self.state.since) * self.slots_per_step
        cycle, position = divmod(first, int(self._per_cycle.sum()))
        order = self._cycle_order(tf.constant(cycle, tf.int64)).numpy()
        partial = np.bincount(order[:position], minlength=len(self._per_cycle))
        return np.array(self.state.slots) + cycle * self._per_cycle + partial

    @cached_property
    def _per_cycle(self) -> np.ndarray:
        """`[D]` whole slots of each domain in a cycle (largest remainder)."""
        weights = np.array(self.state.weights)
        if self.state.round_robin:
            return (weights > 0).astype(np.int64)
        exact = weights * SLOTS_PER_CYCLE
        counts = np.where(weights > 0, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
        missing = SLOTS_PER_CYCLE - counts.sum()  # negative where tiny weights were raised to one
        if missing > 0:
            counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
        else:
            counts[counts.argmax()] += missing
        return counts

    def _in_cycle(self, cycles: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The domains at some positions of cycles, and their numbers of slots there before."""
        if self.state.round_robin:  # all cycles are alike, and each domain comes once
            return tf.gather(np.flatnonzero(self._per_cycle), positions), tf.zeros_like(positions)

        def look_up(
            cycle: tf.Tensor, domain: tf.Tensor, count: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            order = self._cycle_order(cycle)
            one_hot = tf.one_hot(order, len(self._per_cycle), axis=0, dtype=tf.int32)
            counts = tf.cumsum(one_hot, axis=1, exclusive=True)  # [D, L]
            is_inside = cycles == cycle
            domain = tf.where(is_inside, tf.gather(order, positions), domain)
            place = tf.stack([domain, positions], axis=-1)
            found = tf.cast(tf.gather_nd(counts, place), tf.int64)
            return cycle + 1, domain, tf.where(is_inside, found, count)

        last, zeros = tf.reduce_max(cycles), tf.zeros_like(positions)
        _, domain, count = tf.while_loop(
            lambda cycle, *_: cycle <= last,
            look_up,
            (tf.reduce_min(cycles), zeros, zeros),
            parallel_iterations=1,
        )
        return domain, count

    def _cycle_order(self, cycle: tf.Tensor) -> tf.Tensor:
        """Domains of a cycle's slots, `[L]` int64."""
        counts = self._per_cycle
        domains = np.repeat(np.arange(len(counts)), counts)
        if self.state.round_robin:
            return tf.constant(domains)
        keys = hash_ints(self.seed, _DOMAIN_ORDER, self.state.since, cycle)
        positions = tf.range(len(domains), dtype=tf.int64)
        return tf.gather(domains, index_shuffle(positions, len(domains), keys))
