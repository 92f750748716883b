"""`universal-embedding train` over prepared images, killed and preempted for real."""

import random
import re
import signal
import time

import pytest

from tests.helpers.processes import finish, run_cli, start
from tests.helpers.tiny_run import (
    STEPS,
    assert_same_state,
    newest_step,
    prepare_run,
    read_rows,
    wait_for,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flags(tmp_path_factory, tiny_backbone):
    """The flags of `universal-embedding train`, except --workdir."""
    return prepare_run(tmp_path_factory.mktemp("data"), tiny_backbone)


def start_training(flags, workdir):
    return start("-m", "universal_embedding", "train", *flags, f"--workdir={workdir}")


def train_to_the_end(flags, workdir):
    code, _, err = run_cli("train", *flags, f"--workdir={workdir}")
    assert code == 0, err[-3000:]


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """The end of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train_to_the_end(flags, workdir)
    return workdir


def test_run_killed_at_random_moments_ends_bit_identical(flags, whole, tmp_path):
    workdir, generator = tmp_path / "killed", random.Random(0)

    def has_passed(step):
        rows = read_rows(workdir)
        return newest_step(workdir) > step or (rows and rows[-1][0] > step)

    for step in (0, 16, 36):
        process = start_training(flags, workdir)
        # A checkpoint may be half written, or a metric row, or nothing yet of the next steps.
        wait_for(lambda step=step: has_passed(step), process)
        time.sleep(generator.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    train_to_the_end(flags, workdir)
    assert_same_state(workdir, whole)
    assert read_rows(workdir) == read_rows(whole)


def test_preempted_run_exits_cleanly_and_resumes(flags, whole, tmp_path):
    workdir = tmp_path / "preempted"
    process = start_training(flags, workdir)
    wait_for(lambda: newest_step(workdir) >= 16, process)
    process.send_signal(signal.SIGTERM)
    start_time = time.monotonic()
    code, out, err = finish(process, 60)
    assert code == 0, err[-3000:]
    assert time.monotonic() - start_time < 30
    message = re.search(r"SIGTERM at step (\d+): checkpoint saved; rerun the command", out)
    assert message and int(message[1]) == newest_step(workdir) < 12 + STEPS, out
    train_to_the_end(flags, workdir)
    assert_same_state(workdir, whole)
