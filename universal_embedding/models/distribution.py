"""Distribution over hosts: their part of the data, and the values on which they must agree.

A host is a process of the run; with a TPU, one process drives all hosts of the slice.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import tensorflow as tf

from universal_embedding.errors import UserError

T = TypeVar("T")
_polled: list[Callable[[], None]] = []
GATHERED_VALUES = 2**20  # at once, of each host: 4 MB on the devices
SECONDS_PER_CALL = 5.0  # signals are handled between calls, and must be within 30 seconds


def num_hosts_and_id(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """The number of hosts of the run, and the index of this one; host 0 is the chief."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1, 0
    resolver = strategy.cluster_resolver
    return len(resolver.cluster_spec().as_dict()["worker"]), resolver.task_id


def all_gather(
    values: Sequence[float] | np.ndarray, strategy: tf.distribute.Strategy
) -> np.ndarray:
    """The values of all hosts, `[hosts, n]` float32; each host must call it, with n values."""
    num_hosts, _ = num_hosts_and_id(strategy)
    vector = np.asarray(values, np.float32)
    if num_hosts == 1:
        return vector[None]
    rows = _make_gather(strategy)(tf.constant(vector)).numpy()
    return rows[:: len(rows) // num_hosts]  # all replicas of a host have the same values


def concatenate_hosts(rows: np.ndarray, strategy: tf.distribute.Strategy) -> np.ndarray:
    """The `[n, D]` rows of all hosts, `[hosts * n, D]`; each must call it, with n rows."""
    if num_hosts_and_id(strategy)[0] == 1:
        return rows
    flat = rows.reshape(-1)
    parts = np.split(flat, range(GATHERED_VALUES, len(flat), GATHERED_VALUES))
    gathered = [all_gather(part, strategy) for part in parts]
    return np.concatenate(gathered, axis=1).reshape(-1, rows.shape[1]).astype(rows.dtype)


def all_reduce_max(values: Sequence[float], strategy: tf.distribute.Strategy) -> list[float]:
    """The maximum of each value over all hosts, so that they decide alike; each must call it."""
    return all_gather(values, strategy).max(axis=0).tolist()


def all_gather_text(text: str, strategy: tf.distribute.Strategy) -> list[str]:
    """The texts of all hosts, in their order; each host must call it."""
    if num_hosts_and_id(strategy)[0] == 1:
        return [text]
    codes = np.frombuffer(text.encode(), np.uint8)
    lengths = all_gather([len(codes)], strategy)[:, 0].astype(int)
    padded = np.zeros(max(1, *lengths))  # TensorFlow crashes when it gathers nothing
    padded[: len(codes)] = codes
    rows = all_gather(padded, strategy).astype(np.uint8)
    return [row[:n].tobytes().decode() for row, n in zip(rows, lengths, strict=True)]


def run_on_hosts(
    function: Callable[[], T], strategy: tf.distribute.Strategy, chief_first: bool = False
) -> T:
    """Calls a function on every host, which all fail if one does, instead of waiting for it.

    Args:
        function: It must not use the strategy.
        strategy: The strategy of the run; each host must call this.
        chief_first: Whether the others wait for the chief, whose files they read.

    Returns:
        The result on this host.

    Raises:
        UserError: the function raised it on this host or another one.
    """
    num_hosts, host_id = num_hosts_and_id(strategy)
    if num_hosts == 1:
        return function()
    results = []
    for is_turn in (host_id == 0, host_id != 0) if chief_first else (True,):
        message = ""
        if is_turn:
            try:
                results.append(function())
            except UserError as error:
                message = str(error)
        for host, reason in enumerate(all_gather_text(message, strategy)):
            if reason:
                raise UserError(reason if host == host_id else f"host {host} of the run: {reason}")
    return results[0]


@contextlib.contextmanager
def polled(function: Callable[[], None]) -> Iterator[None]:
    """Context in which long work calls `function` now and then, which ends it by an exception."""
    _polled.append(function)
    try:
        yield
    finally:
        _polled.remove(function)


def poll() -> None:
    """Calls the functions of `polled`; long work does so, at the same places on each host."""
    for function in _polled:
        function()


def assert_same_on_hosts(state: str, strategy: tf.distribute.Strategy, remedy: str) -> None:
    """Compares a short description of something that all hosts must have alike.

    Raises:
        UserError: they differ; the message lists them and ends with `remedy`.
    """
    states = all_gather_text(state, strategy)
    if len(set(states)) > 1:
        listed = "; ".join(f"host {host}: {state}" for host, state in enumerate(states))
        raise UserError(f"the hosts of the run differ ({listed}); {remedy}")


def distribute(
    make_dataset: Callable[[int, int], tf.data.Dataset], strategy: tf.distribute.Strategy
) -> Iterator:
    """Returns an iterator of per-replica batches.

    Args:
        make_dataset: `(num_hosts, host_id)` -> the host's endless data set of its slices of the
            batches; with a TPU, of all hosts of the slice.
        strategy: The replicas of a host get consecutive slices of its batch.
    """

    def host_dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
        num_hosts = context.num_input_pipelines
        dataset = make_dataset(num_hosts, context.input_pipeline_id)
        host_batch_size = tf.nest.flatten(dataset.element_spec)[0].shape[0]
        replica_batch_size = host_batch_size * num_hosts // strategy.num_replicas_in_sync
        if replica_batch_size != host_batch_size:
            dataset = dataset.rebatch(replica_batch_size, drop_remainder=True)
        # Without it, workers expect the data set to end, and with it batches of unknown size.
        return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))

    return iter(strategy.distribute_datasets_from_function(host_dataset))


def assert_files_on_host(paths: Iterable[str], host_id: int) -> None:
    """Looks for files from the device in scope: that of the host that will read them.

    Raises:
        UserError: a file is not there. One process drives all hosts of a TPU slice, and its local
            files are not theirs.
    """
    for path in paths:
        first_byte = tf.data.FixedLengthRecordDataset([path], 1, buffer_size=1).take(1)
        try:  # by an op: Python would look from this process
            first_byte.get_single_element().numpy()  # a remote op is waited for here
        except tf.errors.OpError as error:
            raise UserError(
                f"host {host_id} of the run does not see {path}; put data and run directory on "
                "gs://, or on a disk that all hosts mount at the same place"
            ) from error


class Pace:
    """Steps per call of a compiled loop: more while calls are short, fewer where they are long.

    Results do not depend on it, only how soon a signal is noticed.

    Attributes:
        steps: For the next call.
    """

    def __init__(self, max_steps: int) -> None:
        self.steps, self._max_steps = 1, max_steps

    def update(self, steps: int, seconds: float) -> None:
        """Adapts `steps` to a call of `steps` steps that took `seconds`."""
        if seconds > SECONDS_PER_CALL:
            self.steps = max(1, int(steps * SECONDS_PER_CALL / seconds))
        elif seconds < SECONDS_PER_CALL / 2:
            self.steps = min(self._max_steps, 2 * self.steps)


@functools.lru_cache(maxsize=1)  # a run has one strategy
def _make_gather(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def gather(vector: tf.Tensor) -> tf.Tensor:
        def gather_rows(vector: tf.Tensor) -> tf.Tensor:
            return tf.distribute.get_replica_context().all_gather(vector[None], axis=0)

        rows = strategy.run(gather_rows, args=(vector,))
        return strategy.experimental_local_results(rows)[0]

    return gather
