import os
import sys

import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.training import recovery
from universal_embedding.training.recovery import restart_when_lost

LOST = tf.errors.UnavailableError(
    None, None, "Graph execution error:\n\nCollective ops is aborted by: Connection reset by peer"
)


@pytest.fixture
def restarts(monkeypatch):
    """The commands that would have replaced this process; the environment is restored."""
    commands = []
    monkeypatch.setenv("UNIVERSAL_EMBEDDING_RESTARTS", "0@-1")
    monkeypatch.setattr(os, "execv", lambda *command: commands.append(command))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "universal_embedding", "train", "--x=1"])
    monkeypatch.setattr(recovery.time, "sleep", lambda _: None)
    return commands


def lose_a_host(step, error=LOST):
    with restart_when_lost(lambda: step):
        raise error


def test_lost_host_restarts_the_same_command(restarts, caplog):
    lose_a_host(7)
    python = sys.executable
    assert restarts == [(python, [python, "-m", "universal_embedding", "train", "--x=1"])]
    assert "Collective ops is aborted by: Connection reset by peer): restart 1 of 3" in caplog.text


def test_fourth_loss_without_progress_is_one_line(restarts):
    for _ in range(3):
        lose_a_host(7)
    with pytest.raises(UserError, match=r"lost 4 times in a row .*reset by peer") as caught:
        lose_a_host(7)
    assert len(restarts) == 3 and "\n" not in str(caught.value)


def test_progress_counts_anew(restarts):
    for step in (7, 7, 7, 8, 8, 8, 20):
        lose_a_host(step)
    assert len(restarts) == 7


@pytest.mark.parametrize(
    "error", [ValueError("x"), UserError("x"), tf.errors.InvalidArgumentError(None, None, "x")]
)
def test_other_errors_pass(restarts, error):
    with pytest.raises(type(error)):
        lose_a_host(7, error)
    assert not restarts
