"""Batches made by the workers of a tf.data service, in the order of the steps."""

import uuid
from dataclasses import dataclass
from typing import Any

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
    """Lets the workers make an endless data set, and keeps its order.

    Args:
        dataset: An element for each host in turn, made of the numbers of `shard_by_worker`.
        service: The service.
        num_hosts: Number of hosts that take elements.
        host_id: This host, counted from 0.
    """
    numbers = shard_by_worker().flat_map(
        lambda number: tf.data.Dataset.from_tensors(number).repeat(num_hosts)
    )
    served = _distribute(tf.data.Dataset.zip(numbers, dataset), service, num_hosts, host_id)
    num_workers = _count_workers(service)

    # The workers are asked in turn, but in any order, and one that is not ready is passed over.
    # Each keeps its own order, so the turns become whole one after the other.
    def sort(number: tf.Tensor, values: Any) -> Any:
        order = tf.argsort(number)
        return tf.nest.map_structure(lambda value: tf.gather(value, order), values)

    return served.group_by_window(
        key_func=lambda number, _: number // num_workers,
        reduce_func=lambda _, turn: (
            turn.batch(num_workers, drop_remainder=True).map(sort).unbatch()
        ),
        window_size=num_workers,
    )


def shard_by_worker() -> tf.data.Dataset:
    """0, 1, 2, ..., of which each worker gets every n-th."""
    hint = tf.data.experimental.SHARD_HINT
    return tf.data.Dataset.counter().shard(hint, hint)


def _count_workers(service: DataService) -> int:
    """Counts the workers that the dispatcher knows: a worker's next number is so much larger."""
    probe = DataService(service.address, f"{service.job_name}-{uuid.uuid4().hex}")
    pairs = _distribute(shard_by_worker().batch(2, drop_remainder=True), probe)
    first, second = next(pairs.as_numpy_iterator())
    return int(second - first)


def _distribute(
    dataset: tf.data.Dataset, service: DataService, num_hosts: int = 1, host_id: int = 0
) -> tf.data.Dataset:
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
