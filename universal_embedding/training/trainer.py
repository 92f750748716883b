"""Training loop with hooks, restoring and graceful shutdown."""

import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from universal_embedding.datasets.lock import hold_lock
from universal_embedding.errors import UserError
from universal_embedding.files import is_remote
from universal_embedding.input.corrupt_images import report_corrupt_image
from universal_embedding.training.checkpoints import Checkpoints, restore_or_initialize
from universal_embedding.training.data import stage_batches, stage_examples
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.hooks import Hook, StepResults, TrainerContext
from universal_embedding.training.metric_writer import MetricWriter
from universal_embedding.training.model import save_architecture
from universal_embedding.training.schedule import Stage
from universal_embedding.training.shutdown import GracefulShutdown, Interrupted
from universal_embedding.training.strategy import all_reduce_max, num_hosts_and_id
from universal_embedding.training.train_step import MultiStepLoop, TrainStep

LOCK_FILE = ".lock"
STEPS_AHEAD = 8  # at most so many batches wait in the input and on the devices
SECONDS_PER_CALL = 5.0  # signals are handled between calls, and must be within 30 seconds


def train(experiment: Experiment, hooks: Sequence[Hook], init_from: Path | None = None) -> bool:
    """Trains to the end of the last stage, from where the run directory is; safe to call again.

    Args:
        experiment: What to train; it is restored first, see `checkpoints.restore_or_initialize`.
        hooks: Called between the steps, in this order; see `hooks.default_hooks`.
        init_from: A run directory whose best model a new run starts from.

    Returns:
        False if SIGTERM ended it early; the state is saved, and the same call resumes from it.

    Raises:
        UserError: a loss or the gradients are no longer finite, or an image cannot be decoded.
        KeyboardInterrupt: after Ctrl-C; the state is saved.
    """
    with _hold_run(experiment):
        return _train_locked(experiment, hooks, init_from)


def _hold_run(experiment: Experiment) -> contextlib.AbstractContextManager:
    """Locks the run directory, by the process that writes into it."""
    is_chief = num_hosts_and_id(experiment.strategy)[1] == 0
    if not is_chief:
        return contextlib.nullcontext()
    if not is_remote(experiment.workdir):
        experiment.workdir.mkdir(parents=True, exist_ok=True)
    return hold_lock(experiment.workdir / LOCK_FILE, experiment.workdir)


def _train_locked(experiment: Experiment, hooks: Sequence[Hook], init_from: Path | None) -> bool:
    context = _restore(experiment, init_from)
    with context.shutdown:
        try:
            _run_stages(context, hooks)
        except Interrupted:
            context.checkpoints.save(context.step)
            received = context.shutdown.signal
            context.writer.log(
                f"{received.name if received else 'interrupted'} at step {context.step}: "
                "checkpoint saved; rerun the command to resume"
            )
        finally:
            context.checkpoints.wait()
            for hook in hooks:
                hook.close()
            context.writer.close()
    if context.shutdown.signal is signal.SIGINT:
        raise KeyboardInterrupt
    return context.shutdown.signal is None


def _run_stages(context: TrainerContext, hooks: Sequence[Hook]) -> None:
    experiment = context.experiment
    for hook in hooks:
        hook.before_training(context)
    for stage in experiment.remaining_stages():
        _start_stage(context, stage)
        for hook in hooks:
            hook.before_stage(context)
        loop = MultiStepLoop(TrainStep(experiment, stage), experiment.strategy)
        pace = Pace(experiment.config.steps_per_execution)
        while context.step < stage.end:
            next_steps = [hook.next_step(context.step, stage) for hook in hooks]
            results = _take_steps(context, loop, pace, min([stage.end, *next_steps]))
            for hook in hooks:
                hook.after_steps(context, results)
            if context.stop_signal is not None:
                raise Interrupted


def _restore(experiment: Experiment, init_from: Path | None) -> TrainerContext:
    """Restores the state that the run starts from, and opens its checkpoints and metrics."""
    config, workdir = experiment.config, experiment.workdir
    num_hosts, host_id = num_hosts_and_id(experiment.strategy)
    is_chief, is_single_host = host_id == 0, num_hosts == 1
    checkpoints = Checkpoints(
        workdir,
        experiment.checkpoint_state(),
        config.max_to_keep,
        is_chief,
        background=is_single_host,
    )
    if is_chief:
        save_architecture(workdir, experiment.model)
    started_from = restore_or_initialize(checkpoints, experiment.weights, init_from)
    step, num_steps = int(experiment.step.numpy()), experiment.stages[-1].end
    writer = MetricWriter(workdir if is_chief else None, step, num_steps, config.data.batch_size)
    writer.log(f"starting at step {step} of {num_steps} from {started_from}")
    return TrainerContext(
        experiment=experiment,
        stage=[*experiment.remaining_stages(), experiment.stages[-1]][0],
        step=step,
        batches=iter(()),
        checkpoints=checkpoints,
        writer=writer,
        shutdown=GracefulShutdown(),
        started_from=started_from,
        is_chief=is_chief,
        is_single_host=is_single_host,
    )


def _start_stage(context: TrainerContext, stage: Stage) -> None:
    experiment, log = context.experiment, context.writer.log
    context.stage = stage
    weights = experiment.domain_weights(stage)
    log(f"{stage.name}: domain weights: {', '.join(f'{d} {w:.3g}' for d, w in weights.items())}")
    log(f"{stage.name}: steps {stage.start} to {stage.end} on {stage.input}")
    with context.shutdown.interruptible(context.is_single_host):  # it may compute features
        context.batches = stage_batches(experiment, stage, context.step, context.is_chief)
    if context.step == stage.start and experiment.ema is not None:
        experiment.ema.reset()


def _take_steps(
    context: TrainerContext, loop: MultiStepLoop, pace: "Pace", next_step: int
) -> StepResults:
    """Takes at most `pace.steps` steps, none after `next_step`, and agrees on signals."""
    steps = min(pace.steps, next_step - context.step)
    start_time = time.monotonic()
    ahead = range(context.step, context.step + steps + STEPS_AHEAD)
    with report_corrupt_image(lambda: stage_examples(context.experiment, context.stage, ahead)):
        loss_sums, grad_norms = loop(context.batches, steps)
        results = StepResults(loss_sums.numpy(), grad_norms.numpy())
    host_values = [time.monotonic() - start_time, float(context.shutdown.signal or 0)]
    seconds, number = all_reduce_max(host_values, context.experiment.strategy)
    pace.update(steps, seconds)
    _check_finite(context.experiment, context.step, results)
    context.step += steps
    if number:  # some host has received a signal
        context.stop_signal = context.shutdown.signal = signal.Signals(int(number))
    return results


class Pace:
    """Steps per call of the compiled loop: more while calls are short, fewer where they are long.

    Results do not depend on it, only how soon a signal is noticed.

    Attributes:
        steps: For the next call.
    """

    def __init__(self, max_steps: int) -> None:
        self.steps, self._max_steps = 1, max_steps

    def update(self, steps: int, seconds: float) -> None:
        """Adapts `steps` to a call of `steps` steps that took `seconds`."""
        if seconds > SECONDS_PER_CALL:
            self.steps = max(1, int(steps * SECONDS_PER_CALL / seconds))
        elif seconds < SECONDS_PER_CALL / 2:
            self.steps = min(self._max_steps, 2 * self.steps)


def _check_finite(experiment: Experiment, step: int, results: StepResults) -> None:
    """Raises before anything is saved, so that the last good checkpoint stays the newest."""
    is_bad = ~np.isfinite(results.loss_sums).all(axis=(1, 2))
    if experiment.loss_scale is None:  # which skips steps whose gradients overflow
        is_bad |= ~np.isfinite(results.grad_norms)
    if not is_bad.any():
        return
    first = int(is_bad.argmax())
    sums = results.loss_sums[first]
    bad_losses = ~np.isfinite(sums).all(axis=0)
    quantity, is_affected = ("loss", bad_losses) if bad_losses.any() else ("gradient", sums[-1] > 0)
    domains = [d for d, affected in zip(experiment.records, is_affected, strict=True) if affected]
    raise UserError(
        f"the {quantity} at step {step + first} of {experiment.workdir} is not finite, on images "
        f"of {', '.join(domains)}; the newest checkpoint is from before. Lower the learning "
        "rates, set config.optimizer.clip_norm, or check those images"
    )
