"""The loop of a run: steps, numbers, validation, checkpoints, and stopping well."""

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.input.batching import naming_pictures
from universal_embedding.models.embedder import Embedder
from universal_embedding.training.checkpoints import Checkpoints
from universal_embedding.training.loop import Loop
from universal_embedding.training.metrics import MetricWriter
from universal_embedding.training.model import save_architecture
from universal_embedding.training.preemption import Preemption, Stopped
from universal_embedding.training.run import Run
from universal_embedding.training.stages import Stage, rate_at
from universal_embedding.training.start import find_start
from universal_embedding.training.strategy import highest, hosts

Validate = Callable[[Embedder, tf.distribute.Strategy], Mapping[str, float]]
Examples = Callable[[], Mapping[str, np.ndarray]]
SCORE = "merged/mean/r_at_1"  # of a validation; the best checkpoint has the highest
SHOWN = 16  # pictures of the input
SECONDS_PER_CALL = 5.0  # a signal is answered between calls, and must be within 30 seconds


class Trainer:
    """Trains a run to its end, from where its work directory says it is.

    Args:
        run: What to train.
        validate: Scores of the embedder on the validation split, `SCORE` among them.
        init_from: A work directory whose best embedder a new run starts from.
        examples: `[H, W, 3]` pictures by name, of what the latest validation found.
    """

    def __init__(
        self,
        run: Run,
        validate: Validate | None = None,
        init_from: Path | None = None,
        examples: Examples | None = None,
    ) -> None:
        self.of, self.config = run, run.config
        self.validate, self.examples = validate, examples
        count, number = hosts(run.strategy)
        self.chief, self.alone = number == 0, count == 1
        self.checkpoints = Checkpoints(
            run.workdir, run.state(), self.config.keep, self.chief, background=self.alone
        )
        if self.chief:
            save_architecture(run.workdir, run.embedder)
        self.started_from = find_start(self.checkpoints, run.weights, init_from)

    def run(self) -> bool:
        """Trains to the end of the last stage.

        Returns:
            False if SIGTERM ended it early; the state is saved, and the same call goes on from it.

        Raises:
            UserError: the loss or the gradients are no longer finite.
            KeyboardInterrupt: after Ctrl-C; the state is saved.
        """
        run = self.of
        start, total = int(run.step.numpy()), run.stages[-1].end
        folder = run.workdir if self.chief else None
        self.writer = MetricWriter(folder, start, total, self.config.data.batch_size)
        self.writer.say(f"starting at step {start} of {total} from {self.started_from}")
        try:
            with Preemption() as stop:
                self._train(start, stop)
        finally:
            self.checkpoints.wait()
            self.writer.close()
        if stop.by is not None and stop.by.name == "SIGINT":
            raise KeyboardInterrupt
        return stop.by is None

    def _train(self, start: int, stop: Preemption) -> None:
        try:
            if start and self._validation_due(start) and self.of.validated < start:
                self._validate(start, stop)  # which a signal cut short
            for stage in self.of.stages:
                if start < stage.end and not self._run_stage(stage, max(start, stage.start), stop):
                    return
        except Stopped:
            self._stop(int(self.of.step.numpy()), stop)

    def _stop(self, step: int, stop: Preemption) -> None:
        self.checkpoints.save(step)
        self.writer.say(f"{stop.by.name} at step {step}: saved; the same command goes on")

    def _run_stage(self, stage: Stage, step: int, stop: Preemption) -> bool:
        """Trains a stage to its end; False if a signal stopped it."""
        shares = self.of.shares(stage)
        shown = ", ".join(f"{domain} {share:.3g}" for domain, share in shares.items())
        self.writer.say(f"{stage.name}: shares of the domains: {shown}")
        self.writer.say(f"{stage.name}: steps {stage.start} to {stage.end}, {stage.input}")
        with stop.at_once(self.alone):  # it may compute features of all pictures
            batches = self.of.batches(stage, step, show=self.chief)
        if step == stage.start and self.of.average:
            self.of.average.restart()
        if step == stage.start and stage.input == "pictures":
            self._show_input(stage, step)
        loop = Loop(self.of.step_of(stage), self.of.strategy)
        sums, norms, per_call = [], [], 1
        self.writer.rest()
        while step < stage.end:
            steps = min(per_call, self._next_stop(step, stage) - step)
            clock = time.monotonic()
            with naming_pictures():
                results = [value.numpy() for value in loop(batches, steps)]
            waited = [time.monotonic() - clock, float(stop.by or 0)]
            seconds, number = highest(waited, self.of.strategy)
            per_call = self._pace(steps, seconds, per_call)
            self._check_finite(step, *results)
            step += steps
            if self.of.sampler:
                self.of.sampler.observe(results[0])
                if self.of.sampler.due(step):
                    self.writer.write(step, self.of.reweight(stage, step))
                    batches = self.of.batches(stage, step, show=False)
            sums.append(results[0].sum(axis=0))
            norms.append(results[1])
            self.writer.advance(step)
            if self._due(step, stage, self.config.log_every):
                self._log(step, stage, np.sum(sums, axis=0), np.concatenate(norms))
                sums, norms = [], []
            if number:  # of a signal to some host
                stop.by = signal.Signals(int(number))
                self._stop(step, stop)
                return False
            if self._validation_due(step):
                self._validate(step, stop)
            if self._due(step, stage, self.config.checkpoint_every):
                self.checkpoints.save(step)
        return True

    def _next_stop(self, step: int, stage: Stage) -> int:
        config = self.config
        every = (config.log_every, config.validate_every, config.checkpoint_every)
        every += (config.data.reweight_every,)
        return min([stage.end, *((step // n + 1) * n for n in every if n)])

    def _due(self, step: int, stage: Stage, every: int) -> bool:
        return step == stage.end or bool(every and step % every == 0)

    def _validation_due(self, step: int) -> bool:
        every = self.config.validate_every
        ends = [stage.end for stage in self.of.stages]
        return self.validate is not None and (step in ends or bool(every and step % every == 0))

    def _show_input(self, stage: Stage, step: int) -> None:
        """The first pictures of the stage, from an iterator of their own: none is used up."""
        batch = next(self.of.batches(stage, step, show=False))
        images = self.of.strategy.experimental_local_results(batch["image"])[0]
        self.writer.pictures(step, f"input/{stage.name}", images[:SHOWN].numpy())

    def _pace(self, steps: int, seconds: float, before: int) -> int:
        """Steps of the next call: more while calls are short, fewer where they are too long."""
        if seconds > SECONDS_PER_CALL:
            return max(1, int(steps * SECONDS_PER_CALL / seconds))
        if seconds < SECONDS_PER_CALL / 2:
            return min(self.config.steps_per_call, 2 * before)
        return before

    def _log(self, step: int, stage: Stage, sums: np.ndarray, norms: np.ndarray) -> None:
        *losses, counts = sums
        numbers = {}
        for name, of_domains in zip(self.of.losses, losses, strict=True):
            numbers[name] = of_domains.sum() / counts.sum()
            for domain, loss, count in zip(self.of.records, of_domains, counts, strict=True):
                if count:
                    numbers[f"{name}/{domain}"] = loss / count
        for group in stage.rates:
            numbers[f"rate/{group}"] = float(rate_at(self.of.stages, group, 0, step - 1))
        self.writer.train(step, {**numbers, "gradient/norm": float(norms.mean())})

    def _validate(self, step: int, stop: Preemption) -> None:
        with self.of.averaged(), stop.at_once(self.alone):
            scores = self.validate(self.of.embedder, self.of.strategy)
        self.writer.write(step, {f"val/{name}": value for name, value in scores.items()})
        self.writer.say(f"step {step}: validation {SCORE} {scores[SCORE]:.4f}")
        if self.examples and self.chief:
            for name, picture in self.examples().items():
                self.writer.pictures(step, f"val/{name}", picture[None])
        self.of.validated.assign(step)
        if scores[SCORE] > float(self.of.best.numpy()):
            self.of.best.assign(scores[SCORE])
            self.checkpoints.save_best(step)
        self.writer.rest()

    def _check_finite(self, step: int, sums: np.ndarray, norms: np.ndarray) -> None:
        """Raises before anything is saved, so the last good checkpoint stays the newest."""
        bad = ~np.isfinite(sums).all(axis=(1, 2))
        if not self.of.loss_scale:  # which skips steps whose gradients overflow
            bad |= ~np.isfinite(norms)
        if not bad.any():
            return
        first = int(bad.argmax())
        found = ~np.isfinite(sums[first]).all(axis=0)
        here = found if found.any() else sums[first, -1] > 0
        domains = [domain for domain, is_here in zip(self.of.records, here, strict=True) if is_here]
        what = "loss" if found.any() else "gradient"
        raise UserError(
            f"the {what} at step {step + first} of {self.of.workdir} is not finite, on pictures "
            f"of {', '.join(domains)}; the newest checkpoint is from before. Lower the learning "
            "rates, set config.optimizer.clip_norm, or look at those pictures"
        )
