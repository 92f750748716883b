"""Training that is killed between two calls of its loop, through a public hook."""

import pytest

from universal_embedding.training.hooks import Hook, default_hooks
from universal_embedding.training.trainer import train


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is saved after it."""


class KillHook(Hook):
    """Raises `Killed` at a step or later.

    Args:
        step: The first step at which to raise.
        wait_for_checkpoints: Whether all checkpoints are on disk by then, or perhaps not.
    """

    def __init__(self, step, wait_for_checkpoints=False):
        self.step, self.wait_for_checkpoints = step, wait_for_checkpoints

    def before_training(self, context):
        self.after_steps(context, None)

    def after_steps(self, context, results):
        if context.step >= self.step:
            if self.wait_for_checkpoints:
                context.checkpoints.wait()
            raise Killed


class StartHook(Hook):
    """Records the step that training starts from, the checkpoint, and the model's weights."""

    def before_training(self, context):
        self.step, self.started_from = context.step, context.started_from
        self.weights = [weight.numpy() for weight in context.experiment.weights]


def train_until_killed(experiment, step, **kwargs):
    """Trains with the default hooks until `step` or later; see `KillHook`."""
    with pytest.raises(Killed):
        train(experiment, [*default_hooks(experiment), KillHook(step, **kwargs)])
