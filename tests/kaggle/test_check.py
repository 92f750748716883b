"""Two families of backbones in the scorer's own TensorFlow; `make check-kaggle` checks them all."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("family", ["small", "joined"])
def test_submission_embeds_alike_in_tensorflow_2_6_4(family):
    check = Path(__file__).with_name("check.py")
    done = subprocess.run([sys.executable, check, family], capture_output=True, text=True)
    if "NOT CHECKED" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TensorFlow 2.6.4 differs by" in done.stdout
