"""What a run consists of: everything that its config makes, before the first step."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.input.draws import Draws
from universal_embedding.input.pictures import PictureOptions
from universal_embedding.input.pipeline import host_slice, training_batches
from universal_embedding.training.adaptive import AdaptiveSampler
from universal_embedding.training.average import WeightAverage
from universal_embedding.training.batches import (
    distributed,
    feature_batches,
    renumbered,
    with_rows,
)
from universal_embedding.training.features import cached_features
from universal_embedding.training.loss_scale import LossScale
from universal_embedding.training.model import make_embedder
from universal_embedding.training.objectives import loss_names, make_objectives
from universal_embedding.training.objectives.base import Setting
from universal_embedding.training.parts import make_parts
from universal_embedding.training.stages import Stage, read_stages
from universal_embedding.training.step import Step
from universal_embedding.training.strategy import hosts
from universal_embedding.training.teachers import Teachers

FEATURE_BATCH = 64  # pictures, when features are computed once


class Run:
    """The model, objectives, optimizers and input of a config.

    Args:
        config: A config over `training.config.base_config`.
        records: Training records by domain.
        workdir: The run's folder; features of a frozen backbone are kept in it.
        strategy: Where the run computes.

    Raises:
        UserError: a value of the config cannot be used.
    """

    def __init__(
        self,
        config: ConfigDict,
        records: Mapping[str, Records],
        workdir: Path,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self.config, self.records = config, dict(records)
        self.workdir, self.strategy = workdir, strategy
        self.stages = read_stages(config.stages, config.model.image_size)
        self._check_batch()
        self._check_domains()
        with strategy.scope():
            self.embedder = make_embedder(config)
            pattern = config.distillation.teachers
            self.teachers = Teachers(pattern, list(records)) if pattern else None
            setting = Setting(config, self.embedder, self._class_sizes(), self.teachers)
            self.objectives = make_objectives(setting)
            self.losses = loss_names(self.objectives)
            adaptive = config.data.reweight_every
            self.sampler = (
                AdaptiveSampler(config.data, list(records), self.losses) if adaptive else None
            )
            once = tf.VariableAggregation.ONLY_FIRST_REPLICA
            self.step = tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=once)
            self.best = tf.Variable(-1.0, trainable=False, aggregation=once)
            self.validated = tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=once)
            self.parts = make_parts(
                self.embedder, self.objectives, self.stages, config.optimizer, self.step
            )
            half = config.model.precision == "mixed_float16"
            self.loss_scale = LossScale() if half else None
            momentum = config.optimizer.average
            self.average = WeightAverage(self.weights, momentum) if momentum else None

    @property
    def weights(self) -> list[tf.Variable]:
        """Of the embedder, in a fixed order."""
        return [variable.value for variable in self.embedder.weights]

    def state(self) -> dict[str, list[tf.Variable]]:
        """All that a checkpoint keeps, by owner."""
        weights = {id(variable) for variable in self.embedder.weights}
        generators = [v for v in self.embedder.variables if id(v) not in weights]
        optimizers = [part.optimizer for part in self.parts.values()]
        return {
            "step": [self.step],
            "best": [self.best, self.validated],
            "embedder": self.weights,
            "generators": [v.value for v in generators],
            "heads": [
                variable.value
                for _, objective in self.objectives.values()
                for variables in objective.parts().values()
                for variable in variables
            ],
            "optimizers": [v.value for optimizer in optimizers for v in optimizer.variables],
            "average": self.average.averages if self.average else [],
            "sampler": self.sampler.variables if self.sampler else [],
            "loss_scale": self.loss_scale.variables if self.loss_scale else [],
        }

    def facts(self) -> dict[str, object]:
        """What `config.json` says of the data: pictures, classes and weight of each domain."""
        shares = make_draws(self.config, self.records).weights
        return {
            "domains": {
                domain: {
                    "pictures": len(of),
                    "classes": len(np.unique(of.labels.values)),
                    "weight": shares[domain],
                }
                for domain, of in self.records.items()
            }
        }

    def averaged(self) -> contextlib.AbstractContextManager:
        """Within it the embedder has its averaged weights, if the run keeps an average."""
        return self.average.applied() if self.average else contextlib.nullcontext()

    def step_of(self, stage: Stage) -> Step:
        """What one replica does at each step of a stage."""
        config = self.config
        with self.strategy.scope():
            return Step(
                self.embedder,
                self.objectives,
                self.parts,
                stage,
                self.step,
                domains=len(self.records),
                global_batch=config.data.batch_size,
                seed=config.seed,
                dropout=config.model.dropout,
                batch_statistics=config.model.norm_statistics == "batch",
                clip_norm=config.optimizer.clip_norm,
                loss_scale=self.loss_scale,
                average=self.average,
                compiled=config.jit_compile,
            )

    def chosen(self, stage: Stage) -> dict[str, Records]:
        """The records that a stage trains on."""
        return {domain: self.records[domain] for domain in stage.domains or self.records}

    def batches(self, stage: Stage, step: int, show: bool = True) -> Iterator:
        """A stage's batches from a step of the run on, for every replica.

        Args:
            stage: The stage.
            step: The run's step, not before the stage's start.
            show: Whether to show the progress of computing features.
        """
        chosen, draws = self.chosen(stage), self._draws(stage)
        teacher_rows = self._teacher_rows(stage, show)
        if stage.input == "features":
            folder = self.workdir / "features"
            features = cached_features(
                folder, chosen, self.embedder, self.strategy, FEATURE_BATCH, show
            )

            def make(count: int, host: int) -> tf.data.Dataset:
                return feature_batches(features, chosen, draws, step, count, host)
        else:
            options = PictureOptions(
                size=stage.image_size, aspect=self.config.model.aspect, **self.config.pictures
            )

            def make(count: int, host: int) -> tf.data.Dataset:
                return training_batches(chosen, draws, options, step, count, host)

        positions = [list(self.records).index(domain) for domain in chosen]

        def whole(count: int, host: int) -> tf.data.Dataset:
            dataset = renumbered(make(count, host), positions)
            if not teacher_rows:
                return dataset
            mine = host_slice(draws.batch_size, count, host)
            return with_rows(dataset, "teacher", teacher_rows, draws, step, mine)

        return distributed(whole, self.strategy)

    def reweight(self, stage: Stage, step: int) -> dict[str, float]:
        """Lets the domains' weights follow their losses from `step` on; the weights, to log."""
        weights = self.sampler.reweight(self._draws(stage), step)
        return {f"weight/{domain}": weight for domain, weight in weights.items()}

    def shares(self, stage: Stage) -> Mapping[str, float]:
        """The weights of a stage's domains as they are now; their sum is 1."""
        return self._draws(stage).weights

    def _draws(self, stage: Stage) -> Draws:
        draws = make_draws(self.config, self.chosen(stage))
        return self.sampler.applied(draws) if self.sampler else draws

    def _teacher_rows(self, stage: Stage, show: bool) -> dict[str, np.ndarray]:
        """Embeddings of a stage's pictures by the teachers, unless these run on every batch."""
        if self.teachers is None:
            return {}
        pictures = self.config.pictures
        if stage.input == "features" or self.config.distillation.once:
            if stage.input == "pictures" and (pictures.mixup or pictures.cutmix):
                raise UserError(
                    "config.distillation.once has no embedding of mixed pictures; set it to False "
                    "or config.pictures.mixup and config.pictures.cutmix to 0"
                )
            folder = self.workdir / "teachers"
            return self.teachers.cached(folder, self.chosen(stage), self.strategy, show)
        with self.strategy.scope():
            self.teachers.load()
        return {}

    def _class_sizes(self) -> dict[str, np.ndarray]:
        return {
            domain: np.unique(of.labels.values, return_counts=True)[1]
            for domain, of in self.records.items()
        }

    def _check_batch(self) -> None:
        count, _ = hosts(self.strategy)
        replicas, size = self.strategy.num_replicas_in_sync, self.config.data.batch_size
        if size < 1 or size % replicas or size % count:
            raise UserError(
                f"config.data.batch_size is {size}, which {replicas} replicas on {count} hosts "
                f"cannot share equally; give a multiple of {replicas}"
            )

    def _check_domains(self) -> None:
        for stage in self.stages:
            if stage.domains and self.config.data.reweight_every:
                raise UserError(
                    f"the stage {stage.name!r} asks for some of the domains; with "
                    "config.data.reweight_every the losses choose among all"
                )
            unknown = [domain for domain in stage.domains if domain not in self.records]
            if unknown:
                raise UserError(
                    f"the stage {stage.name!r} asks for the domains {unknown}; the run has "
                    f"{', '.join(self.records)}"
                )


def make_draws(config: ConfigDict, records: Mapping[str, Records]) -> Draws:
    """The draws that `config.data` describes.

    Raises:
        UserError: the sampler, its weights or the batch do not fit the records.
    """
    data = config.data
    sampler = data.sampler
    if sampler == "weights":
        if len(data.weights) != len(records):
            raise UserError(
                f"config.data.weights has {len(data.weights)} numbers for the {len(records)} "
                f"domains {', '.join(records)}; give one for each, in this order"
            )
        sampler = dict(zip(records, data.weights, strict=True))
    return Draws(
        records,
        data.batch_size,
        seed=config.seed,
        sampler=sampler,
        temperature=data.temperature,
        mixed=data.batch == "mixed",
        pictures_per_class=max(data.pictures_per_class, 1),
    )
