"""`universal-embedding evaluate` on several devices and hosts gives the report of one device."""

import json

import pytest

from tests.helpers.cluster import free_addresses, kill_all, start_host
from tests.helpers.processes import finish, run_cli
from tests.helpers.tiny_run import prepare_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_flags(tmp_path_factory):
    """The flags of `evaluate` for a trained run, except --strategy and --output."""
    folder = tmp_path_factory.mktemp("run")
    flags = prepare_run(folder, "small")
    flags += [f"--config.stages[{i}].steps=4" for i in range(2)]
    flags += ["--config.model.image_size=32", f"--workdir={folder / 'run'}"]
    code, _, err = run_cli("train", *flags)
    assert code == 0, err[-3000:]
    options = ["--bootstrap_samples=20", "--batch_size=3"]
    options += ["--transform=none,whiten", "--embedding_dim=3"]
    return [f"--model={folder / 'run'}", *options]


def read_scores(folder):
    report = json.loads((folder / "report.json").read_text())
    (whitened,) = report["comparisons"].values()
    assert whitened["transform"]["fitted_on"]["num_images"] == {"birds": 24, "toys": 24}
    return [{name: r[name] for name in ("merged", "separate")} for r in (report, whitened)]


def test_two_devices_and_two_hosts_give_the_scores_of_one(run_flags, tmp_path):
    for name in ("one_device", "mirrored"):
        output = f"--output={tmp_path / name}"
        code, _, err = run_cli("evaluate", *run_flags, f"--strategy={name}", output)
        assert code == 0, err[-3000:]
    addresses = free_addresses(2)
    command = ("-m", "universal_embedding", "evaluate", *run_flags, "--strategy=multi_worker")
    hosts = [
        start_host(addresses, index, *command, f"--output={tmp_path / f'host{index}'}")
        for index in range(2)
    ]
    try:
        results = [finish(host) for host in hosts]
    finally:
        kill_all(hosts)
    assert [code for code, _, _ in results] == [0, 0], results[0][2][-3000:]
    expected = read_scores(tmp_path / "one_device")
    assert read_scores(tmp_path / "mirrored") == expected
    assert read_scores(tmp_path / "host0") == expected
    assert not (tmp_path / "host1").exists() and "report" not in results[1][1]
