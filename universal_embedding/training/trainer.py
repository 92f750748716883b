"""A run from its config to its last checkpoint."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.input.draws import Draws
from universal_embedding.input.pictures import PictureOptions
from universal_embedding.input.pipeline import training_batches
from universal_embedding.models.embedder import Embedder
from universal_embedding.training.average import WeightAverage
from universal_embedding.training.batches import distributed, feature_batches, renumbered
from universal_embedding.training.checkpoints import Checkpoints
from universal_embedding.training.features import cached_features
from universal_embedding.training.loop import Loop
from universal_embedding.training.loss_scale import LossScale
from universal_embedding.training.metrics import MetricWriter
from universal_embedding.training.model import make_embedder
from universal_embedding.training.objectives import make_objectives
from universal_embedding.training.objectives.base import Setting
from universal_embedding.training.parts import make_parts
from universal_embedding.training.preemption import Preemption
from universal_embedding.training.stages import Stage, rate_at, read_stages
from universal_embedding.training.start import find_start
from universal_embedding.training.step import Step
from universal_embedding.training.strategy import hosts

Validate = Callable[[Embedder, tf.distribute.Strategy], Mapping[str, float]]
SCORE = "merged/mean/r_at_1"  # of a validation; the best checkpoint has the highest
SECONDS_PER_CALL = 5.0  # a signal is answered between calls, and must be within 30 seconds


class Trainer:
    """Trains the model of a config on prepared records.

    Args:
        config: A config over `training.config.base_config`.
        records: Training records by domain.
        workdir: Where everything of the run is kept. One that holds a run is gone on with.
        strategy: Of `training.strategy.make_strategy`.
        validate: Scores of the embedder on the validation split, `SCORE` among them.
        init_from: A work directory whose best embedder the run starts from.

    Raises:
        UserError: a value of the config cannot be used.
    """

    def __init__(
        self,
        config: ConfigDict,
        records: Mapping[str, Records],
        workdir: Path,
        strategy: tf.distribute.Strategy,
        validate: Validate | None = None,
        init_from: Path | None = None,
    ) -> None:
        self.config, self.records, self.workdir = config, dict(records), workdir
        self.strategy, self.validate = strategy, validate
        count, number = hosts(strategy)
        self.chief = number == 0
        self._check_batch(count)
        self.stages = read_stages(config.stages, config.model.image_size)
        class_sizes = {
            domain: np.unique(of.labels.values, return_counts=True)[1]
            for domain, of in self.records.items()
        }
        with strategy.scope():
            self.embedder = make_embedder(config)
            setting = Setting(config, self.embedder, class_sizes)
            self.objectives = make_objectives(setting)
            once = tf.VariableAggregation.ONLY_FIRST_REPLICA
            self.step = tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=once)
            self.best = tf.Variable(-1.0, trainable=False, aggregation=once)
            self.parts = make_parts(
                self.embedder, self.objectives, self.stages, config.optimizer, self.step
            )
            half = config.model.precision == "mixed_float16"
            self.loss_scale = LossScale() if half else None
            momentum = config.optimizer.average
            weights = [variable.value for variable in self.embedder.weights]
            self.average = WeightAverage(weights, momentum) if momentum else None
        self.checkpoints = Checkpoints(
            workdir, self._state(), config.keep, self.chief, background=count == 1
        )
        self.started_from = find_start(self.checkpoints, weights, init_from)

    def run(self) -> bool:
        """Trains to the end of the last stage.

        Returns:
            False if SIGTERM ended it early; the state is saved, and the same call goes on from it.

        Raises:
            UserError: the loss or the gradients are no longer finite.
            KeyboardInterrupt: after Ctrl-C; the state is saved.
        """
        start, total = int(self.step.numpy()), self.stages[-1].end
        batch_size = self.config.data.batch_size
        self.writer = MetricWriter(self.workdir if self.chief else None, start, total, batch_size)
        self.writer.say(f"starting at step {start} of {total} from {self.started_from}")
        try:
            with Preemption() as stop:
                for stage in self.stages:
                    if self._run_stage(stage, stop):
                        break
        finally:
            self.checkpoints.wait()
            self.writer.close()
        if stop.by is not None and stop.by.name == "SIGINT":
            raise KeyboardInterrupt
        return stop.by is None

    def _run_stage(self, stage: Stage, stop: Preemption) -> bool:
        """Trains a stage to its end; True if a signal stopped it before."""
        step = int(self.step.numpy())
        if step >= stage.end:
            return False
        self.writer.say(f"{stage.name}: steps {stage.start} to {stage.end}, {stage.input}")
        batches = self._batches(stage, step)
        loop = Loop(self._step(stage), self.strategy)
        sums, norms, per_call = [], [], 1
        self.writer.rest()
        while step < stage.end:
            steps = min(per_call, self._next_stop(step, stage) - step)
            clock = time.monotonic()
            results = [value.numpy() for value in loop(batches, steps)]
            per_call = _pace(steps, time.monotonic() - clock, per_call, self.config.steps_per_call)
            self._check_finite(step, *results)
            step += steps
            sums.append(results[0].sum(axis=0))
            norms.append(results[1])
            self.writer.advance(step)
            if self._due(step, stage, self.config.log_every):
                self._log(step, stage, np.sum(sums, axis=0), np.concatenate(norms))
                sums, norms = [], []
            validates = self._due(step, stage, self.config.validate_every or stage.steps)
            if validates and self.validate is not None:
                self._validate(step)
            if self._due(step, stage, self.config.checkpoint_every) or stop.by is not None:
                self.checkpoints.save(step)
            if stop.by is not None:
                self.writer.say(f"{stop.by.name} at step {step}: saved; the same command goes on")
                return True
        return False

    def _batches(self, stage: Stage, step: int) -> Iterator:
        chosen = {d: self.records[d] for d in stage.domains or self.records}
        draws = make_draws(self.config, chosen)
        positions = [list(self.records).index(domain) for domain in chosen]
        if stage.input == "features":
            folder = self.workdir / "features"
            features = cached_features(
                folder, chosen, self.embedder, self.strategy, 64, show=self.chief
            )

            def make(count: int, host: int) -> tf.data.Dataset:
                return feature_batches(features, chosen, draws, step, count, host)
        else:
            options = PictureOptions(
                size=stage.image_size, aspect=self.config.model.aspect, **self.config.pictures
            )

            def make(count: int, host: int) -> tf.data.Dataset:
                return training_batches(chosen, draws, options, step, count, host)

        return distributed(lambda *of: renumbered(make(*of), positions), self.strategy)

    def _step(self, stage: Stage) -> Step:
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

    def _state(self) -> dict[str, list[tf.Variable]]:
        of_optimizers = [v for part in self.parts.values() for v in part.optimizer.variables]
        of_heads = [
            variable
            for _, objective in self.objectives.values()
            for variables in objective.parts().values()
            for variable in variables
        ]
        weights = {id(v) for v in self.embedder.weights}
        generators = [v for v in self.embedder.variables if id(v) not in weights]
        return {
            "step": [self.step],
            "best": [self.best],
            "embedder": [v.value for v in self.embedder.weights],
            "generators": [v.value for v in generators],
            "heads": [v.value for v in of_heads],
            "optimizers": [v.value for v in of_optimizers],
            "average": self.average.averages if self.average else [],
            "loss_scale": self.loss_scale.variables if self.loss_scale else [],
        }

    def _next_stop(self, step: int, stage: Stage) -> int:
        every = (self.config.log_every, self.config.validate_every, self.config.checkpoint_every)
        return min([stage.end, *((step // n + 1) * n for n in every if n)])

    def _due(self, step: int, stage: Stage, every: int) -> bool:
        return step == stage.end or bool(every and step % every == 0)

    def _log(self, step: int, stage: Stage, sums: np.ndarray, norms: np.ndarray) -> None:
        *losses, counts = sums
        numbers = {}
        for name, of_domains in zip(self.objectives, losses, strict=True):
            numbers[name] = of_domains.sum() / counts.sum()
            for domain, loss, count in zip(self.records, of_domains, counts, strict=True):
                if count:
                    numbers[f"{name}/{domain}"] = loss / count
        for group in stage.rates:
            numbers[f"rate/{group}"] = float(rate_at(self.stages, group, 1.0, step - 1))
        self.writer.train(step, {**numbers, "gradient/norm": float(norms.mean())})

    def _validate(self, step: int) -> None:
        if self.average:
            with self.average.applied():
                scores = self.validate(self.embedder, self.strategy)
        else:
            scores = self.validate(self.embedder, self.strategy)
        self.writer.write(step, {f"val/{name}": value for name, value in scores.items()})
        self.writer.say(f"step {step}: validation {SCORE} {scores[SCORE]:.4f}")
        if scores[SCORE] > float(self.best.numpy()):
            self.best.assign(scores[SCORE])
            self.checkpoints.save_best(step)
        self.writer.rest()

    def _check_finite(self, step: int, sums: np.ndarray, norms: np.ndarray) -> None:
        """Raises before anything is saved, so the last good checkpoint stays the newest."""
        bad = ~np.isfinite(sums).all(axis=(1, 2))
        if not self.loss_scale:  # which skips steps whose gradients overflow
            bad |= ~np.isfinite(norms)
        if not bad.any():
            return
        first = int(bad.argmax())
        found = ~np.isfinite(sums[first]).all(axis=0)
        domains = [domain for domain, here in zip(self.records, found, strict=True) if here]
        if not domains:
            domains = [d for d, count in zip(self.records, sums[first, -1], strict=True) if count]
        what = "loss" if found.any() else "gradients"
        raise UserError(
            f"the {what} at step {step + first} of {self.workdir} is not finite, on pictures of "
            f"{', '.join(domains)}; the newest checkpoint is from before. Lower the learning "
            "rates, set config.optimizer.clip_norm, or look at those pictures"
        )

    def _check_batch(self, count: int) -> None:
        replicas, size = self.strategy.num_replicas_in_sync, self.config.data.batch_size
        if size % replicas or size % count:
            raise UserError(
                f"config.data.batch_size is {size}, which {replicas} replicas on {count} hosts "
                "cannot share equally; give a multiple"
            )


def make_draws(config: ConfigDict, records: Mapping[str, Records]) -> Draws:
    """The draws that `config.data` describes."""
    data = config.data
    sampler = data.sampler
    if sampler == "weights":
        sampler = dict(zip(records, data.weights, strict=False))
    return Draws(
        records,
        data.batch_size,
        seed=config.seed,
        sampler=sampler,
        temperature=data.temperature,
        mixed=data.batch == "mixed",
        pictures_per_class=max(data.pictures_per_class, 1),
    )


def _pace(steps: int, seconds: float, before: int, most: int) -> int:
    """Steps of the next call: more while calls are short, fewer where they are too long."""
    if seconds > SECONDS_PER_CALL:
        return max(1, int(steps * SECONDS_PER_CALL / seconds))
    return min(most, 2 * before) if seconds < SECONDS_PER_CALL / 2 else before


