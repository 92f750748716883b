"""Builds a run without memory for its weights, and traces the training step of each stage."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.datasets.domains import GUIE, UNED
from universal_embedding.datasets.examples import Labels
from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.private_apis import without_memory
from universal_embedding.training.dry_run.step_graph import StepGraph, read_graph
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.schedule import Stage
from universal_embedding.training.train_step import TrainStep

_PUBLISHED = {"uned": UNED, "guie": GUIE}


class PlannedRecords:
    """The published sizes of a domain that is not prepared.

    Attributes:
        domain: The domain's key.
        labels: One image of each class: how many there are does not change the step.
        shard_paths: Empty.
        num_train_images: Number of training images; None if it is not published.
        num_val_images: Number of images of the split `val`; None if it is not published.
    """

    split = "train"
    shard_paths: tuple[str, ...] = ()

    def __init__(self, domain: str, num_classes: int, num_images: Mapping[str, int]) -> None:
        self.domain = domain
        self.labels = Labels(np.arange(num_classes), np.arange(num_classes + 1))
        self.num_train_images = num_images.get("train")
        self.num_val_images = num_images.get("val")

    def __len__(self) -> int:
        return len(self.labels)


def planned_records(config: ConfigDict) -> dict[str, PlannedRecords]:
    """Stands in for the training records of a data set that is not prepared.

    Raises:
        UserError: the numbers of its classes are not published.
    """
    data = config.data
    if data.dataset not in _PUBLISHED:
        raise UserError(
            f"config.data.dataset={data.dataset} is not prepared in --data_dir, and its classes "
            f"are known only for {', '.join(_PUBLISHED)}; prepare it before the dry run"
        )
    published = _PUBLISHED[data.dataset]
    unknown = [domain for domain in data.domains if domain not in published]
    if unknown:
        raise UserError(f"config.data.domains has {unknown}; there are {', '.join(published)}")
    records = {}
    for key in data.domains or published:
        counts = published[key].num_classes
        num_classes = counts["train"] if "train" in counts else counts["all"]
        records[key] = PlannedRecords(key, num_classes, published[key].num_images)
    return records


def build_without_memory(
    config: ConfigDict, records: Mapping[str, Records], remat: bool, num_replicas: int = 1
) -> Experiment:
    """Builds the run of a config on one device, with weights that have a shape but no value.

    Where the config shards a head, it is the part of one of `num_replicas` replicas.

    Args:
        config: The config of the run.
        records: Training records by domain.
        remat: Replaces `config.model.remat`.
        num_replicas: Number of replicas of the device.

    Raises:
        UserError: a value of the config cannot be used.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.remat = remat
        config.init_from = ""
    strategy = tf.distribute.get_strategy()
    with without_memory():
        return Experiment.from_config(
            config, records, Path(), strategy, pretrained=False, num_replicas=num_replicas
        )


def trace_step(
    experiment: Experiment, stage: Stage, batch_size: int, compiled: bool
) -> tuple[StepGraph, int]:
    """Traces the training step of a stage on one replica.

    Args:
        experiment: The run, see `build_without_memory`.
        stage: One of its stages.
        batch_size: Images of a replica.
        compiled: Whether XLA compiles the step.

    Returns:
        The graph, and the bytes of a batch.
    """
    specs = batch_spec(experiment, stage, batch_size)
    with without_memory():
        step = TrainStep(experiment, stage)
        function = tf.function(step, jit_compile=compiled)
        graph = read_graph(function.get_concrete_function(specs).graph)
    num_bytes = sum(int(np.prod(spec.shape)) * spec.dtype.size for spec in specs.values())
    return graph, num_bytes


def batch_spec(experiment: Experiment, stage: Stage, batch_size: int) -> dict[str, tf.TensorSpec]:
    """Shapes and types of a replica's batch, see `data.stage_batches`.

    Embeddings of teachers come with it, as if they were cached.
    """
    size = stage.image_size
    feature_dim = experiment.model.backbone.output_shape[-1]
    specs = {
        "label": tf.TensorSpec([batch_size], tf.int32),
        "domain": tf.TensorSpec([batch_size], tf.int32),
        "record": tf.TensorSpec([batch_size], tf.int64),
    }
    if stage.input == "features":
        specs["features"] = tf.TensorSpec([batch_size, feature_dim], tf.float32)
    else:
        specs["image"] = tf.TensorSpec([batch_size, size, size, 3], tf.uint8)
        if stage.augmentation["mixup"] or stage.augmentation["cutmix"]:
            specs["label2"] = specs["label"]
            specs["mix"] = tf.TensorSpec([batch_size], tf.float32)
    has_projectors = experiment.config.losses.embedding_matching.weight > 0
    for teacher in experiment.teachers or ():
        # Its size is known where a projector needed it; losses of distances cost what they do.
        dim = teacher.dim(experiment.strategy) if has_projectors else experiment.model.output_dim
        for key in teacher.batch_keys(standardized=has_projectors):
            specs[key] = tf.TensorSpec([batch_size, dim], tf.float32)
    return specs
