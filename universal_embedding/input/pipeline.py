"""Data sets of batches: endless ones to train on, and one pass over all records to evaluate."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.input.augmentation import mix, sample_mix
from universal_embedding.input.batch_sampler import BatchSampler
from universal_embedding.input.batching import (
    POSITION,
    assert_decodable,
    batch_with_error_reporting,
    call_numpy,
    keep_order,
    report_corrupt_image,
)
from universal_embedding.input.images import (
    AugmentationConfig,
    preprocess_eval,
    preprocess_train,
)
from universal_embedding.input.record_reader import RecordReader, dense_labels, gather

__all__ = [
    "dense_labels",
    "evaluation_batches",
    "gather_rows",
    "host_slice",
    "record_batches",
    "report_corrupt_image",
    "training_batches",
]

_READS_AHEAD = 2  # batches of encoded images being read while others are decoded


def training_batches(
    records: Mapping[str, Records],
    sampler: BatchSampler,
    augmentation: AugmentationConfig,
    start_step: int = 0,
    num_hosts: int = 1,
    host_id: int = 0,
) -> tf.data.Dataset:
    """Makes an endless data set of this host's slice of each step's batch, from `start_step` on.

    The content of a batch depends on the step alone: neither on `start_step` nor on the number of
    hosts that split it. Host h has positions `B * h // num_hosts` up to `B * (h + 1) // num_hosts`,
    in whole pairs if images are mixed.

    Args:
        records: Training records by domain.
        sampler: Batch sampler of the same domains.
        augmentation: Augmentation settings.
        start_step: Step of the first batch.
        num_hosts: Number of hosts that split each global batch.
        host_id: This host, counted from 0.

    Returns:
        Dicts of `image` `[b, size, size, 3]` float32 0..255, `label` `[b]` int32 (see
        `dense_labels`), `domain` `[b]` int32 (position among `records`) and `record` `[b]` int64
        (index within the domain); with MixUp or CutMix also `label2` and `mix`, see
        `augmentation.mix`.

    Raises:
        UserError: the hosts do not fit the batch, a training image has several labels, or the first
            image cannot be decoded. For others, iterate within `report_corrupt_image`.
    """
    uses_mixing = augmentation.uses_mixing
    local = host_slice(sampler.batch_size, num_hosts, host_id, keep_pairs=uses_mixing)
    size = local.stop - local.start
    reader = _make_reader(records, sampler)
    read_errors: dict[int, Exception] = {}
    first = sampler.batch_at(start_step)
    assert_decodable(reader.records[first.domain[0]], int(first.record[0]))
    spec = {
        "contents": tf.TensorSpec([size], tf.string),
        "label": tf.TensorSpec([size], tf.int32),
        "domain": tf.TensorSpec([size], tf.int32),
        "record": tf.TensorSpec([size], tf.int64),
        "seed": tf.TensorSpec([size, 2], tf.int32),
        POSITION: tf.TensorSpec([size], tf.int64),
    }

    def read(step: np.ndarray) -> tuple[np.ndarray, ...]:
        batch = sampler.batch_at(int(step))
        domain, record, seed = batch.domain[local], batch.record[local], batch.seed[local]
        position = int(step) * sampler.batch_size + np.arange(local.start, local.stop)
        try:
            contents = reader.read_images(domain, record)
        except Exception as error:  # raised by `on_missing`, when this batch is due
            read_errors[int(step)] = error
            contents, position = reader.placeholders(size), np.full(size, -1)
        return contents, reader.read_labels(domain, record), domain, record, seed, position

    def preprocess(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        contents, seed = example.pop("contents"), example.pop("seed")
        if uses_mixing:
            seed, mix_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
            example["mix_params"] = sample_mix(
                mix_seed, augmentation.size, augmentation.mixup, augmentation.cutmix
            )
        return {"image": preprocess_train(contents, seed, augmentation), **example}

    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        del batch[POSITION]
        return mix(batch, batch.pop("mix_params")) if uses_mixing else batch

    def expected_positions(batch_index: tf.Tensor) -> tf.Tensor:
        start = (start_step + batch_index) * sampler.batch_size
        return start + tf.range(local.start, local.stop, dtype=tf.int64)

    def on_missing(batch_index: int) -> None:
        step = start_step + batch_index
        if step in read_errors:
            raise read_errors[step]
        batch = sampler.batch_at(step)
        for domain, record in zip(batch.domain[local], batch.record[local], strict=True):
            assert_decodable(reader.records[domain], int(record))

    steps = tf.data.Dataset.counter(start_step)
    batches = steps.map(
        lambda step: call_numpy(read, step, spec), num_parallel_calls=_READS_AHEAD
    ).prefetch(1)
    examples = batches.unbatch().map(preprocess, num_parallel_calls=tf.data.AUTOTUNE)
    return batch_with_error_reporting(examples, size, expected_positions, on_missing, finish)


def record_batches(
    records: Mapping[str, Records],
    sampler: BatchSampler,
    start_step: int = 0,
    num_hosts: int = 1,
    host_id: int = 0,
) -> tf.data.Dataset:
    """Makes the data set of `training_batches` without `image`; reads nothing.

    It is for rows that were computed before, such as features of a frozen backbone: see
    `gather_rows`.

    Returns:
        Dicts of `label` `[b]` int32, `domain` `[b]` int32 and `record` `[b]` int64.

    Raises:
        UserError: the hosts do not fit the batch, or a training image has several labels.
    """
    local = host_slice(sampler.batch_size, num_hosts, host_id)
    size = local.stop - local.start
    reader = _make_reader(records, sampler)
    spec = {
        "label": tf.TensorSpec([size], tf.int32),
        "domain": tf.TensorSpec([size], tf.int32),
        "record": tf.TensorSpec([size], tf.int64),
    }

    def read(step: np.ndarray) -> tuple[np.ndarray, ...]:
        batch = sampler.batch_at(int(step))
        domain, record = batch.domain[local], batch.record[local]
        return reader.read_labels(domain, record), domain, record

    batches = tf.data.Dataset.counter(start_step).map(lambda step: call_numpy(read, step, spec))
    return keep_order(batches.prefetch(4))


def gather_rows(
    dataset: tf.data.Dataset, name: str, rows_by_domain: Sequence[np.ndarray]
) -> tf.data.Dataset:
    """Adds to each batch the rows that were computed before for its records.

    Args:
        dataset: Batches with `domain` and `record`.
        name: The new entry of each batch, `[b, D]` float32.
        rows_by_domain: `[N_d, D]` float32 arrays or memory maps, in the order that `domain` counts.

    Raises:
        ValueError: the arrays differ in width.
    """
    widths = {rows.shape[1] for rows in rows_by_domain}
    if len(widths) != 1:
        raise ValueError(f"rows of {name!r} have widths {sorted(widths)}; they must have one width")
    shape = [dataset.element_spec["record"].shape[0], widths.pop()]

    def lookup(domain: np.ndarray, record: np.ndarray) -> np.ndarray:
        return gather(rows_by_domain, domain, record)

    def add(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        rows = tf.numpy_function(lookup, [batch["domain"], batch["record"]], tf.float32)
        return {**batch, name: tf.ensure_shape(rows, shape)}

    return dataset.map(add).prefetch(4)


def evaluation_batches(
    records: Records, batch_size: int, size: int, resize_mode: str = "squash"
) -> tf.data.Dataset:
    """Makes a data set of every record once, in order.

    Args:
        records: N records.
        batch_size: Batch size b.
        size: Side of the images in pixels.
        resize_mode: How an image becomes a square, see `resizing.resize`.

    Returns:
        Dicts of `image` `[b, size, size, 3]` float32 0..255, `record` `[b]` int64 and `mask` `[b]`
        bool. The last batch is filled up with gray images, record 0, mask False. Iterate within
        `report_corrupt_image`.
    """
    total = len(records)
    num_batches = -(-total // batch_size)
    read_errors: dict[int, Exception] = {}
    spec = {
        "contents": tf.TensorSpec([batch_size], tf.string),
        POSITION: tf.TensorSpec([batch_size], tf.int64),
    }

    def record_range(batch_index: int) -> range:
        first = min(batch_index * batch_size, total)
        return range(first, min(first + batch_size, total))

    def read(batch_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        indices = record_range(int(batch_index))
        contents = RecordReader.placeholders(batch_size)
        try:
            contents[: len(indices)] = records.read(indices) if indices else []
        except Exception as error:  # raised by `on_missing`, when this batch is due
            read_errors[int(batch_index)] = error
            return contents, np.full(batch_size, -1)
        return contents, int(batch_index) * batch_size + np.arange(batch_size)

    def preprocess(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = preprocess_eval(example["contents"], size, resize_mode)
        return {"image": image, POSITION: example[POSITION]}

    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        mask = batch[POSITION] < total
        record = tf.where(mask, batch[POSITION], 0)
        return {"image": batch["image"], "record": record, "mask": mask}

    def expected_positions(batch_index: tf.Tensor) -> tf.Tensor:
        return batch_index * batch_size + tf.range(batch_size, dtype=tf.int64)

    def on_missing(batch_index: int) -> None:
        if batch_index in read_errors:
            raise read_errors[batch_index]
        for record in record_range(batch_index):
            assert_decodable(records, record)

    # One more batch, of placeholders, fills up a last batch that lacks an image: so it is checked.
    batches = tf.data.Dataset.range(num_batches + 1).map(
        lambda batch_index: call_numpy(read, batch_index, spec), num_parallel_calls=_READS_AHEAD
    )
    examples = batches.prefetch(1).unbatch().map(preprocess, num_parallel_calls=tf.data.AUTOTUNE)
    return batch_with_error_reporting(
        examples, batch_size, expected_positions, on_missing, finish
    ).take(num_batches)


def host_slice(batch_size: int, num_hosts: int, host_id: int, keep_pairs: bool = False) -> slice:
    """Returns the positions of a global batch that a host makes.

    Args:
        batch_size: Global batch size.
        num_hosts: Number of hosts that split it.
        host_id: This host, counted from 0.
        keep_pairs: Whether positions 2 i and 2 i + 1 must stay together.

    Raises:
        UserError: there is no such host, or too few positions for all hosts.
    """
    unit = 2 if keep_pairs else 1
    num_units = -(-batch_size // unit)
    if not 0 <= host_id < num_hosts <= num_units:
        raise UserError(
            f"host {host_id} of {num_hosts} cannot take a slice of batch_size {batch_size}; hosts "
            f"count from 0, and each needs at least {unit} of its images: raise batch_size"
        )
    start, stop = (
        min(num_units * h // num_hosts * unit, batch_size) for h in (host_id, host_id + 1)
    )
    return slice(start, stop)


def _make_reader(records: Mapping[str, Records], sampler: BatchSampler) -> RecordReader:
    if tuple(records) != sampler.domains:
        raise ValueError(f"records of {tuple(records)}, but a sampler of {sampler.domains}")
    return RecordReader(records)
