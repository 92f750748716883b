"""Two worker processes on loopback against one device."""

import json
import socket

import numpy as np
import pytest

from tests.helpers.processes import finish, run, start

WORKER = ("-m", "tests.helpers.worker")
pytestmark = pytest.mark.slow


def run_two_workers(backbone, folder, *options):
    """Runs both to their end; `options` are for the second."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    workers = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        arguments = ["multi_worker", backbone, folder / str(index), folder / f"{index}.npz"]
        arguments += options if index == 1 else ()
        workers.append(start(*WORKER, *arguments, TF_CONFIG=json.dumps(task)))
    try:
        results = [finish(worker) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for code, _, err in results:
        assert code == 0, err[-3000:]
    return [out.splitlines()[-1] for _, out, _ in results]


def read_weights(path):
    return list(np.load(path).values())


def test_two_workers_equal_one_device_and_only_the_chief_writes(tiny_backbone, tmp_path):
    single = tmp_path / "single.npz"
    code, _, err = run(*WORKER, "one_device", tiny_backbone, tmp_path / "single", single)
    assert code == 0, err[-3000:]
    assert run_two_workers(tiny_backbone, tmp_path) == ["done at step 20"] * 2
    for a, b, c in zip(
        read_weights(single),
        read_weights(tmp_path / "0.npz"),
        read_weights(tmp_path / "1.npz"),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(b, c)
    chief_files = {path.name for path in (tmp_path / "0").iterdir()}
    assert {"checkpoints", "metrics.jsonl", "events", "backbone.json"} <= chief_files
    # Features are each host's own input, like the images.
    assert {path.name for path in (tmp_path / "1").iterdir()} == {"features"}


def test_signal_to_one_worker_stops_both_at_one_step(tiny_backbone, tmp_path):
    ends = run_two_workers(tiny_backbone, tmp_path, "signal")
    assert ends[0] == ends[1] and ends[0].startswith("stopped at step")
    assert ends[0] != "stopped at step 20"
