"""The batches of a training stage, on every replica of a strategy."""

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.datasets.joined_records import JoinedRecords
from universal_embedding.datasets.lock import hold_lock
from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.files import is_remote, scratch_for
from universal_embedding.input.batch_sampler import BatchSampler
from universal_embedding.input.images import AugmentationConfig
from universal_embedding.input.pipeline import (
    DataService,
    gather_rows,
    record_batches,
    training_batches,
)
from universal_embedding.models.distribution import (
    all_gather_text,
    assert_files_on_host,
    distribute,
    num_hosts_and_id,
)
from universal_embedding.training.feature_cache import cache_tower_features
from universal_embedding.training.schedule import Stage

if TYPE_CHECKING:
    from universal_embedding.training.experiment import Experiment

FEATURE_BATCH_SIZE = 64  # for the feature cache
BATCHING = ("mixed", "per_domain")


def make_batch_sampler(
    config: ConfigDict,
    records: Mapping[str, Records],
    domains: Sequence[str] = (),
    batch_size: int = 0,
) -> BatchSampler:
    """Makes the batch sampler of `config.data`.

    In a stage that selects domains or has a batch size of its own, batches are those of a run that
    had them from its first step.

    Args:
        config: The config of the run.
        records: The run's training records by domain, to which `config.data.domain_weights` refer.
        domains: The domains to sample; empty: all.
        batch_size: Images per step; 0: that of the config.

    Raises:
        UserError: the sampler, its weights or the batch size do not fit the records.
    """
    data = config.data
    if data.batching not in BATCHING:
        raise UserError(f"config.data.batching is {data.batching!r}; it must be one of {BATCHING}")
    if data.replay and not any(isinstance(r, JoinedRecords) for r in records.values()):
        raise UserError(
            f"config.data.replay={data.replay} is the share of old images, but "
            f"config.data.dataset={data.dataset} is one data set; give OLD+NEW, or set replay to 0"
        )
    sampler = data.sampler
    if sampler == "weights":
        if len(data.domain_weights) != len(records):
            raise UserError(
                f"config.data.domain_weights has {len(data.domain_weights)} values for the "
                f"{len(records)} domains {', '.join(records)}; give one for each, in this order"
            )
        weights = dict(zip(records, data.domain_weights, strict=True))
        sampler = {domain: weights[domain] for domain in domains or records}
    return BatchSampler(
        {domain: records[domain] for domain in domains or records},
        batch_size or data.batch_size,
        seed=config.seed,
        sampler=sampler,
        temperature=data.temperature,
        mixed=data.batching == "mixed",
        images_per_class=max(data.images_per_class, 1),
        replay=data.replay,
        old_sizes={d: r.part_sizes[0] for d, r in records.items() if isinstance(r, JoinedRecords)},
    )


def stage_batches(
    experiment: "Experiment", stage: Stage, step: int, show_progress: bool = True
) -> Iterator:
    """Returns an iterator of a stage's batches from a step on, for every replica.

    A batch is a dict of `label [b]` int32, `domain [b]` int32 (position among the run's domains),
    `record [b]` int64, and `image` or, in a stage on features, `features [b, F]` float32; with
    cached teachers also their rows `[b, D]` float32, see `Teacher.cached_rows`.

    Args:
        experiment: The run; missing features and teacher embeddings are computed and cached.
        stage: The stage.
        step: A step of the run, not before the stage's start.
        show_progress: Whether to show a progress bar while features are computed.

    Raises:
        UserError: the records do not fit the config, or an image cannot be decoded.
    """
    records, sampler = experiment.stage_records(stage), experiment.batch_sampler(stage)
    rows = _teacher_rows(experiment, stage, records, show_progress)
    if stage.input == "features":
        towers = read_features(experiment, records, show_progress)
        rows |= {f"features/{i:03}": list(features.values()) for i, features in enumerate(towers)}
    positions = [list(experiment.records).index(domain) for domain in records]
    data_service = None
    if experiment.data_service and stage.input == "images":
        data_service = DataService(experiment.data_service, _job_name(experiment.strategy))

    files = [str(r.filename) for table in rows.values() for r in table if isinstance(r, np.memmap)]
    if stage.input == "images":
        files += [r.shard_paths[0] for r in records.values()]

    def make_dataset(num_hosts: int, host_id: int) -> tf.data.Dataset:
        if num_hosts > 1:
            assert_files_on_host(files, host_id)
        if stage.input == "features":
            dataset = record_batches(records, sampler, step, num_hosts, host_id)
        else:
            augmentation = _augmentation(experiment.config, stage)
            dataset = training_batches(
                records, sampler, augmentation, step, num_hosts, host_id, data_service
            )
        for name, rows_by_domain in rows.items():
            dataset = gather_rows(dataset, name, rows_by_domain)
        if stage.input == "features":
            dataset = dataset.map(_join_features)
        return remap_domains(dataset, positions)

    return distribute(make_dataset, experiment.strategy)


def read_features(
    experiment: "Experiment", records: Mapping[str, Records], show_progress: bool = True
) -> list[dict[str, np.ndarray]]:
    """The features of frozen backbones, see `cache_tower_features`; missing ones are computed.

    Raises:
        UserError: the directory of the features cannot be used.
    """
    config, strategy = experiment.config, experiment.strategy
    shared = config.data.feature_dir
    if is_remote(shared):
        raise UserError(
            f"config.data.feature_dir is {shared}, but features are mapped into memory; give a "
            "local directory"
        )
    if shared:
        folder = Path(shared) / config.data.dataset
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = _cache_folder(experiment, "features")
    is_writer = bool(shared) and num_hosts_and_id(strategy)[1] == 0
    with hold_lock(folder / ".lock", wait=True) if is_writer else contextlib.nullcontext():
        return cache_tower_features(
            folder,
            records,
            experiment.model,
            strategy,
            FEATURE_BATCH_SIZE,
            show_progress,
            is_shared=bool(shared),
        )


def stage_examples(
    experiment: "Experiment", stage: Stage, steps: Iterable[int]
) -> Iterator[tuple[Records, int]]:
    """The images of some steps of a stage in their order: their records, and the index in them."""
    if stage.input != "images":
        return
    records = list(experiment.stage_records(stage).values())
    sampler = experiment.batch_sampler(stage)
    for step in steps:
        spec = sampler.batch_at(step)
        for d, index in zip(spec.domain.numpy(), spec.record.numpy(), strict=True):
            yield records[d], int(index)


def remap_domains(dataset: tf.data.Dataset, positions: Sequence[int]) -> tf.data.Dataset:
    """Replaces `domain` i by `positions[i]`: from a stage's domains to all of the run's."""
    table = tf.constant(positions, tf.int32)
    return dataset.map(lambda batch: {**batch, "domain": tf.gather(table, batch["domain"])})


def _join_features(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Replaces the features of each backbone by one row of all."""
    joined = [batch[name] for name in sorted(batch) if name.startswith("features/")]
    rest = {name: value for name, value in batch.items() if not name.startswith("features/")}
    return {**rest, "features": tf.concat(joined, axis=1)}


def _job_name(strategy: tf.distribute.Strategy) -> str:
    """A new name on which all hosts agree: a job of an earlier run would be at another step."""
    return all_gather_text(uuid.uuid4().hex, strategy)[0]


def _augmentation(config: ConfigDict, stage: Stage) -> AugmentationConfig:
    return AugmentationConfig(
        size=stage.image_size, resize_mode=config.model.resize_mode, **stage.augmentation
    )


def _cache_folder(experiment: "Experiment", name: str) -> Path:
    """The directory of cached rows, which all hosts of the run map into memory."""
    if is_remote(experiment.workdir) and num_hosts_and_id(experiment.strategy)[0] > 1:
        raise UserError(
            f"--workdir={experiment.workdir} is not a disk, and the hosts of the run must share "
            f"the {name} that they map into memory; give a directory that all hosts mount"
        )
    return scratch_for(experiment.workdir / name)


def _teacher_rows(
    experiment: "Experiment", stage: Stage, records: Mapping[str, Records], show_progress: bool
) -> dict[str, list[np.ndarray]]:
    """Cached rows of teachers for a stage's domains, by key of the batch; see `Teachers`."""
    if experiment.teachers is None:
        return {}
    reads_features = stage.input == "features"
    if experiment.teachers.has_cached(reads_features):
        _cache_folder(experiment, "teachers")
    mixes_images = not reads_features and _augmentation(experiment.config, stage).uses_mixing
    return experiment.teachers.stage_rows(
        list(records), reads_features, mixes_images, experiment.strategy, show_progress
    )
