"""A stage's batches, on every replica of a strategy."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.input.draws import Draws
from universal_embedding.training.strategy import hosts


def class_numbers(records: Mapping[str, Records]) -> dict[str, np.ndarray]:
    """`[N]` int32 by domain: the rank of each picture's class id among its domain's ids."""
    return {
        domain: np.unique(of.labels.values, return_inverse=True)[1].astype(np.int32)
        for domain, of in records.items()
    }


def feature_batches(
    features: Mapping[str, np.ndarray],
    records: Mapping[str, Records],
    draws: Draws,
    start_step: int,
    hosts: int = 1,
    host: int = 0,
) -> tf.data.Dataset:
    """Batches of cached features: `features [b, F]`, `label [b]`, `domain [b]`, for ever.

    Args:
        features: `[N, F]` float32 by domain, in the order of `records`.
        records: The pictures that they are of.
        draws: What stands at which position.
        start_step: The first batch's step.
        hosts: How many share each global batch.
        host: Whose share this is.
    """
    rows, labels = list(features.values()), list(class_numbers(records).values())
    width, size = rows[0].shape[1], draws.batch_size // hosts

    def batches() -> Iterator[dict[str, np.ndarray]]:
        step = start_step
        while True:
            draw = draws.at(step)
            mine = slice(host * size, (host + 1) * size)
            domain, record = draw.domain[mine], draw.record[mine]
            batch = {
                "features": np.empty((size, width), np.float32),
                "label": np.empty(size, np.int32),
                "domain": domain,
            }
            for d in np.unique(domain):
                at = np.flatnonzero(domain == d)
                batch["features"][at] = rows[d][record[at]]
                batch["label"][at] = labels[d][record[at]]
            yield batch
            step += 1

    signature = {
        "features": tf.TensorSpec([size, width], tf.float32),
        "label": tf.TensorSpec([size], tf.int32),
        "domain": tf.TensorSpec([size], tf.int32),
    }
    return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4)


def with_rows(
    dataset: tf.data.Dataset,
    name: str,
    rows: Mapping[str, np.ndarray],
    draws: Draws,
    start_step: int,
    mine: slice,
) -> tf.data.Dataset:
    """Adds to each batch what was computed once for its pictures.

    Args:
        dataset: Batches of `draws` from `start_step` on.
        name: The new entry of each batch, `[b, D]` float32.
        rows: `[N, D]` float32 by domain, in the order of the records.
        draws: What stands at which position.
        start_step: The first batch's step.
        mine: The positions of the global batch that this host has.
    """
    arrays, size = list(rows.values()), mine.stop - mine.start

    def batches() -> Iterator[np.ndarray]:
        step = start_step
        while True:
            draw = draws.at(step)
            batch = np.empty((size, arrays[0].shape[1]), np.float32)
            for d in np.unique(draw.domain[mine]):
                at = np.flatnonzero(draw.domain[mine] == d)
                batch[at] = arrays[d][draw.record[mine][at]]
            yield batch
            step += 1

    signature = tf.TensorSpec([size, arrays[0].shape[1]], tf.float32)
    more = tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4)
    return tf.data.Dataset.zip(dataset, more).map(lambda batch, row: {**batch, name: row})


def renumbered(dataset: tf.data.Dataset, positions: list[int]) -> tf.data.Dataset:
    """`domain` i becomes `positions[i]`: from a stage's domains to all of the run's."""
    table = tf.constant(positions, tf.int32)
    return dataset.map(lambda batch: {**batch, "domain": tf.gather(table, batch["domain"])})


def distributed(
    make: Callable[[int, int], tf.data.Dataset], strategy: tf.distribute.Strategy
) -> Iterator:
    """An iterator of per-replica batches; `make(hosts, host)` gives a host's data set.

    The replicas of a host take consecutive slices of its batch.
    """
    if strategy.num_replicas_in_sync == 1:
        return iter(make(1, 0))

    def of_host(_: tf.distribute.InputContext) -> tf.data.Dataset:
        count, number = hosts(strategy)
        dataset = make(count, number)
        size = dataset.element_spec["label"].shape[0] * count // strategy.num_replicas_in_sync
        dataset = dataset.rebatch(size, drop_remainder=True)
        # Said outright, or workers expect an end, and with it batches of unknown size.
        return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))

    return iter(strategy.distribute_datasets_from_function(of_host))
