"""Two hosts of `universal-embedding train`, one or both killed at random moments."""

import random
import signal
import time

import pytest

from tests.helpers.cluster import free_addresses, kill_all, start_host
from tests.helpers.processes import finish
from tests.helpers.tiny_run import (
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
    flags = prepare_run(tmp_path_factory.mktemp("data"), tiny_backbone)
    return [*flags, "--strategy=multi_worker"]


def start_training(flags, workdir, addresses, index):
    command = ("-m", "universal_embedding", "train", *flags, f"--workdir={workdir}")
    return start_host(addresses, index, *command)


def start_both(flags, workdir):
    addresses = free_addresses(2)
    return addresses, [start_training(flags, workdir, addresses, index) for index in range(2)]


def finish_all(hosts):
    try:
        for code, _, err in map(finish, hosts):
            assert code == 0, err[-3000:]
    finally:
        kill_all(hosts)


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """The end of a run of two hosts that was never stopped."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    finish_all(start_both(flags, workdir)[1])
    return workdir


def wait_for_moment(workdir, step, hosts, generator):
    """Until the run has a checkpoint after `step`, or has begun, and then a little longer."""
    wait_for(lambda: newest_step(workdir) > step or step < 0, hosts[0])
    time.sleep(generator.uniform(0, 10) if step < 0 else generator.uniform(0, 1))


@pytest.mark.parametrize("seed", [0])
def test_hosts_killed_at_random_moments_end_bit_identical(flags, whole, tmp_path, seed):
    workdir, generator = tmp_path / "killed", random.Random(seed)
    for step in (-1, 8, 30):
        _, hosts = start_both(flags, workdir)
        wait_for_moment(workdir, step, hosts, generator)
        generator.shuffle(hosts)
        hosts[0].kill()
        time.sleep(generator.uniform(0, 0.2))
        kill_all(hosts)
    finish_all(start_both(flags, workdir)[1])
    assert_same_state(workdir, whole)
    assert read_rows(workdir) == read_rows(whole)


@pytest.mark.parametrize("lost", [0, 1])
def test_host_that_loses_the_other_restarts_itself(flags, whole, tmp_path, lost):
    workdir, generator = tmp_path / "lost", random.Random(lost)
    addresses, hosts = start_both(flags, workdir)
    wait_for_moment(workdir, 8, hosts, generator)
    hosts[lost].kill()
    hosts[lost].communicate()
    assert hosts[lost].returncode == -signal.SIGKILL
    time.sleep(generator.uniform(0, 3))  # as long as a scheduler takes
    hosts[lost] = start_training(flags, workdir, addresses, lost)
    finish_all(hosts)
    assert_same_state(workdir, whole)
    assert read_rows(workdir) == read_rows(whole)
    log = (workdir / "logs" / f"host-{1 - lost}.log").read_text()
    assert "UnavailableError" in log and log.count("starting at step") == 2, log
