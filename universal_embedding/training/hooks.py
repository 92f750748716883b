"""Hooks: what happens between the steps of the training loop.

To log one more number, write a hook and pass it to `train` with the others:

    class WeightNormHook(Hook):
        every_steps = 100

        def after_steps(self, context, results):
            if self.is_due(context.step, context.stage):
                norm = tf.linalg.global_norm(context.experiment.weights).numpy()
                context.writer.write_scalars(context.step, {"weight_norm": norm})

    train(experiment, [*default_hooks(experiment), WeightNormHook()])
"""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.input.corrupt_images import report_corrupt_image
from universal_embedding.models.distribution import all_gather_text
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.training.checkpoints import Checkpoints
from universal_embedding.training.data import stage_batches, stage_examples
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.fingerprint import finish_fingerprint
from universal_embedding.training.metric_writer import MetricWriter
from universal_embedding.training.performance import StepTimer
from universal_embedding.training.schedule import Stage, learning_rate_at
from universal_embedding.training.shutdown import GracefulShutdown

Evaluator = Callable[[EmbeddingModel, tf.distribute.Strategy], Mapping[str, float]]
NUM_PREVIEW_IMAGES = 16


@dataclass
class TrainerContext:
    """The state of the training loop, which the hooks see and may use.

    Attributes:
        experiment: What is trained.
        stage: The current stage; before the first one, the stage that comes next.
        step: The number of steps taken.
        batches: The iterator of the stage's batches; a hook may replace it.
        checkpoints: The checkpoints of the run directory.
        writer: Progress bar and metrics; silent on workers other than the chief.
        shutdown: The signals received by this process.
        started_from: Where the restored state is from.
        start_time: `time.monotonic()` at which this process started the run.
        elapsed_seconds: Time since then, agreed on by all hosts.
        stop_signal: The signal for which the run stops after the hooks, agreed on by all hosts.
        is_chief: Whether this process writes into the run directory.
    """

    experiment: Experiment
    stage: Stage
    step: int
    batches: Iterator
    checkpoints: Checkpoints
    writer: MetricWriter
    shutdown: GracefulShutdown
    started_from: str
    is_chief: bool
    start_time: float = field(default_factory=time.monotonic)
    elapsed_seconds: float = 0.0
    stop_signal: signal.Signals | None = None


@dataclass(frozen=True)
class StepResults:
    """The measurements of the steps since the last call of the hooks.

    Attributes:
        loss_sums: `[steps, losses + 1, domains]` float32: the sums of `experiment.loss_names` over
            the examples of each domain, and the number of examples.
        grad_norms: `[steps]` float32, the global norm of all gradients.
        fingerprints: `[steps]` int64, of the images of each batch; see `finish_fingerprint`.
        times: `[steps + 1, 2]` float64, in seconds: when the batch of each step was ready, and when
            the step was done. The first row is the time before the first step, twice. Without a
            clock (deterministic ops), the former are NaN and the latter evenly spaced.
    """

    loss_sums: np.ndarray
    grad_norms: np.ndarray
    fingerprints: np.ndarray
    times: np.ndarray


class Hook:
    """Base class of hooks; override what is needed.

    Hooks run on every host of a run, in their order in the list. The loop may call them at other
    steps too than those that they need, and the steps are grouped differently when a run resumes:
    what a hook changes must not depend on that grouping.

    Attributes:
        every_steps: The hook is due after every so many steps, and at the end of each stage.
    """

    every_steps: int = 0

    def is_due(self, step: int, stage: Stage) -> bool:
        """Whether the hook is due after `step` steps."""
        return step == stage.end or bool(self.every_steps and step % self.every_steps == 0)

    def next_step(self, step: int, stage: Stage) -> int:
        """The next step after `step` at which the loop must call the hook."""
        if not self.every_steps:
            return stage.end
        return (step // self.every_steps + 1) * self.every_steps

    def before_training(self, context: TrainerContext) -> None:
        """Called once, after the state is restored."""

    def before_stage(self, context: TrainerContext) -> None:
        """Called before the first step of a stage, and when a run resumes inside it."""

    def after_steps(self, context: TrainerContext, results: StepResults) -> None:
        """Called after one or more steps: at the latest at `next_step`, often earlier."""

    def close(self) -> None:
        """Called once at the end, also after an error."""


class InputPreviewHook(Hook):
    """Writes the first images of each stage to TensorBoard."""

    def before_stage(self, context: TrainerContext) -> None:
        """Reads one batch from an iterator of its own, so that training misses none."""
        experiment, stage, step = context.experiment, context.stage, context.step
        if step == stage.start and stage.input == "images":
            with report_corrupt_image(lambda: stage_examples(experiment, stage, [step])):
                batch = next(stage_batches(experiment, stage, step, show_progress=False))
            images = experiment.strategy.experimental_local_results(batch["image"])[0]
            images = images[:NUM_PREVIEW_IMAGES].numpy()
            context.writer.write_images(step, f"input/{stage.name}", images)


class ReweightHook(Hook):
    """Lets the domain weights follow the losses; see `DomainReweighter`."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def after_steps(self, context: TrainerContext, results: StepResults) -> None:
        """Accumulates the losses; when due, changes the weights and restarts the batches."""
        experiment, stage, step = context.experiment, context.stage, context.step
        reweighter = experiment.reweighter
        if reweighter is None:
            return
        reweighter.update(results.loss_sums)
        if reweighter.is_due(step):
            weights = reweighter.reweight(experiment.batch_sampler(stage), step)
            context.writer.write_scalars(step, {f"weight/{d}": w for d, w in weights.items()})
            context.batches = stage_batches(experiment, stage, step, show_progress=False)


class LogHook(Hook):
    """Writes mean losses, learning rates, gradient norm and speed; see `StepTimer`."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def before_stage(self, context: TrainerContext) -> None:
        """Leaves the time before the stage out of the speed."""
        self._timer = StepTimer(context.experiment, context.stage)
        context.writer.pause_timer()

    def after_steps(self, context: TrainerContext, results: StepResults) -> None:
        """Moves the progress bar; when due, writes the means since the last time."""
        experiment, step = context.experiment, context.step
        experiment.log_means.update(results.loss_sums, results.grad_norms)
        self._timer.update(results.times)
        context.writer.update_progress(step)
        if not self.is_due(step, context.stage):
            return
        losses, counts, grad_norm = experiment.log_means.pop()
        metrics = {}
        for name, loss_by_domain in zip(experiment.loss_names, losses, strict=True):
            metrics[name] = loss_by_domain.sum() / counts.sum()
            for domain, loss, count in zip(experiment.records, loss_by_domain, counts, strict=True):
                if count:
                    metrics[f"{name}/{domain}"] = loss / count
        for group in context.stage.learning_rates:
            rate = learning_rate_at(experiment.stages, group, 0, step - 1)
            metrics[f"lr/{group}"] = float(rate)
        metrics["grad_norm"] = grad_norm
        metrics["data_fingerprint"] = finish_fingerprint(results.fingerprints[-1])
        context.writer.write_train_scalars(step, metrics | self._timer.pop())


class EvalHook(Hook):
    """Evaluates the model during training and keeps the best checkpoint.

    Args:
        experiment: The run; `config.evals` says how often, `config.best_metric` what is best.
        evaluators: For each name in `config.evals` a function of `(model, strategy)` that returns
            `<protocol>/<domain>/<metric>` -> score. If it has a method `images()`, that returns
            `[H, W, 3]` images by name to show with the latest evaluation.

    Raises:
        UserError: no evaluation of the config gives `config.best_metric`.
    """

    def __init__(self, experiment: Experiment, evaluators: Mapping[str, Evaluator]) -> None:
        config = experiment.config
        if set(evaluators) != set(config.evals):
            raise ValueError(f"evaluators {[*evaluators]} of config.evals {[*config.evals]}")
        self._evaluators = dict(evaluators)
        self._every_steps = {name: config.evals[name].every_steps for name in evaluators}
        self._stage_ends = {stage.end for stage in experiment.stages}
        self._best_metric = config.best_metric
        _check_best_metric(experiment)

    def next_step(self, step: int, stage: Stage) -> int:
        """The next step at which one of the evaluations is due."""
        steps = ((step // every + 1) * every for every in self._every_steps.values() if every)
        return min([stage.end, *steps])

    def before_training(self, context: TrainerContext) -> None:
        """Makes up for evaluations that a signal interrupted."""
        if int(context.experiment.last_eval_step.numpy()) < context.step:
            self._evaluate(context)

    def after_steps(self, context: TrainerContext, results: StepResults) -> None:
        """Evaluates when due, unless the run is about to stop; it then does so when it resumes."""
        if context.stop_signal is None:
            self._evaluate(context)

    def _evaluate(self, context: TrainerContext) -> None:
        experiment, step, writer = context.experiment, context.step, context.writer
        names = [name for name in self._evaluators if self._is_eval_due(name, step)]
        if not names:
            return
        scores: dict[str, float] = {}
        with experiment.ema_weights(), context.shutdown.interruptible(experiment.strategy):
            for name in names:
                values = self._evaluators[name](experiment.model, experiment.strategy)
                scores |= {f"{name}/{metric}": float(value) for metric, value in values.items()}
        # All hosts have computed them; those of the chief count, so that no digit can differ.
        scores = json.loads(all_gather_text(json.dumps(scores), experiment.strategy)[0])
        writer.write_scalars(step, scores)
        for name in names:
            self._write_images(context, name)
        experiment.last_eval_step.assign(step)
        if self._best_metric.partition("/")[0] in names:
            self._keep_best(context, scores)
        writer.pause_timer()

    def _is_eval_due(self, name: str, step: int) -> bool:
        every = self._every_steps[name]
        return step in self._stage_ends or bool(every and step % every == 0)

    def _write_images(self, context: TrainerContext, name: str) -> None:
        evaluator = self._evaluators[name]
        if context.is_chief and hasattr(evaluator, "images"):
            for image_name, image in evaluator.images().items():
                context.writer.write_images(context.step, f"{name}/{image_name}", image[None])

    def _keep_best(self, context: TrainerContext, scores: Mapping[str, float]) -> None:
        experiment, step = context.experiment, context.step
        if self._best_metric not in scores:
            raise UserError(
                f"config.best_metric is {self._best_metric!r}, which the evaluation does not "
                f"give; it gives {', '.join(scores)}"
            )
        score = scores[self._best_metric]
        context.writer.log(f"step {step}: {self._best_metric} {score:.4f}")
        if score > float(experiment.best_score.numpy()):
            experiment.best_score.assign(score)
            context.checkpoints.save_best(step)


class CheckpointHook(Hook):
    """Saves the complete state.

    Args:
        every_steps: Also at the end of each stage; 0: only there.
        every_minutes: Also when so much time has passed since the last one; 0: only by steps.
    """

    def __init__(self, every_steps: int, every_minutes: float = 0.0) -> None:
        self.every_steps, self._every_seconds = every_steps, 60.0 * every_minutes
        self._saved_at = 0.0

    def after_steps(self, context: TrainerContext, results: StepResults) -> None:
        """Saves when due; before the run stops for a signal, the trainer does."""
        seconds = context.elapsed_seconds - self._saved_at
        is_late = 0 < self._every_seconds <= seconds
        if context.stop_signal is None and (is_late or self.is_due(context.step, context.stage)):
            context.checkpoints.save(context.step)
            self._saved_at = context.elapsed_seconds


def default_hooks(
    experiment: Experiment, evaluators: Mapping[str, Evaluator] | None = None
) -> list[Hook]:
    """Returns the hooks that the config asks for, in the order in which they must run.

    Args:
        experiment: The run.
        evaluators: One for each of `config.evals`, see `EvalHook`; None: no evaluation, and so no
            best checkpoint.
    """
    config = experiment.config
    hooks: list[Hook] = [InputPreviewHook()]
    if experiment.reweighter is not None:
        hooks.append(ReweightHook(config.data.reweight_every_steps))
    hooks.append(LogHook(config.log_every_steps))
    if evaluators:
        hooks.append(EvalHook(experiment, evaluators))
    checkpoints = CheckpointHook(config.checkpoint_every_steps, config.checkpoint_every_minutes)
    return [*hooks, checkpoints]


def _check_best_metric(experiment: Experiment) -> None:
    metric, evals = experiment.config.best_metric, experiment.config.evals
    name, protocol, domain, score = (metric.split("/") + 4 * [""])[:4]
    if (
        name not in evals
        or protocol not in evals[name].protocols
        or domain not in ("mean", *experiment.records)
        or score not in evals[name].metrics
    ):
        choices = [
            f"{key}/{protocols}/mean/{metrics}"
            for key, options in evals.items()
            for protocols in options.protocols
            for metrics in options.metrics
        ]
        raise UserError(
            f"config.best_metric is {metric!r}; config.evals gives {', '.join(choices)}, and the "
            "same for each domain in place of mean"
        )
