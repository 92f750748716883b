"""Stateless batch sampler: batches are a pure function of (seed, step), as TensorFlow ops."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from absl import logging

from universal_embedding.errors import UserError
from universal_embedding.input.domain_slots import DomainSlots, SamplerState
from universal_embedding.input.hashing import hash_ints, index_shuffle
from universal_embedding.input.samplers import make_domain_weights, normalize_weights

if TYPE_CHECKING:
    from universal_embedding.datasets.records import Records

_REPLAY_SLOTS = 2**16
# Purposes of a hash, one number each so that no two coincide. Changing one changes all batches.
_RECORD, _CLASS, _CLASS_RECORD, _AUGMENTATION = range(1, 5)  # 0: the order of the domains


@dataclass(frozen=True)
class BatchSpec:
    """Contents of the global batches of some steps, `[K, B]`, or of one step, `[B]`.

    Attributes:
        domain: `[..., B]` int32, position of the domain among the records.
        record: `[..., B]` int64, index of the record within its domain.
        seed: `[..., B, 2]` int32, for stateless random ops on that image.
    """

    domain: tf.Tensor
    record: tf.Tensor
    seed: tf.Tensor


class BatchSampler:
    """Batches of a training run, each from (seed, state, step) alone.

    Every slot of the run goes to one domain (see `DomainSlots`): a slot is a whole batch, or one
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
        replay: Share of each domain's images that come from its first `old_sizes[domain]` records,
            where it has both old and new ones; 0 draws all records alike. Old and new records have
            epochs of their own.
        old_sizes: Number of old records by domain, with `replay`.

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
        replay: float = 0.0,
        old_sizes: Mapping[str, int] | None = None,
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
        if not 0 <= replay <= 1 or (replay and images_per_class > 1):
            raise UserError(
                f"replay {replay} must be a share from 0 to 1, and 0 with images_per_class > 1 "
                f"(it is {images_per_class}), whose groups do not tell old images from new ones"
            )
        self.domains = tuple(records)
        self.batch_size = batch_size
        self._seed, self._mixed, self._images_per_class = seed, mixed, images_per_class
        self._groups_per_batch = batch_size // images_per_class
        self._sizes = np.array([len(r) for r in records.values()], np.int64)
        self._classes = _ClassIndex.from_records(records) if images_per_class > 1 else None
        self._old_sizes = np.zeros(len(records), np.int64)
        self._old_slots = np.zeros(len(records), np.int64)  # of every _REPLAY_SLOTS, the old ones
        if replay:
            self._old_sizes[:] = [(old_sizes or {}).get(domain, 0) for domain in records]
            share = np.where(self._old_sizes < self._sizes, replay, 1.0)
            share = np.where(self._old_sizes > 0, share, 0.0)
            self._old_slots = np.round(share * _REPLAY_SLOTS).astype(np.int64)
        self._has_replay = replay > 0
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

    def with_weights(self, step: int, weights: Mapping[str, float]) -> BatchSampler:
        """Makes the sampler that continues this one with other weights from `step` on.

        Its domains come in random order, and it is defined only for steps from `step` on.

        Raises:
            UserError: the weights cannot be used, see `samplers.normalize_weights`.
        """
        normalized = normalize_weights([weights[domain] for domain in self.domains])
        slots = tuple(self.slots.count_before(step).tolist())
        return self.with_state(SamplerState(step, normalized, False, slots))

    def with_state(self, state: SamplerState) -> BatchSampler:
        """Makes a sampler of the same records and settings in a saved state."""
        sampler = copy.copy(self)
        sampler.slots = self._make_slots(state)
        return sampler

    def batch_at(self, step: int | tf.Tensor) -> BatchSpec:
        """Computes the global batch of a step, or those of several steps at once.

        Many steps at once cost little more than one: the order of the domains is drawn for whole
        cycles.

        Args:
            step: Steps counted from 0, `[]` or `[K]` int64, none before `state.since`.
        """
        step = tf.cast(step, tf.int64)
        steps = tf.reshape(step, [-1])
        groups = self._groups_per_batch
        domain, slot = self.slots.slots_at(steps)
        if not self._mixed:  # one slot is the whole batch
            domain = tf.repeat(domain, groups, axis=1)
            slot = slot * groups + tf.range(groups, dtype=tf.int64)
        if self._classes is not None:
            record = tf.reshape(self._class_records(self._classes, domain, slot), [-1])
            domain = tf.repeat(domain, self._images_per_class, axis=1)
        else:
            first, size, part = tf.zeros_like(slot), tf.gather(self._sizes, domain), domain
            if self._has_replay:
                first, size, part, slot = self._old_or_new(domain, slot)
            keys = hash_ints(self._seed, _RECORD, part, slot // size)
            record = first + index_shuffle(slot % size, size, keys)
        positions = tf.range(self.batch_size, dtype=tf.int64)
        noise = hash_ints(self._seed, _AUGMENTATION, steps[:, None], positions)
        shape = tf.concat([tf.shape(step), [self.batch_size]], 0)
        return BatchSpec(
            tf.reshape(tf.cast(domain, tf.int32), shape),
            tf.reshape(record, shape),
            tf.reshape(tf.bitcast(noise, tf.int32), tf.concat([shape, [2]], 0)),
        )

    def _old_or_new(
        self, domain: tf.Tensor, slot: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Divides each domain's slots between its old and its new records, evenly.

        Returns:
            For each slot the first record of its part, the size of the part, a number of the part
            that no other has, and the number of slots that the part had before.
        """
        share, old_size = tf.gather(self._old_slots, domain), tf.gather(self._old_sizes, domain)
        before = slot * share // _REPLAY_SLOTS  # old slots up to this one
        is_old = (slot + 1) * share // _REPLAY_SLOTS > before
        return (
            tf.where(is_old, tf.zeros_like(slot), old_size),
            tf.where(is_old, old_size, tf.gather(self._sizes, domain) - old_size),
            tf.where(is_old, domain + len(self.domains), domain),
            tf.where(is_old, before, slot - before),
        )

    def _make_slots(self, state: SamplerState) -> DomainSlots:
        groups = self._groups_per_batch
        if self._classes is not None and not self._mixed:
            counts = zip(self.domains, self._classes.num_classes, state.weights, strict=True)
            for domain, num_classes, weight in counts:
                if weight and num_classes < groups:
                    raise UserError(
                        f"domain {domain!r} has {num_classes} classes, fewer than the {groups} of "
                        f"a batch of {self.batch_size} with {self._images_per_class} images per "
                        "class; lower batch_size, raise images_per_class or mix domains"
                    )
        weights = zip(self.domains, state.weights, strict=True)
        listing = ", ".join(f"{domain} {weight:.4f}" for domain, weight in weights)
        logging.info("domain weights from step %d: %s", state.since, listing)
        return DomainSlots(state, self._seed, slots_per_step=groups if self._mixed else 1)

    def _class_records(self, classes: _ClassIndex, domain: tf.Tensor, slot: tf.Tensor) -> tf.Tensor:
        """`[K, G, k]` records: k images of the class of each `[K, G]` slot."""
        k, groups = self._images_per_class, self._groups_per_batch
        num_classes = tf.gather(classes.num_classes, domain)
        # A batch of one domain must not cross the end of an epoch: a class could occur twice.
        per_epoch = num_classes if self._mixed else num_classes - num_classes % groups
        epoch = slot // per_epoch
        keys = hash_ints(self._seed, _CLASS, domain, epoch)
        c = index_shuffle(slot % per_epoch, num_classes, keys)[..., None]
        place = tf.gather(classes.first_class, domain)[..., None] + c
        start = tf.gather(classes.starts, place)
        n = tf.gather(classes.starts, place + 1) - start
        span = tf.where(n > k, n - n % k, n)  # whole groups, unless the class is smaller
        position = epoch[..., None] * k + tf.range(k, dtype=tf.int64)
        keys = hash_ints(self._seed, _CLASS_RECORD, domain[..., None], c, position // span)
        return tf.gather(classes.records, start + index_shuffle(position % span, n, keys))


@dataclass(frozen=True)
class _ClassIndex:
    """Record indices of all domains, grouped by class.

    Class c of domain d has `records[starts[i]:starts[i + 1]]` with i = `first_class[d]` + c.
    """

    records: np.ndarray
    starts: np.ndarray
    first_class: np.ndarray
    num_classes: np.ndarray

    @classmethod
    def from_records(cls, records: Mapping[str, Records]) -> _ClassIndex:
        indices, counts = [], []
        for labels in (domain_records.labels for domain_records in records.values()):
            indices.append(labels.row_ids[np.argsort(labels.values, kind="stable")])
            counts.append(np.unique(labels.values, return_counts=True)[1])
        num_classes = np.array([len(c) for c in counts], np.int64)
        return cls(
            np.concatenate(indices).astype(np.int64),
            np.cumsum([0, *np.concatenate(counts)], dtype=np.int64),
            np.cumsum(num_classes) - num_classes,
            num_classes,
        )
