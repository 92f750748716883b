"""Installation: one distribution owns TensorFlow's files, whatever the device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OWNERS = {"tensorflow", "tensorflow-cpu", "tensorflow-tpu", "tensorflow-rocm", "tf-nightly"}


@pytest.mark.slow
@pytest.mark.parametrize("extras", ["cpu", "gpu", "tpu", "cpu,embed,serve", "tpu,beam,test"])
def test_an_installation_has_one_owner_of_the_tensorflow_package(extras, tmp_path):
    """Two have 12,059 files in common; those that pip installs last win."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"]
    command += ["--ignore-installed", f"--report={report}", f"{ROOT}[{extras}]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    if "Could not find a version" in done.stderr or "Connection" in done.stderr:
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr
    versions = {
        package["metadata"]["name"].lower(): package["metadata"]["version"]
        for package in json.loads(report.read_text())["install"]
    }
    assert sorted(OWNERS & versions.keys()) == ["tensorflow"]
    assert versions["tensorflow"].startswith("2.20.")
    assert versions.get("libtpu") == ("0.0.21" if "tpu" in extras else None)


@pytest.mark.parametrize("device", ["cpu", "gpu", "tpu"])
def test_make_ends_with_the_tensorflow_of_the_device(device):
    """On a TPU VM everything else first, and then its own TensorFlow in place of the plain one."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", f"DEVICE={device}", ".venv/installed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    commands = [line.partition(" pip ")[2] for line in done.stdout.splitlines() if " pip " in line]
    assert f'".[{device},beam,test]"' in commands[0]
    if device == "tpu":
        assert commands[-2] == "uninstall --quiet --yes tensorflow tensorflow-tpu"
        assert commands[-1] == "install --quiet --no-deps tensorflow-tpu==2.20.0"
    else:
        assert not any("tensorflow-tpu" in command for command in commands)
