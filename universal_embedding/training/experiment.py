"""The experiment: everything that a config describes, built once before the first step."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.files import scratch_for
from universal_embedding.input.batch_sampler import BatchSampler
from universal_embedding.input.record_reader import dense_labels
from universal_embedding.models.backbones.drop_path import drop_path_rate
from universal_embedding.models.distribution import num_hosts_and_id
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.models.heads.sharding import ShardedTable, whole_table
from universal_embedding.private_apis import flatten_layers
from universal_embedding.training.data import make_batch_sampler
from universal_embedding.training.domain_reweighter import DomainReweighter
from universal_embedding.training.ema import ExponentialMovingAverage
from universal_embedding.training.log_means import LogMeans
from universal_embedding.training.losses import Loss, LossContext, loss_names, make_losses
from universal_embedding.training.model import build_model
from universal_embedding.training.param_groups import ParamGroup, make_param_groups
from universal_embedding.training.schedule import Stage, read_stages
from universal_embedding.training.sharded_head import check_sharded_head
from universal_embedding.training.teachers import Teachers
from universal_embedding.training.train_step import LossScale


@dataclasses.dataclass
class Experiment:
    """The model, losses, optimizers, data and counters of a run; see `from_config`.

    Attributes:
        config: A config over `training.config.base_config`.
        records: Training records by domain.
        workdir: The run directory; cached features are kept in it.
        strategy: The distribution strategy.
        stages: All stages of the run, in order.
        model: The embedding model.
        losses: Weight and loss by name.
        param_groups: The trained weights by group, with their optimizers.
        step: The number of steps taken, int64.
        best_score: The best value of `config.best_metric` so far, float32.
        last_eval_step: The step of the latest evaluation, int64.
        ema: Moving average of the model's weights, or None.
        loss_scale: Dynamic loss scale for float16, or None.
        teachers: Trained models to distill from, or None.
        reweighter: Domain weights that follow the losses, or None.
        log_means: Means of the losses since they were logged last.
        data_service: Address of a tf.data service that makes the images, or empty.
    """

    config: ConfigDict
    records: dict[str, Records]
    workdir: Path
    strategy: tf.distribute.Strategy
    stages: list[Stage]
    model: EmbeddingModel
    losses: dict[str, tuple[float, Loss]]
    param_groups: dict[str, ParamGroup]
    step: tf.Variable
    best_score: tf.Variable
    last_eval_step: tf.Variable
    log_means: LogMeans
    ema: ExponentialMovingAverage | None = None
    loss_scale: LossScale | None = None
    teachers: Teachers | None = None
    reweighter: DomainReweighter | None = None
    data_service: str = ""

    @classmethod
    def from_config(
        cls,
        config: ConfigDict,
        records: Mapping[str, Records],
        workdir: Path,
        strategy: tf.distribute.Strategy,
        data_service: str = "",
        pretrained: bool = True,
        num_replicas: int | None = None,
    ) -> "Experiment":
        """Builds everything that a config describes.

        Args:
            config: A config over `training.config.base_config`.
            records: Training records by domain.
            workdir: The run directory.
            strategy: The distribution strategy.
            data_service: Address of a tf.data service that makes the images: `grpc://host:port`.
            pretrained: Whether the backbone has its pretrained weights, or random ones.
            num_replicas: Number of replicas to plan for, in a dry run; None: those of `strategy`.

        Raises:
            UserError: a value of the config cannot be used.
        """
        records = dict(records)
        stages = read_stages(config)
        for stage in stages:
            _check_batch_size(stage, strategy)
        _check_stage_domains(config, stages, records)
        check_sharded_head(config)
        num_replicas = num_replicas or strategy.num_replicas_in_sync
        model = build_model(config, strategy, pretrained)
        if not config.model.freeze_batch_norm:
            _synchronize_batch_norm(model, config, strategy)
        with strategy.scope():
            folder = scratch_for(workdir / "teachers")
            has_teachers = bool(config.distillation.teachers)
            teachers = Teachers(config, records, folder) if has_teachers else None
            sizes = _class_sizes(records)
            context = LossContext(config, model, sizes, teachers, num_replicas, _class_ids(records))
            losses = make_losses(context)
            _check_accumulation(config, stages, losses, strategy)
            reweighter = (
                DomainReweighter(config.data, list(records), loss_names(losses))
                if config.data.reweight_every_steps
                else None
            )
            step = _variable(0, tf.int64)
            best_score, last_eval_step = _variable(-1.0, tf.float32), _variable(0, tf.int64)
            log_means = LogMeans(len(loss_names(losses)), len(records))
            param_groups = make_param_groups(model, losses, stages, config.optimizer, step)
            loss_scale = LossScale() if config.model.dtype_policy == "mixed_float16" else None
            decay = config.optimizer.ema_decay
            weights = [variable.value for variable in model.weights]
            ema = ExponentialMovingAverage(weights, decay) if decay else None
        return cls(
            config=config,
            records=records,
            workdir=workdir,
            strategy=strategy,
            stages=stages,
            model=model,
            losses=losses,
            param_groups=param_groups,
            step=step,
            best_score=best_score,
            last_eval_step=last_eval_step,
            log_means=log_means,
            ema=ema,
            loss_scale=loss_scale,
            teachers=teachers,
            reweighter=reweighter,
            data_service=data_service,
        )

    @property
    def loss_names(self) -> list[str]:
        """Names of the logged losses, in the order of their rows in `MultiStepLoop`'s sums."""
        return loss_names(self.losses)

    @property
    def weights(self) -> list[tf.Variable]:
        """The weights of the embedding model, in a fixed order."""
        return [variable.value for variable in self.model.weights]

    def remaining_stages(self) -> list[Stage]:
        """The stages that are not finished at the current step."""
        return [stage for stage in self.stages if int(self.step.numpy()) < stage.end]

    def stage_records(self, stage: Stage) -> dict[str, Records]:
        """The records that a stage trains on, by domain."""
        return {domain: self.records[domain] for domain in stage.domains or self.records}

    def batch_sampler(self, stage: Stage) -> BatchSampler:
        """The batch sampler of a stage, with the current domain weights."""
        sampler = make_batch_sampler(self.config, self.records, stage.domains, stage.batch_size)
        return self.reweighter.apply(sampler) if self.reweighter else sampler

    def domain_weights(self, stage: Stage) -> Mapping[str, float]:
        """The current sampling weights of a stage's domains; they sum to 1."""
        return self.batch_sampler(stage).weights

    def ema_weights(self) -> contextlib.AbstractContextManager[None]:
        """Context in which the model has its averaged weights, if the run has an EMA."""
        return self.ema.swapped_in() if self.ema else contextlib.nullcontext()

    def checkpoint_state(self) -> dict[str, list[tf.Variable | ShardedTable]]:
        """All variables that a checkpoint keeps, by owner."""
        weights = {id(variable) for variable in self.model.weights}
        seeds = [v.value for v in self.model.variables if id(v) not in weights]
        return {
            "step": [self.step],
            "evaluation": [self.best_score, self.last_eval_step],
            "model": self.weights,
            "seed_generators": seeds,
            "heads": [
                whole_table(variable)
                for _, loss in self.losses.values()
                for name, variables in loss.variables_by_group().items()
                if name != "projector"
                for variable in variables
            ],
            "projectors": [
                variable.value
                for _, loss in self.losses.values()
                for variable in loss.variables_by_group().get("projector", [])
            ],
            "loss_states": [v for _, loss in self.losses.values() for v in loss.state],
            "optimizers": [
                whole_table(variable, group.shard)
                for group in self.param_groups.values()
                for variable in group.optimizer.variables
            ],
            "ema": self.ema.averages if self.ema else [],
            "reweighter": self.reweighter.variables if self.reweighter else [],
            "log_means": self.log_means.variables,
            "loss_scale": self.loss_scale.variables if self.loss_scale else [],
        }

    def data_summary(self) -> dict[str, Any]:
        """Facts about the data for `config.json`: images, classes and weight of each domain."""
        weights = make_batch_sampler(self.config, self.records).weights
        return {
            "domains": {
                domain: {
                    "num_images": len(records),
                    "num_classes": len(np.unique(records.labels.values)),
                    "weight": weights[domain],
                }
                for domain, records in self.records.items()
            }
        }


def _variable(value: float, dtype: tf.DType) -> tf.Variable:
    return tf.Variable(value, dtype=dtype, trainable=False)


def _class_sizes(records: Mapping[str, Records]) -> dict[str, np.ndarray]:
    """Training images of each class, `[C_d]` int64 by domain.

    Raises:
        UserError: a record has several labels.
    """
    return {domain: np.bincount(dense_labels(r)) for domain, r in records.items()}


def _class_ids(records: Mapping[str, Records]) -> dict[str, np.ndarray]:
    """Class ids in the order of the labels that `dense_labels` makes of them, by domain."""
    return {domain: np.unique(r.labels.values) for domain, r in records.items()}


def _synchronize_batch_norm(
    model: EmbeddingModel, config: ConfigDict, strategy: tf.distribute.Strategy
) -> None:
    """Makes batch norm normalize by the whole batch, not by each replica's slice of it.

    Raises:
        UserError: training would depend on the number of replicas, or cannot be compiled.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    layers = flatten_layers(model.backbone)
    layers = [layer for layer in layers if not drop_path_rate(layer)]
    rate = max((getattr(layer, "rate", 0) for layer in layers), default=0)
    if rate:
        raise UserError(
            f"config.model.freeze_batch_norm=False trains with the backbone's dropout of {rate}, "
            f"which differs between 1 replica and {strategy.num_replicas_in_sync}; freeze it, and "
            "use config.model.dropout"
        )
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    if norms and config.jit_compile and not isinstance(strategy, tf.distribute.TPUStrategy):
        raise UserError(
            "config.model.freeze_batch_norm=False takes statistics over all replicas within the "
            "backbone, which XLA cannot compile there; set config.jit_compile=False"
        )
    for layer in norms:
        layer.synchronized = True


def _check_accumulation(
    config: ConfigDict,
    stages: list[Stage],
    losses: Mapping[str, tuple[float, Loss]],
    strategy: tf.distribute.Strategy,
) -> None:
    """Refuses to accumulate gradients that would not be those of the whole batch."""
    name, replicas = "config.optimizer.gradient_accumulation_steps", strategy.num_replicas_in_sync
    steps = config.optimizer.gradient_accumulation_steps
    if steps == 1:
        return
    for stage in stages:
        if steps < 1 or stage.batch_size % (steps * replicas):
            raise UserError(
                f"{name} is {steps}, and the batch of {stage.batch_size} of {stage.name!r} has no "
                f"so many equal slices on {replicas} replicas; give a divisor of its size on one"
            )
    for loss_name, (_, loss) in losses.items():
        if loss.uses_whole_batch:
            raise UserError(
                f"{name} is {steps}, but config.losses.{loss_name} compares the examples of a "
                "batch with one another; set it to 1, and config.model.remat=True to save memory"
            )
    if not config.model.freeze_batch_norm:
        raise UserError(
            f"{name} is {steps}, but config.model.freeze_batch_norm=False takes statistics of the "
            "whole batch; set one of them to its default"
        )


def _check_batch_size(stage: Stage, strategy: tf.distribute.Strategy) -> None:
    num_hosts, _ = num_hosts_and_id(strategy)
    replicas, size = strategy.num_replicas_in_sync, stage.batch_size
    if size < 1 or size % replicas or size % num_hosts:
        raise UserError(
            f"the batch size of {stage.name!r} is {size}, which does not divide equally over "
            f"{replicas} replicas on {num_hosts} hosts; give a multiple of {replicas}"
        )


def _check_stage_domains(
    config: ConfigDict, stages: list[Stage], records: Mapping[str, Records]
) -> None:
    for stage in stages:
        if stage.domains and config.data.reweight_every_steps:
            raise UserError(
                f"the stage {stage.name!r} selects domains; remove its `domains`, or set "
                "config.data.reweight_every_steps=0: reweighting needs the losses of all domains"
            )
        unknown = [domain for domain in stage.domains if domain not in records]
        if unknown:
            raise UserError(
                f"the stage {stage.name!r} selects the domains {unknown}; the run has "
                f"{', '.join(records)}"
            )
