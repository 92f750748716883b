"""Profiles of some steps, for TensorBoard's profile tab."""

import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.training.hooks import Hook, StepResults, TrainerContext
from universal_embedding.training.schedule import Stage

PROFILE_FOLDER = "profile"


class ProfileHook(Hook):
    """Records a profile of the steps from `first` until before `last` in the run directory.

    Args:
        first: The step that starts it.
        last: The step that ends it.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._is_running = False

    @classmethod
    def from_flag(cls, text: str) -> "ProfileHook":
        """Reads `--profile=FROM:TO`.

        Raises:
            UserError: it is not two steps in ascending order.
        """
        first, _, last = text.partition(":")
        if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
            raise UserError(f"--profile={text} must be two steps, such as --profile=100:110")
        return cls(int(first), int(last))

    def next_step(self, step: int, stage: Stage) -> int:
        """The next step at which the profile starts or ends."""
        return min([end for end in (self._first, self._last) if end > step] + [stage.end])

    def before_stage(self, context: TrainerContext) -> None:
        """Starts or ends the profile when due, also before the first step."""
        self._update(context)

    def after_steps(self, context: TrainerContext, results: StepResults) -> None:
        """Starts or ends the profile when due."""
        self._update(context)

    def close(self) -> None:
        """Ends the profile, if the run ends within it."""
        if self._is_running:
            tf.profiler.experimental.stop()
            self._is_running = False

    def _update(self, context: TrainerContext) -> None:
        is_within = self._first <= context.step < self._last
        if is_within and not self._is_running:
            folder = context.experiment.workdir / PROFILE_FOLDER
            tf.profiler.experimental.start(str(folder))
            self._is_running = True
        elif not is_within:
            self.close()
