"""A run that is killed between two calls of its loop."""

import pytest


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is saved after it."""


def train_until_killed(trainer, at, monkeypatch, all_written=False):
    """Trains until the step `at` or later; with what was saved written whole, or perhaps not."""
    advance = trainer._next_stop

    def die(step, stage):
        if step >= at:
            if all_written:
                trainer.checkpoints.wait()
            raise Killed
        return advance(step, stage)

    monkeypatch.setattr(trainer, "_next_stop", die)
    with pytest.raises(Killed):
        trainer.run()
