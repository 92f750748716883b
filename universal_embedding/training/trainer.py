"""Training loop with hooks, restoring and graceful shutdown."""

import contextlib
import logging
import signal
import time
from collections.abc import Iterator, Sequence

import numpy as np

from universal_embedding.datasets.lock import hold_lock
from universal_embedding.errors import UserError
from universal_embedding.files import as_path, is_remote
from universal_embedding.input.corrupt_images import report_corrupt_image
from universal_embedding.models.distribution import (
    Pace,
    all_reduce_max,
    assert_same_on_hosts,
    num_hosts_and_id,
    run_on_hosts,
)
from universal_embedding.training.checkpoints import Checkpoints, hash_state
from universal_embedding.training.data import stage_batches, stage_examples
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.feature_statistics import fit_standardization
from universal_embedding.training.hardware import describe_hardware
from universal_embedding.training.hooks import Hook, StepResults, TrainerContext
from universal_embedding.training.host_log import RUN_LOGGER, HostLog
from universal_embedding.training.initialization import restore_or_initialize, save_class_ids
from universal_embedding.training.metric_writer import MetricWriter
from universal_embedding.training.model import save_architecture
from universal_embedding.training.schedule import Stage
from universal_embedding.training.shutdown import GracefulShutdown, Interrupted
from universal_embedding.training.train_step import MultiStepLoop, TrainStep

LOCK_FILE = ".lock"
STEPS_AHEAD = 8  # at most so many batches wait in the input and on the devices


def train(experiment: Experiment, hooks: Sequence[Hook]) -> bool:
    """Trains to the end of the last stage, from where the run directory is; safe to call again.

    Args:
        experiment: What to train; it is restored first, see `restore_or_initialize`.
        hooks: Called between the steps, in this order; see `hooks.default_hooks`.

    Returns:
        False if SIGTERM ended it early; the state is saved, and the same call resumes from it.

    Raises:
        UserError: a loss or the gradients are no longer finite, or an image cannot be decoded.
        KeyboardInterrupt: after Ctrl-C; the state is saved.
    """
    host_id = num_hosts_and_id(experiment.strategy)[1]
    with _hold_run(experiment), HostLog(experiment.workdir, host_id):
        return _train_locked(experiment, hooks)


@contextlib.contextmanager
def _hold_run(experiment: Experiment) -> Iterator[None]:
    """Locks the run directory, which all hosts of the run must see."""
    workdir, strategy = experiment.workdir, experiment.strategy
    is_chief = num_hosts_and_id(strategy)[1] == 0
    path = as_path(workdir / LOCK_FILE)
    with contextlib.ExitStack() as stack:

        def lock() -> str:
            if is_chief:
                if not is_remote(workdir):
                    workdir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(hold_lock(path, workdir))
            holder = path.read_text() if path.exists() else "no lock"
            return ",".join(holder.split(",")[:2])  # on a bucket, a count follows

        holder = run_on_hosts(lock, strategy, chief_first=True)
        assert_same_on_hosts(
            holder, strategy, f"--workdir={workdir} must be one directory that all hosts share"
        )
        yield


def _train_locked(experiment: Experiment, hooks: Sequence[Hook]) -> bool:
    context = _restore(experiment)
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


def _restore(experiment: Experiment) -> TrainerContext:
    """Restores the state that the run starts from, and opens its checkpoints and metrics."""
    config, workdir = experiment.config, experiment.workdir
    num_hosts, host_id = num_hosts_and_id(experiment.strategy)
    is_chief, is_single_host = host_id == 0, num_hosts == 1
    state = experiment.checkpoint_state()

    def open_run() -> tuple[Checkpoints, str]:
        checkpoints = Checkpoints(
            workdir, state, config.max_to_keep, is_chief, background=is_single_host
        )
        if is_chief:
            save_architecture(workdir, experiment.model)
            save_class_ids(workdir, experiment.records)
        return checkpoints, restore_or_initialize(experiment, checkpoints)

    checkpoints, started_from = run_on_hosts(open_run, experiment.strategy, chief_first=True)
    fit_standardization(experiment, is_chief)
    if not is_single_host:
        assert_same_on_hosts(
            f"step {int(experiment.step.numpy())}, state {hash_state(state)[:16]}",
            experiment.strategy,
            f"all hosts must see the same checkpoints in {workdir} and the same weights to start "
            "from",
        )
    step, num_steps = int(experiment.step.numpy()), experiment.stages[-1].end
    writer = MetricWriter(workdir if is_chief else None, step, num_steps, config.data.batch_size)
    logging.getLogger(RUN_LOGGER).info("hardware: %s", describe_hardware(experiment.strategy))
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
    )


def _start_stage(context: TrainerContext, stage: Stage) -> None:
    experiment, log = context.experiment, context.writer.log
    context.stage = stage
    context.writer.batch_size = stage.batch_size
    weights = experiment.domain_weights(stage)
    log(f"{stage.name}: domain weights: {', '.join(f'{d} {w:.3g}' for d, w in weights.items())}")
    log(f"{stage.name}: steps {stage.start} to {stage.end} on {stage.input}")
    with context.shutdown.interruptible(experiment.strategy):  # it may compute features
        context.batches = stage_batches(experiment, stage, context.step, context.is_chief)
    if context.step == stage.start and experiment.ema is not None:
        experiment.ema.reset()


def _take_steps(
    context: TrainerContext, loop: MultiStepLoop, pace: Pace, next_step: int
) -> StepResults:
    """Takes at most `pace.steps` steps, none after `next_step`, and agrees on signals."""
    steps = min(pace.steps, next_step - context.step)
    start_time, wall_time = time.monotonic(), time.time()
    ahead = range(context.step, context.step + steps + STEPS_AHEAD)
    with report_corrupt_image(lambda: stage_examples(context.experiment, context.stage, ahead)):
        sums, norms, hashes, times = (part.numpy() for part in loop(context.batches, steps))
    results = StepResults(sums, norms, hashes, _complete_times(times, wall_time))
    now = time.monotonic()
    host_values = [now - start_time, now - context.start_time, context.shutdown.signal or 0]
    seconds, context.elapsed_seconds, number = all_reduce_max(
        host_values, context.experiment.strategy
    )
    pace.update(steps, seconds)
    _check_finite(context.experiment, context.step, results)
    context.step += steps
    if number:  # some host has received a signal
        context.stop_signal = context.shutdown.signal = signal.Signals(int(number))
    return results


def _complete_times(times: np.ndarray, start: float) -> np.ndarray:
    """`StepResults.times`; steps of a call that have no times share the call's evenly."""
    times = np.concatenate([np.full((1, 2), start), times])
    if np.isnan(times[:, 1]).any():
        times[:, 1] = np.linspace(start, time.time(), len(times))
    return times


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
