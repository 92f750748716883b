"""Data sets of batches: endless ones to train on, and one pass over all records to evaluate.

They are TensorFlow ops from the step number to the image, so they run without Python on any host.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.input.augmentation import mix, mixing_order, sample_mix
from universal_embedding.input.batch_sampler import BatchSampler, BatchSpec
from universal_embedding.input.data_service import DataService, serve, shard_by_worker
from universal_embedding.input.images import (
    AugmentationConfig,
    preprocess_eval,
    preprocess_train,
)
from universal_embedding.input.record_reader import (
    DomainTable,
    RecordReader,
    dense_labels,
    make_label_table,
    rows_tensor,
)

__all__ = [
    "DataService",
    "dense_labels",
    "evaluation_batches",
    "gather_rows",
    "host_slice",
    "record_batches",
    "training_batches",
]

# Nothing here needs AutoGraph, whose conversion would take longer than all else at the start.
_graph = tf.autograph.experimental.do_not_convert
# Steps are sampled in chunks of about so many images, in which the work per chunk vanishes.
_IMAGES_PER_CHUNK = 2**13
# Where a read is a request over the network, threads wait most of the time.
_REMOTE_READS = 64
# Columns of the int64 rows that describe the images of a batch.
_DOMAIN, _RECORD, _LABEL, _SEED, _PLACE = 0, 1, 2, 3, slice(4, 7)


def training_batches(
    records: Mapping[str, Records],
    sampler: BatchSampler,
    augmentation: AugmentationConfig,
    start_step: int = 0,
    num_hosts: int = 1,
    host_id: int = 0,
    data_service: DataService | None = None,
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
        data_service: Workers that make the batches; None makes them on this host.

    Returns:
        Dicts of `image` `[b, size, size, 3]` uint8, `label` `[b]` int32 (see
        `dense_labels`), `domain` `[b]` int32 (position among `records`) and `record` `[b]` int64
        (index within the domain); with MixUp or CutMix also `label2` and `mix`, see
        `augmentation.mix`; images are then ordered by `augmentation.mixing_order`. For an image
        that cannot be decoded, iterate within `corrupt_images.report_corrupt_image`.

    Raises:
        UserError: the hosts do not fit the batch, or a training image has several labels.
    """
    uses_mixing = augmentation.uses_mixing
    local = host_slice(sampler.batch_size, num_hosts, host_id, keep_pairs=uses_mixing)
    size = local.stop - local.start
    if data_service is not None:
        if size * num_hosts != sampler.batch_size or (uses_mixing and num_hosts > 1 and size % 2):
            raise UserError(
                f"batch_size {sampler.batch_size} does not divide equally over {num_hosts} hosts, "
                "as the data service needs it, in whole pairs if images are mixed"
            )
        local = slice(0, sampler.batch_size)  # workers make all slices, one after the other
    # The workers of a service are other hosts: they may not have the files, only the paths.
    reader = RecordReader(list(records.values()), memory_map=False if data_service else None)
    labels = _make_labels(records, sampler)

    def describe(spec: BatchSpec) -> tf.Tensor:
        """`[K, B]` images -> `[K, b, 7]` int64 rows."""
        columns = [
            tf.cast(spec.domain, tf.int64),
            spec.record,
            tf.cast(labels.gather(spec.domain, spec.record), tf.int64),
            tf.bitcast(spec.seed, tf.int64),
        ]
        places = reader.places(spec.domain, spec.record)
        rows = tf.concat([tf.stack(columns, axis=-1), places], axis=-1)
        if uses_mixing:
            order = mixing_order(spec.domain, rows[..., _LABEL], spec.seed[:, 0])
            rows = tf.gather(rows, order, axis=1, batch_dims=1)
        return rows[:, local]

    def preprocess(contents: tf.Tensor, row: tf.Tensor) -> dict[str, tf.Tensor]:
        seed = tf.bitcast(row[_SEED], tf.int32)
        example = {"row": row}
        if uses_mixing:
            seed, mix_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
            example["mix_params"] = sample_mix(
                mix_seed, augmentation.size, augmentation.mixup, augmentation.cutmix
            )
        return {"image": preprocess_train(contents, seed, augmentation), **example}

    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        batch |= _unpack(batch.pop("row"))
        return mix(batch, batch.pop("mix_params")) if uses_mixing else batch

    rows = _describe_steps(sampler, start_step, describe, is_sharded=data_service is not None)
    examples = _map_images(rows.unbatch(), lambda row: row[_PLACE], preprocess, reader)
    batches = examples.batch(size, drop_remainder=True)
    batches = _keep_order(batches.map(_graph(finish)).prefetch(2))
    if data_service is None:
        return batches
    return _keep_order(serve(batches, data_service, num_hosts, host_id).prefetch(2))


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
    labels = _make_labels(records, sampler)

    def describe(spec: BatchSpec) -> tf.Tensor:
        columns = [spec.domain, spec.record, labels.gather(spec.domain, spec.record)]
        return tf.stack([tf.cast(column, tf.int64) for column in columns], axis=-1)[:, local]

    rows = _describe_steps(sampler, start_step, describe)
    return _keep_order(rows.map(_graph(_unpack)).prefetch(4))


def gather_rows(
    dataset: tf.data.Dataset, name: str, rows_by_domain: Sequence[np.ndarray]
) -> tf.data.Dataset:
    """Adds to each batch the rows that were computed before for its records.

    Args:
        dataset: Batches with `domain` and `record`.
        name: The new entry of each batch, `[b, D]` float32.
        rows_by_domain: `[N_d, D_d]` float32 arrays or memory maps, in the order that `domain`
            counts. D is the largest D_d; shorter rows are filled up with zeros.
    """
    tables = [rows_tensor(rows) for rows in rows_by_domain]
    width = max(rows.shape[1] for rows in tables)
    size = dataset.element_spec["record"].shape[0]

    def add(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        positions, parts = [], []
        for d, rows in enumerate(tables):
            places = tf.where(batch["domain"] == d)[:, 0]
            part = tf.gather(rows, tf.gather(batch["record"], places))
            parts.append(tf.pad(part, [[0, 0], [0, width - rows.shape[1]]]))
            positions.append(tf.cast(places, tf.int32))
        rows = tf.dynamic_stitch(positions, parts)
        return {**batch, name: tf.ensure_shape(rows, [size, width])}

    return dataset.map(_graph(add)).prefetch(4)


def evaluation_batches(
    records: Records,
    batch_size: int,
    size: int,
    resize_mode: str = "squash",
    start: int = 0,
    num_hosts: int = 1,
    host_id: int = 0,
) -> tf.data.Dataset:
    """Makes a data set of this host's slice of the batches that hold every record once, in order.

    Args:
        records: N records.
        batch_size: Global batch size B, which the hosts must divide.
        size: Side of the images in pixels.
        resize_mode: How an image becomes a square, see `resizing.resize`.
        start: First record of the first batch.
        num_hosts: Number of hosts that split each batch.
        host_id: This host, counted from 0.

    Returns:
        Dicts of `image` `[b, size, size, 3]` float32 0..255, `record` `[b]` int64 and `mask` `[b]`
        bool, b = B / num_hosts. The last batch is filled up with gray images, record 0, mask False.
        For an image that cannot be decoded, iterate within `corrupt_images.report_corrupt_image`.
    """
    local = host_slice(batch_size, num_hosts, host_id)
    local_size = local.stop - local.start
    num_batches, num_last = divmod(len(records) - start, batch_size)
    count = num_batches * local_size + min(max(num_last - local.start, 0), local_size)
    first = start + local.start
    reader = RecordReader([records])

    def preprocess(contents: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        image = preprocess_eval(contents, size, resize_mode)
        return {"image": image, "record": record, "mask": True}

    examples = _map_images(
        tf.data.Dataset.range(count).map(
            _graph(lambda i: first + i // local_size * batch_size + i % local_size)
        ),
        lambda record: reader.places(tf.constant(0, tf.int64), record),
        preprocess,
        reader,
    )
    filler = {
        "image": tf.fill([size, size, 3], 127.0),
        "record": tf.constant(0, tf.int64),
        "mask": False,
    }
    num_fillers = (num_batches + (num_last > 0)) * local_size - count
    fillers = tf.data.Dataset.from_tensors(filler).repeat(num_fillers)
    batches = examples.concatenate(fillers).batch(local_size, drop_remainder=True)
    return _keep_order(batches.prefetch(2))


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


def _describe_steps(
    sampler: BatchSampler,
    start_step: int,
    describe: Callable[[BatchSpec], tf.Tensor],
    is_sharded: bool = False,
) -> tf.data.Dataset:
    """The rows of each step from `start_step` on; those of a worker's own steps if `is_sharded`."""
    steps = tf.data.Dataset.counter(start_step)
    if is_sharded:
        steps = shard_by_worker().map(lambda number: start_step + number)
    chunks = steps.batch(max(1, _IMAGES_PER_CHUNK // sampler.batch_size), drop_remainder=True)
    rows = chunks.map(_graph(lambda steps: describe(sampler.batch_at(steps))))
    return rows.prefetch(1).unbatch()


def _map_images(
    elements: tf.data.Dataset,
    locate: Callable[[tf.Tensor], tf.Tensor],
    preprocess: Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]],
    reader: RecordReader,
) -> tf.data.Dataset:
    """Calls `preprocess(encoded image, element)` with the image at each element's place."""

    def read(element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return reader.read(locate(element)), element

    parallel = {"num_parallel_calls": tf.data.AUTOTUNE}
    if reader.is_mapped:
        return elements.map(_graph(lambda element: preprocess(*read(element))), **parallel)
    options = tf.data.Options()
    options.threading.private_threadpool_size = _REMOTE_READS
    contents = elements.map(_graph(read), num_parallel_calls=_REMOTE_READS)
    return contents.map(_graph(preprocess), **parallel).with_options(options)


def _unpack(rows: tf.Tensor) -> dict[str, tf.Tensor]:
    return {
        "label": tf.cast(rows[:, _LABEL], tf.int32),
        "domain": tf.cast(rows[:, _DOMAIN], tf.int32),
        "record": rows[:, _RECORD],
    }


def _make_labels(records: Mapping[str, Records], sampler: BatchSampler) -> DomainTable:
    if tuple(records) != sampler.domains:
        raise ValueError(f"records of {tuple(records)}, but a sampler of {sampler.domains}")
    return make_label_table(records)


def _keep_order(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Keeps the order of a data set's elements, and all of them on each host."""
    options = tf.data.Options()
    options.deterministic = True
    # Hosts take their own slices by position; nothing else may split the data.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
