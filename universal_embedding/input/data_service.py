"""Batches made by the workers of a tf.data service, in the order of the steps."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class DataService:
    """A tf.data service whose workers make the batches.

    Attributes:
        address: Its dispatcher, `grpc://host:port`. The dispatcher must know the addresses of all
            workers (`DispatcherConfig.worker_addresses`), and they must have started.
        job_name: Name of the data set, the same on all hosts of a run and new for each.
    """

    address: str
    job_name: str


def serve(
    dataset: tf.data.Dataset, service: DataService, num_hosts: int = 1, host_id: int = 0
) -> tf.data.Dataset:
    """Lets the workers make an endless data set: an element for each host, from each in turn."""
    return dataset.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.HINT,
            service=service.address,
            job_name=service.job_name,
            consumer_index=host_id,
            num_consumers=num_hosts,
            compression=None,  # decoded images hardly shrink
        )
    )


def worker_order(service: DataService) -> list[int]:
    """The order in which the workers, by their number, are asked in turn.

    The dispatcher keeps its workers in a hash table, so their order is any, but one for all jobs.
    """
    probe = DataService(service.address, f"{service.job_name}-{uuid.uuid4().hex}")
    # A worker's first two numbers are its own, and that plus the number of workers.
    numbers = serve(_shard_by_worker().batch(2, drop_remainder=True), probe).as_numpy_iterator()
    first = next(numbers)
    rest = [next(numbers)[0] for _ in range(first[1] - first[0] - 1)]
    return [int(number) for number in (first[0], *rest)]


def own_steps(start_step: int, order: Sequence[int]) -> tf.data.Dataset:
    """On each worker, the steps that it will be asked for, from `start_step` on."""
    rank = tf.constant(np.argsort(order), tf.int64)
    size = len(order)
    return _shard_by_worker().map(
        lambda i: start_step + i // size * size + tf.gather(rank, i % size)
    )


def _shard_by_worker() -> tf.data.Dataset:
    hint = tf.data.experimental.SHARD_HINT
    return tf.data.Dataset.counter().shard(hint, hint)
