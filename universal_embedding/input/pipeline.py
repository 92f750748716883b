"""The two ways through the data: batches to train on, and every record once."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.input.batching import NUMBER, batched, check_decodes
from universal_embedding.input.draws import Draws
from universal_embedding.input.mixing import draw_mix, mix
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
    share it. Host h has positions `B * h // hosts` up to `B * (h + 1) // hosts`, in whole pairs of
    pictures where these are mixed.

    Returns:
        Dicts of `image` `[b, size, size, 3]` float32 0..255, `label` `[b]` int32 (the rank of the
        picture's class id among those of its domain's split) and `domain` `[b]` int32 (position
        among `records`); with MixUp or CutMix also `label2` and `mix`, see `mixing.mix`.

    Raises:
        UserError: if the hosts do not fit the batch, a training picture has several labels, or the
            first one cannot be decoded; while iterating see `batching.naming_pictures`.
    """
    if tuple(records) != draws.domains:
        raise ValueError(f"records of {tuple(records)}, but draws of {draws.domains}")
    mine = host_slice(draws.batch_size, hosts, host, pairs=pictures.mixes)
    size = mine.stop - mine.start
    reader = Reader(records)
    failures: dict[int, Exception] = {}
    start = draws.at(start_step)
    check_decodes(reader.records[start.domain[0]], int(start.record[0]))

    def read(step: np.ndarray) -> tuple[np.ndarray, ...]:
        draw = draws.at(int(step))
        domain, record, seed = draw.domain[mine], draw.record[mine], draw.seed[mine]
        number = int(step) * draws.batch_size + np.arange(mine.start, mine.stop)
        try:
            contents, label = reader.read(domain, record)
        except Exception as error:  # raised by `explain`, when the batch's turn comes
            failures[int(step)] = error
            return reader.nothing(size), domain, domain, seed, np.full(size, -1)
        return contents, label, domain, seed, number

    def read_op(step: tf.Tensor) -> dict[str, tf.Tensor]:
        types = {"contents": tf.string, "label": tf.int32, "domain": tf.int32, "seed": tf.int32}
        types[NUMBER] = tf.int64
        outputs = tf.numpy_function(read, [step], list(types.values()))
        batch = dict(zip(types, outputs, strict=True))
        shapes = {name: [size, 2] if name == "seed" else [size] for name in types}
        return {name: tf.ensure_shape(batch[name], shapes[name]) for name in types}

    def make(picture: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        contents, seed = picture.pop("contents"), picture.pop("seed")
        if pictures.mixes:
            seed, mix_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
            picture["how"] = draw_mix(mix_seed, pictures.size, pictures.mixup, pictures.cutmix)
        return {"image": training_picture(contents, seed, pictures), **picture}

    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        del batch[NUMBER]
        return mix(batch, batch.pop("how")) if pictures.mixes else batch

    def numbers(batch: tf.Tensor) -> tf.Tensor:
        first = (start_step + batch) * draws.batch_size
        return first + tf.range(mine.start, mine.stop, dtype=tf.int64)

    def explain(batch: int) -> None:
        step = start_step + batch
        if step in failures:
            raise failures[step]
        draw = draws.at(step)
        for domain, record in zip(draw.domain[mine], draw.record[mine], strict=True):
            check_decodes(reader.records[domain], int(record))

    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    read_steps = steps.map(read_op, num_parallel_calls=_READS_AHEAD).prefetch(1)
    made = read_steps.unbatch().map(make, num_parallel_calls=tf.data.AUTOTUNE)
    return batched(made, size, numbers, explain, finish)


def evaluation_batches(
    records: Records, batch_size: int, size: int, aspect: str = "squash"
) -> tf.data.Dataset:
    """Every record once, in order.

    Returns:
        Dicts of `image` `[b, size, size, 3]` float32 0..255, `number` `[b]` int64 (of the record)
        and `mask` `[b]` bool. The last batch is filled up with mid grey, number 0, mask False.
        For errors while iterating see `batching.naming_pictures`.
    """
    total = len(records)
    count = -(-total // batch_size)
    failures: dict[int, Exception] = {}

    def record_numbers(batch: int) -> range:
        return range(min(batch * batch_size, total), min((batch + 1) * batch_size, total))

    def read(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, wanted = int(batch) * batch_size, record_numbers(int(batch))
        contents = Reader.nothing(batch_size)
        try:
            contents[: len(wanted)] = records.read(wanted) if wanted else []
        except Exception as error:  # raised by `explain`, when the batch's turn comes
            failures[int(batch)] = error
            return contents, np.full(batch_size, -1)
        return contents, np.arange(first, first + batch_size)

    def read_op(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = tf.numpy_function(read, [batch], [tf.string, tf.int64])
        return tuple(tf.ensure_shape(output, [batch_size]) for output in outputs)

    def make(contents: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"image": evaluation_picture(contents, size, aspect), NUMBER: number}

    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        mask = batch[NUMBER] < total
        return {**batch, NUMBER: tf.where(mask, batch[NUMBER], 0), "mask": mask}

    def explain(batch: int) -> None:
        if batch in failures:
            raise failures[batch]
        for number in record_numbers(batch):
            check_decodes(records, number)

    # One batch of nothing more fills up a last batch that lacks a picture, so that it is checked.
    read_batches = tf.data.Dataset.range(count + 1).map(read_op, num_parallel_calls=_READS_AHEAD)
    made = read_batches.prefetch(1).unbatch().map(make, num_parallel_calls=tf.data.AUTOTUNE)
    expected = tf.range(batch_size, dtype=tf.int64)
    batches = batched(made, batch_size, lambda b: b * batch_size + expected, explain, finish)
    return batches.take(count)


def host_slice(batch_size: int, hosts: int, host: int, pairs: bool = False) -> slice:
    """The positions of a global batch that a host makes, in whole pairs if asked for."""
    whole = 2 if pairs else 1
    units = -(-batch_size // whole)
    if not 0 <= host < hosts <= units:
        raise UserError(
            f"host {host} of {hosts} cannot have a part of batch_size {batch_size}; hosts count "
            f"from 0 and each needs at least {whole} of its pictures"
        )
    first, last = (min(units * h // hosts * whole, batch_size) for h in (host, host + 1))
    return slice(first, last)
