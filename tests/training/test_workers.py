"""Two worker processes on loopback against one device."""

import json
import socket

import numpy as np
import pytest
from support.processes import finish, run, start

WORKER = "tests/training/worker.py"
pytestmark = pytest.mark.slow


def two_workers(backbone, folder, *options):
    """Runs both to their end; `options` are for the second."""
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    workers = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        arguments = ["multi_worker", backbone, folder / str(index), folder / f"{index}.npz"]
        arguments += options if index == 1 else ()
        workers.append(start(WORKER, *arguments, TF_CONFIG=json.dumps(task)))
    try:
        results = [finish(worker) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for code, _, err in results:
        assert code == 0, err[-3000:]
    return [out.splitlines()[-1] for _, out, _ in results]


def weights(path):
    return list(np.load(path).values())


def test_two_workers_equal_one_device_and_only_the_chief_writes(tiny_backbone, tmp_path):
    one = tmp_path / "one.npz"
    code, _, err = run(WORKER, "one_device", tiny_backbone, tmp_path / "one", one)
    assert code == 0, err[-3000:]
    assert two_workers(tiny_backbone, tmp_path) == ["done at step 20"] * 2
    for a, b, c in zip(
        weights(one), weights(tmp_path / "0.npz"), weights(tmp_path / "1.npz"), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(b, c)
    chiefs = {path.name for path in (tmp_path / "0").iterdir()}
    assert {"checkpoints", "metrics.jsonl", "events", "backbone.json"} <= chiefs
    # Features are each host's own input, like the pictures.
    assert {path.name for path in (tmp_path / "1").iterdir()} == {"features"}


def test_a_signal_to_one_worker_stops_both_at_one_step(tiny_backbone, tmp_path):
    ends = two_workers(tiny_backbone, tmp_path, "signal")
    assert ends[0] == ends[1] and ends[0].startswith("stopped at step")
    assert ends[0] != "stopped at step 20"
