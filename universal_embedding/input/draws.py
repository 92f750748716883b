"""What stands at which position of which batch: a pure function, so a restart is exact."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from absl import logging

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.input.bijection import key, permute
from universal_embedding.input.samplers import normalise, sampler

CYCLE = 2**16  # turns after which every domain has had exactly its share
# What a hash is for; one number each, so that no two uses meet.
_ORDER, _PICTURE, _CLASS, _CLASS_PICTURE, _AUGMENTATION = range(5)


@dataclass(frozen=True)
class Draw:
    """One global batch.

    Attributes:
        domain: `[B]` int32, position of the domain among the records.
        record: `[B]` int64, number of the record within its domain.
        seed: `[B, 2]` int32, for stateless random ops on that picture.
    """

    domain: np.ndarray
    record: np.ndarray
    seed: np.ndarray


@dataclass(frozen=True)
class State:
    """What `Draws` needs beside its arguments and the step; part of a checkpoint.

    Attributes:
        since: The step from which the weights hold.
        weights: Share of each domain.
        in_turn: Whether domains come in turn instead of at random.
        turns: How many turns each domain had before `since`.
    """

    since: int
    weights: tuple[float, ...]
    in_turn: bool
    turns: tuple[int, ...]


class Draws:
    """The batches of a training run, each from (seed, sampler, step) alone.

    The domains take *turns*: a turn is a batch, or one group of pictures where batches are
    `mixed`. Turns come in cycles of 65,536, in which each domain has exactly its share (rounded to
    whole turns, at least one) in an order of that cycle's own; so the number of turns a domain had
    before any step is known without counting from the start. A domain's turns go through its
    records in epochs, each a permutation of its own.

    With `pictures_per_class` = K > 1 a batch holds B / K groups of K pictures of one class, and the
    epochs go through the classes. K pictures of a class are distinct if it has that many; the
    classes of a batch from one domain are distinct (those left over at an epoch's end wait for
    another epoch); in a mixed batch one can come twice where two epochs meet.

    Weights may change while training: `reweighted` gives new draws from a step on, and `state`,
    saved with the checkpoint and given to `restored`, resumes them exactly.

    Args:
        records: Training records by domain.
        batch_size: B, of all hosts together.
        seed: Of the run.
        sampler: Name or weights by domain; see `samplers.sampler`.
        temperature: Exponent of the sampler `temperature`.
        mixed: Each picture's domain is drawn on its own instead of one domain for the batch.
        pictures_per_class: K.

    Raises:
        UserError: if the numbers do not fit each other or the records.
    """

    def __init__(
        self,
        records: Mapping[str, Records],
        batch_size: int,
        seed: int = 0,
        sampler: str | Mapping[str, float] = "dataset_size",
        temperature: float = 0.5,
        mixed: bool = False,
        pictures_per_class: int = 1,
    ) -> None:
        empty = [domain for domain in records if not len(records[domain])]
        if empty or not records:
            raise UserError(f"no training pictures in {empty or 'the data'}; prepare them first")
        if batch_size < 1 or pictures_per_class < 1 or batch_size % pictures_per_class:
            raise UserError(
                f"batch_size {batch_size} must be a positive multiple of pictures_per_class "
                f"{pictures_per_class}"
            )
        self.domains = tuple(records)
        self.batch_size, self.seed, self.mixed = batch_size, seed, mixed
        self.pictures_per_class = pictures_per_class
        self._sizes = np.array([len(r) for r in records.values()])
        self._classes = [_Classes.of(r) for r in records.values()] if self._by_class else []
        start = _sampler(
            sampler, dict(zip(records, self._sizes.tolist(), strict=True)), temperature
        )
        self.state = State(0, start.weights, start.in_turn, (0,) * len(records))
        self._check_classes()
        self._log()

    @property
    def weights(self) -> dict[str, float]:
        """Share of each domain, sum 1."""
        return dict(zip(self.domains, self.state.weights, strict=True))

    def reweighted(self, step: int, weights: Mapping[str, float]) -> "Draws":
        """The same draws before `step`, turns by `weights` in random order from `step` on.

        The result answers only for steps from `step` on.
        """
        shares = normalise([weights[domain] for domain in self.domains])
        turns = tuple(self._turns_before(step).tolist())
        return self.restored(State(step, shares, False, turns))

    def restored(self, state: State) -> "Draws":
        """These draws with a saved state."""
        other = object.__new__(Draws)
        other.__dict__.update(self.__dict__)
        other.__dict__.pop("_shares", None)
        other.state = state
        other._check_classes()
        other._log()
        return other

    def at(self, step: int) -> Draw:
        """The global batch of a step, 0-based and not before `state.since`."""
        groups = self.batch_size // self.pictures_per_class
        domain, turn = self._turns_at(step)
        if not self.mixed:  # one turn is the whole batch
            domain = np.repeat(domain, groups)
            turn = turn * groups + np.arange(groups)
        if self._by_class:
            record = self._of_classes(domain, turn, groups).ravel()
            domain = np.repeat(domain, self.pictures_per_class)
        else:
            epoch, position = np.divmod(turn, self._sizes[domain])
            keys = key(self.seed, _PICTURE, domain, epoch)
            record = permute(position, self._sizes[domain], keys)
        noise = key(self.seed, _AUGMENTATION, step, np.arange(self.batch_size))
        seed = noise.view(np.int32).reshape(-1, 2)
        return Draw(domain.astype(np.int32), record, seed)

    @property
    def _by_class(self) -> bool:
        return self.pictures_per_class > 1

    def _of_classes(self, domain: np.ndarray, turn: np.ndarray, groups: int) -> np.ndarray:
        """`[G, K]` records of the classes whose turn it is."""
        sizes = np.array([len(classes.starts) - 1 for classes in self._classes])[domain]
        # A batch of one domain must not reach over an epoch's end: a class could come twice.
        per_epoch = sizes if self.mixed else sizes - sizes % groups
        epoch, position = np.divmod(turn, per_epoch)
        number = permute(position, sizes, key(self.seed, _CLASS, domain, epoch))
        k = self.pictures_per_class
        record = np.empty((len(domain), k), np.int64)
        for d in np.unique(domain):
            rows = domain == d
            classes, c = self._classes[d], number[rows, None]
            start = classes.starts[c]
            n = classes.starts[c + 1] - start
            span = np.where(n > k, n - n % k, n)  # whole groups, unless the class is smaller
            again, at = np.divmod(epoch[rows, None] * k + np.arange(k), span)
            within = permute(at, n, key(self.seed, _CLASS_PICTURE, d, c, again))
            record[rows] = classes.records[start + within]
        return record

    def _turns_at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """`[turns]` domains of a step's turns, and how many turns each domain had before."""
        per_step = self._turns_per_step
        first = (step - self.state.since) * per_step
        before = self._turns_before(step)
        turns = np.arange(first, first + per_step)
        domain = np.empty(per_step, np.int64)
        for cycle in np.unique(turns // self._shares.sum()):
            rows = turns // self._shares.sum() == cycle
            domain[rows] = self._cycle(int(cycle))[turns[rows] % self._shares.sum()]
        same = domain[:, None] == np.arange(len(self.domains))
        earlier = np.cumsum(same, axis=0) - same
        return domain, before[domain] + earlier[np.arange(per_step), domain]

    def _turns_before(self, step: int) -> np.ndarray:
        """`[D]` turns each domain had before `step`."""
        if step < self.state.since:
            raise ValueError(f"step {step} is before step {self.state.since} of these weights")
        first = (step - self.state.since) * self._turns_per_step
        cycles, rest = divmod(first, int(self._shares.sum()))
        partial = np.bincount(self._cycle(cycles)[:rest], minlength=len(self.domains))
        return np.array(self.state.turns) + cycles * self._shares + partial

    @property
    def _turns_per_step(self) -> int:
        return self.batch_size // self.pictures_per_class if self.mixed else 1

    @cached_property
    def _shares(self) -> np.ndarray:
        """`[D]` whole turns of each domain in a cycle (largest remainder)."""
        weights = np.array(self.state.weights)
        if self.state.in_turn:
            return (weights > 0).astype(np.int64)
        exact = weights * CYCLE
        shares = np.where(weights > 0, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
        missing = CYCLE - shares.sum()  # negative where tiny weights were raised to one turn
        if missing > 0:
            shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
        else:
            shares[shares.argmax()] += missing
        return shares

    def _cycle(self, number: int) -> np.ndarray:
        shuffled = None if self.state.in_turn else (self.seed, self.state.since, number)
        return _cycle(tuple(self._shares.tolist()), shuffled)

    def _check_classes(self) -> None:
        groups = self.batch_size // self.pictures_per_class
        for domain, classes, share in zip(
            self.domains, self._classes, self.state.weights, strict=False
        ):
            if not self.mixed and share and len(classes.starts) - 1 < groups:
                raise UserError(
                    f"domain {domain!r} has {len(classes.starts) - 1} classes, fewer than the "
                    f"{groups} of a batch of {self.batch_size} with {self.pictures_per_class} "
                    "pictures per class; lower batch_size, raise pictures_per_class or mix domains"
                )

    def _log(self) -> None:
        shares = ", ".join(f"{domain} {share:.4f}" for domain, share in self.weights.items())
        logging.info("domain weights from step %d: %s", self.state.since, shares)


_sampler = sampler  # the constructor's argument has the same name


@dataclass(frozen=True)
class _Classes:
    """Record numbers grouped by class: class c has `records[starts[c]:starts[c + 1]]`."""

    records: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, records: Records) -> "_Classes":
        counts = np.unique(records.labels.values, return_counts=True)[1]
        order = np.argsort(records.labels.values, kind="stable")
        return cls(records.labels.rows[order], np.cumsum([0, *counts]))


@lru_cache(maxsize=4)
def _cycle(shares: tuple[int, ...], shuffled: tuple[int, int, int] | None) -> np.ndarray:
    """Domains in the order of their turns, `[sum(shares)]` uint16."""
    domains = np.repeat(np.arange(len(shares), dtype=np.uint16), shares)
    if shuffled is None:
        return domains
    seed, since, number = shuffled
    order = permute(np.arange(len(domains)), len(domains), key(seed, _ORDER, since, number))
    return domains[order]
