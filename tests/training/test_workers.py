"""Two worker processes on loopback against one device."""

import numpy as np
import pytest

from tests.helpers.cluster import free_addresses, kill_all, start_host
from tests.helpers.processes import finish, run

WORKER = ("-m", "tests.helpers.worker")
pytestmark = pytest.mark.slow


def run_two_workers(backbone, folder, *options, both=(), workdirs=("shared", "shared")):
    """Runs both to their end; `options` are for the second. Exit code, stdout, stderr of each."""
    addresses, workers = free_addresses(2), []
    for index in range(2):
        arguments = ["multi_worker", backbone, folder / workdirs[index], folder / f"{index}.npz"]
        arguments += [*both, *(options if index == 1 else ())]
        workers.append(start_host(addresses, index, *WORKER, *arguments))
    try:
        return [finish(worker) for worker in workers]
    finally:
        kill_all(workers)


def last_lines(results):
    for code, _, err in results:
        assert code == 0, err[-3000:]
    return [out.splitlines()[-1] for _, out, _ in results]


def read_weights(path):
    return list(np.load(path).values())


def test_two_workers_equal_one_device_and_only_the_chief_writes(tiny_backbone, tmp_path):
    single = tmp_path / "single.npz"
    code, _, err = run(*WORKER, "one_device", tiny_backbone, tmp_path / "single", single)
    assert code == 0, err[-3000:]
    assert last_lines(run_two_workers(tiny_backbone, tmp_path)) == ["done at step 20"] * 2
    for a, b, c in zip(
        read_weights(single),
        read_weights(tmp_path / "0.npz"),
        read_weights(tmp_path / "1.npz"),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(b, c)
    shared = tmp_path / "shared"
    assert {"checkpoints", "metrics.jsonl", "events", "backbone.json"} <= names_in(shared)
    for folder in ("single", "shared"):
        files = {f"{d}.{kind}" for d in ("apples", "boats", "coins") for kind in ("npy", "key")}
        assert names_in(tmp_path / folder / "features") == files
    for domain in ("apples", "boats", "coins"):
        rows = [np.load(tmp_path / f / "features" / f"{domain}.npy") for f in ("single", "shared")]
        np.testing.assert_array_equal(*rows)
    logs = [(shared / "logs" / f"host-{index}.log").read_text() for index in range(2)]
    for text in logs:
        assert "starting at step 0 of 20" in text and "step 20: " in text


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_signal_to_one_worker_stops_both_at_one_step(tiny_backbone, tmp_path):
    ends = last_lines(run_two_workers(tiny_backbone, tmp_path, "signal"))
    assert ends[0] == ends[1] and ends[0].startswith("stopped at step")
    assert ends[0] != "stopped at step 20"
    ends = last_lines(run_two_workers(tiny_backbone, tmp_path))
    assert ends == ["done at step 20"] * 2
    last = [read_weights(tmp_path / f"{index}.npz") for index in range(2)]
    for a, b in zip(*last, strict=True):
        np.testing.assert_array_equal(a, b)


def test_signal_to_one_worker_in_an_evaluation_ends_it_on_both(tiny_backbone, tmp_path):
    options = ("signal_in_evaluation",)
    results = run_two_workers(tiny_backbone, tmp_path, *options, both=("evaluate",))
    assert last_lines(results) == ["stopped at step 5"] * 2  # the end of the first stage
    rows = [out.splitlines()[-2] for _, out, _ in results]
    assert rows == ["evaluations embedded [2] rows"] * 2  # the first block, of one batch
    results = run_two_workers(tiny_backbone, tmp_path, both=("evaluate",))
    assert last_lines(results) == ["done at step 20"] * 2
    rows = [out.splitlines()[-2] for _, out, _ in results]
    assert rows == ["evaluations embedded [50, 50] rows"] * 2


@pytest.mark.parametrize("options", [("sharded",), ("pairs",)])
def test_examples_meet_across_two_workers_as_on_one_device(tiny_backbone, tmp_path, options):
    """Parts of sharded classes go through a checkpoint too: the run is stopped on the way."""
    single = tmp_path / "single.npz"
    code, _, err = run(*WORKER, "one_device", tiny_backbone, tmp_path / "single", single, *options)
    assert code == 0, err[-3000:]
    ends = last_lines(run_two_workers(tiny_backbone, tmp_path, "signal", both=options))
    assert ends[0] == ends[1] and ends[0].startswith("stopped at step")
    ends = last_lines(run_two_workers(tiny_backbone, tmp_path, both=options))
    assert ends == ["done at step 20"] * 2
    weights = [read_weights(path) for path in (single, tmp_path / "0.npz", tmp_path / "1.npz")]
    for a, b, c in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(b, c)


def test_run_directory_that_hosts_do_not_share_is_refused(tiny_backbone, tmp_path):
    results = run_two_workers(tiny_backbone, tmp_path, workdirs=("mine", "yours"))
    for code, _, err in results:
        last = err.splitlines()[-1]
        assert code == 1 and "the hosts of the run differ (host 0: host " in last, err[-2000:]
        assert "host 1: no lock" in last and "must be one directory that all hosts share" in last


def test_hosts_that_start_from_different_weights_are_refused(tiny_backbone, tmp_path):
    results = run_two_workers(tiny_backbone, tmp_path, "poison")
    for code, _, err in results:
        last = err.splitlines()[-1]
        assert code == 1 and "host 1: step 0, state " in last, err[-2000:]
        assert "all hosts must see the same checkpoints" in last
