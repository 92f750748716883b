"""`universal-embedding info`: what a bug report needs, and no more."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tests.helpers.layouts import write_uned_layout
from tests.helpers.processes import run_cli


def test_info_names_versions_devices_and_prepared_sets(tmp_path):
    images = {"train": [("a/0.jpg", 0), ("a/1.jpg", 1)], "val": [("a/2.jpg", 2), ("a/3.jpg", 2)]}
    write_uned_layout(tmp_path / "tiny", "toys", {**images, "test": [("a/4.jpg", 3)]})
    data_dir = f"--data_dir={tmp_path / 'data'}"
    assert run_cli("prepare", f"--manual_dir={tmp_path / 'tiny'}", data_dir)[0] == 0
    (tmp_path / "data" / "other").mkdir()
    code, out, err = run_cli("info", data_dir)
    assert code == 0, err
    lines = out.splitlines()
    for name, version in (("keras", keras), ("tensorflow", tf), ("numpy", np)):
        assert f"{name}: {version.__version__}" in lines
    assert "prepared: tiny: toys" in lines and "other" not in out
    assert any(line.startswith("device: /physical_device:CPU:0") for line in lines)


def test_info_hides_the_home_directory_and_finds_nothing():
    code, out, err = run_cli("info", f"--data_dir={Path.home() / 'no such folder'}")
    assert code == 0, err
    assert "data_dir: ~/no such folder" in out and "prepared: nothing" in out
    assert str(Path.home()) not in out
