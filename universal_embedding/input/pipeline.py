"""The two ways through the data: batches to train on, and every record once."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.input.draws import Draws
from universal_embedding.input.pictures import (
    PictureOptions,
    evaluation_picture,
    training_picture,
)
from universal_embedding.input.reading import Reader

_READS_AHEAD = 2  # batches of encoded pictures being read while others are decoded


def training_batches(
    records: Mapping[str, Records],
    draws: Draws,
    pictures: PictureOptions,
    start_step: int = 0,
    hosts: int = 1,
    host: int = 0,
) -> tf.data.Dataset:
    """An endless data set of this host's part of each step's batch, from `start_step` on.

    What a batch holds depends on the step alone: neither on `start_step` nor on how many hosts
    share it. Host h has positions `B * h // hosts` up to `B * (h + 1) // hosts`.

    Returns:
        Dicts of `image` `[b, size, size, 3]` float32 0..255, `label` `[b]` int32 (the rank of the
        picture's class id among those of its domain's split) and `domain` `[b]` int32 (position
        among `records`).

    Raises:
        UserError: if the hosts do not fit the batch or a training picture has several labels.
    """
    if tuple(records) != draws.domains:
        raise ValueError(f"records of {tuple(records)}, but draws of {draws.domains}")
    if not 0 <= host < hosts <= draws.batch_size:
        raise UserError(
            f"host {host} of {hosts} cannot have a part of batch_size {draws.batch_size}; "
            "hosts count from 0 and each needs at least one picture"
        )
    first, last = (draws.batch_size * h // hosts for h in (host, host + 1))
    reader = Reader(records)

    def read(step: np.ndarray) -> tuple[np.ndarray, ...]:
        draw = draws.at(int(step))
        domain, record = draw.domain[first:last], draw.record[first:last]
        contents, label = reader.read(domain, record)
        return contents, label, domain, draw.seed[first:last]

    def read_op(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        outputs = tf.numpy_function(read, [step], [tf.string, tf.int32, tf.int32, tf.int32])
        shapes = [[last - first]] * 3 + [[last - first, 2]]
        return tuple(map(tf.ensure_shape, outputs, shapes))

    def make(
        contents: tf.Tensor, label: tf.Tensor, domain: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        image = training_picture(contents, seed, pictures)
        return {"image": image, "label": label, "domain": domain}

    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    batches = steps.map(read_op, num_parallel_calls=_READS_AHEAD).prefetch(1)
    made = batches.unbatch().map(make, num_parallel_calls=tf.data.AUTOTUNE)
    return made.batch(last - first, drop_remainder=True).prefetch(2)


def evaluation_batches(
    records: Records, batch_size: int, size: int, aspect: str = "squash"
) -> tf.data.Dataset:
    """Every record once, in order.

    Returns:
        Dicts of `image` `[b, size, size, 3]` float32 0..255, `number` `[b]` int64 (of the record)
        and `mask` `[b]` bool. The last batch is filled up with mid grey, number 0, mask False.
    """
    total = len(records)
    batches = -(-total // batch_size)

    def read(batch: np.ndarray) -> np.ndarray:
        numbers = range(int(batch) * batch_size, min(int(batch + 1) * batch_size, total))
        contents = np.full(batch_size, b"", object)
        contents[: len(numbers)] = records.read(numbers)
        return contents

    def read_op(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        contents = tf.ensure_shape(tf.numpy_function(read, [batch], tf.string), [batch_size])
        number = batch * batch_size + tf.range(batch_size, dtype=tf.int64)
        mask = number < total
        return contents, tf.where(mask, number, 0), mask

    def make(contents: tf.Tensor, number: tf.Tensor, mask: tf.Tensor) -> dict[str, tf.Tensor]:
        image = tf.cond(
            mask,
            lambda: evaluation_picture(contents, size, aspect),
            lambda: tf.fill([size, size, 3], 127.5),
        )
        return {"image": image, "number": number, "mask": mask}

    read_batches = tf.data.Dataset.range(batches).map(read_op, num_parallel_calls=_READS_AHEAD)
    made = read_batches.prefetch(1).unbatch().map(make, num_parallel_calls=tf.data.AUTOTUNE)
    return made.batch(batch_size, drop_remainder=True).prefetch(2)
