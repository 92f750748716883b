"""The batch sampler in numpy: the oracle of `input.batch_sampler`, which is TensorFlow ops."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from tests.helpers.numpy_hashing import hash_ints, index_shuffle
from universal_embedding.errors import UserError
from universal_embedding.input.batch_sampler import BatchSpec
from universal_embedding.input.domain_slots import SLOTS_PER_CYCLE, SamplerState
from universal_embedding.input.samplers import make_domain_weights, normalize_weights

if TYPE_CHECKING:
    from universal_embedding.datasets.records import Records

_DOMAIN_ORDER, _RECORD, _CLASS, _CLASS_RECORD, _AUGMENTATION = range(5)


class NumpyBatchSampler:
    """Batches of a training run, each from (seed, state, step) alone.

    Every slot of the run goes to one domain (see `_NumpySlots`): a slot is a whole batch, or one
    group of images if batches are `mixed`. A domain's slots go through its records in epochs, each
    epoch in a new random order.

    With `images_per_class` = K > 1 a batch holds B / K groups of K images of one class, and the
    epochs go through the classes. The K images are distinct if the class has that many. The
    classes that a batch takes from one domain are distinct (those left over at the end of an epoch
    wait for the next one); in a mixed batch a class can occur twice where two epochs meet.

    Weights may change during training: `with_weights` makes a sampler for the steps from there on,
    and its `state`, saved in the checkpoint and passed to `with_state`, resumes it exactly.

    Args:
        records: Training records by domain.
        batch_size: Global batch size B.
        seed: Seed of the run.
        sampler: Name, or weights by domain; see `samplers.make_domain_weights`.
        temperature: Exponent of the sampler `temperature`.
        mixed: Whether each group samples its own domain, instead of one domain per batch.
        images_per_class: Group size K.

    Attributes:
        domains: Keys of the domains, in the order that `BatchSpec.domain` counts.
        batch_size: Global batch size B.
        slots: Assignment of slots to domains.

    Raises:
        UserError: a domain has no images or too few classes, or K does not divide B.
    """

    def __init__(
        self,
        records: Mapping[str, Records],
        batch_size: int,
        seed: int = 0,
        sampler: str | Mapping[str, float] = "dataset_size",
        temperature: float = 0.5,
        mixed: bool = False,
        images_per_class: int = 1,
    ) -> None:
        empty = [domain for domain in records if not len(records[domain])]
        if empty or not records:
            place = f"domain {', '.join(map(repr, empty))}" if empty else "the data"
            raise UserError(f"no training images in {place}; prepare them first")
        if batch_size < 1 or images_per_class < 1 or batch_size % images_per_class:
            raise UserError(
                f"batch_size {batch_size} must be a positive multiple of images_per_class "
                f"{images_per_class}"
            )
        self.domains = tuple(records)
        self.batch_size = batch_size
        self._seed, self._mixed, self._images_per_class = seed, mixed, images_per_class
        self._groups_per_batch = batch_size // images_per_class
        self._sizes = np.array([len(r) for r in records.values()])
        self._classes: tuple[_ClassIndex, ...] = ()
        if images_per_class > 1:
            self._classes = tuple(_ClassIndex.from_records(r) for r in records.values())
        sizes = dict(zip(records, self._sizes.tolist(), strict=True))
        sampling = make_domain_weights(sampler, sizes, temperature)
        no_slots = (0,) * len(records)
        self.slots = self._make_slots(
            SamplerState(0, sampling.weights, sampling.round_robin, no_slots)
        )

    @property
    def state(self) -> SamplerState:
        """State that `with_state` resumes from."""
        return self.slots.state

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each domain, sum 1."""
        return dict(zip(self.domains, self.state.weights, strict=True))

    def with_weights(self, step: int, weights: Mapping[str, float]) -> NumpyBatchSampler:
        """Makes the sampler that continues this one with other weights from `step` on.

        Its domains come in random order, and it is defined only for steps from `step` on.

        Raises:
            UserError: the weights cannot be used, see `samplers.normalize_weights`.
        """
        normalized = normalize_weights([weights[domain] for domain in self.domains])
        slots = tuple(self.slots.count_before(step).tolist())
        return self.with_state(SamplerState(step, normalized, False, slots))

    def with_state(self, state: SamplerState) -> NumpyBatchSampler:
        """Makes a sampler of the same records and settings in a saved state."""
        sampler = copy.copy(self)
        sampler.slots = self._make_slots(state)
        return sampler

    def batch_at(self, step: int) -> BatchSpec:
        """Returns the global batch of a step, counted from 0 and not before `state.since`."""
        groups = self._groups_per_batch
        domain, slot = self.slots.slots_at(step)
        if not self._mixed:  # one slot is the whole batch
            domain = np.repeat(domain, groups)
            slot = slot * groups + np.arange(groups)
        if self._classes:
            record = self._class_records(domain, slot).ravel()
            domain = np.repeat(domain, self._images_per_class)
        else:
            epoch, position = np.divmod(slot, self._sizes[domain])
            keys = hash_ints(self._seed, _RECORD, domain, epoch)
            record = index_shuffle(position, self._sizes[domain], keys)
        noise = hash_ints(self._seed, _AUGMENTATION, step, np.arange(self.batch_size))
        seed = noise.view(np.int32).reshape(-1, 2)
        return BatchSpec(domain.astype(np.int32), record, seed)

    def _make_slots(self, state: SamplerState) -> _NumpySlots:
        groups = self._groups_per_batch
        if self._classes and not self._mixed:
            for domain, classes, weight in zip(
                self.domains, self._classes, state.weights, strict=True
            ):
                if weight and len(classes) < groups:
                    raise UserError(
                        f"domain {domain!r} has {len(classes)} classes, fewer than the {groups} of "
                        f"a batch of {self.batch_size} with {self._images_per_class} images per "
                        "class; lower batch_size, raise images_per_class or mix domains"
                    )
        weights = zip(self.domains, state.weights, strict=True)
        listing = ", ".join(f"{domain} {weight:.4f}" for domain, weight in weights)
        logging.info("domain weights from step %d: %s", state.since, listing)
        return _NumpySlots(state, self._seed, slots_per_step=groups if self._mixed else 1)

    def _class_records(self, domain: np.ndarray, slot: np.ndarray) -> np.ndarray:
        """Returns `[G, K]` records: K images of the class of each slot."""
        k, groups = self._images_per_class, self._groups_per_batch
        num_classes = np.array([len(classes) for classes in self._classes])[domain]
        # A batch of one domain must not cross the end of an epoch: a class could occur twice.
        per_epoch = num_classes if self._mixed else num_classes - num_classes % groups
        epoch, position = np.divmod(slot, per_epoch)
        keys = hash_ints(self._seed, _CLASS, domain, epoch)
        class_index = index_shuffle(position, num_classes, keys)
        record = np.empty((len(domain), k), np.int64)
        for d in np.unique(domain):
            rows = domain == d
            classes, c = self._classes[d], class_index[rows, None]
            start = classes.starts[c]
            n = classes.starts[c + 1] - start
            span = np.where(n > k, n - n % k, n)  # whole groups, unless the class is smaller
            class_epoch, position = np.divmod(epoch[rows, None] * k + np.arange(k), span)
            keys = hash_ints(self._seed, _CLASS_RECORD, d, c, class_epoch)
            record[rows] = classes.records[start + index_shuffle(position, n, keys)]
        return record


@dataclass(frozen=True)
class _NumpySlots:
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

    def slots_at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Assigns the slots of a step.

        Returns:
            `[S]` domain of each slot, and `[S]` number of slots that this domain had before it.
        """
        counts = self.count_before(step)
        first = (step - self.state.since) * self.slots_per_step
        cycles, positions = np.divmod(np.arange(first, first + self.slots_per_step), self._length)
        domain = np.empty(self.slots_per_step, np.int64)
        for cycle in np.unique(cycles):
            rows = cycles == cycle
            domain[rows] = self._order(int(cycle))[positions[rows]]
        one_hot = domain[:, None] == np.arange(len(counts))
        step_counts = np.cumsum(one_hot, axis=0) - one_hot
        return domain, counts[domain] + step_counts[np.arange(self.slots_per_step), domain]

    def count_before(self, step: int) -> np.ndarray:
        """Counts the slots of each domain before a step, `[D]` int64.

        Raises:
            ValueError: the step is before `state.since`.
        """
        if step < self.state.since:
            raise ValueError(f"step {step} is before step {self.state.since} of these weights")
        first = (step - self.state.since) * self.slots_per_step
        cycles, rest = divmod(first, self._length)
        partial = np.bincount(self._order(cycles)[:rest], minlength=len(self.state.weights))
        return np.array(self.state.slots) + cycles * self._per_cycle + partial

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

    @property
    def _length(self) -> int:
        return int(self._per_cycle.sum())

    def _order(self, cycle: int) -> np.ndarray:
        shuffle = None if self.state.round_robin else (self.seed, self.state.since, cycle)
        return _cycle_order(tuple(self._per_cycle.tolist()), shuffle)


@lru_cache(maxsize=4)
def _cycle_order(counts: tuple[int, ...], shuffle: tuple[int, int, int] | None) -> np.ndarray:
    """Domains of a cycle's slots, `[sum(counts)]` uint16."""
    domains = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
    if shuffle is None:
        return domains
    seed, since, cycle = shuffle
    keys = hash_ints(seed, _DOMAIN_ORDER, since, cycle)
    return domains[index_shuffle(np.arange(len(domains)), len(domains), keys)]


@dataclass(frozen=True)
class _ClassIndex:
    """Record indices grouped by class: class c has `records[starts[c]:starts[c + 1]]`."""

    records: np.ndarray
    starts: np.ndarray

    @classmethod
    def from_records(cls, records: Records) -> _ClassIndex:
        counts = np.unique(records.labels.values, return_counts=True)[1]
        order = np.argsort(records.labels.values, kind="stable")
        return cls(records.labels.row_ids[order], np.cumsum([0, *counts]))

    def __len__(self) -> int:
        return len(self.starts) - 1
