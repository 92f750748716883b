"""tools/train.py over prepared pictures, killed and preempted for real."""

import json
import random
import re
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from datasets.layouts import tree
from support.processes import finish, run, start

pytestmark = pytest.mark.slow
STEPS = 60
CONFIG = """
from universal_embedding.training.config import base_config, stage

def get_config():
    config = base_config()
    config.data.dataset = "tiny"
    config.data.batch_size = 8
    config.model.backbone = {backbone!r}
    config.model.image_size = 16
    config.model.dimension = 5
    config.model.dropout = 0.1
    config.optimizer.average = 0.9
    config.steps_per_call = 2
    config.log_every = config.validate_every = 10
    config.checkpoint_every = 4
    rates = dict(projection_rate=1e-2, head_rate=1e-2)
    config.stages = (
        stage(steps=12, input="features", **rates),
        stage(steps={steps}, backbone_rate=1e-2, warmup=4, **rates),
    )
    return config
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory, tiny_backbone):
    """What follows `python tools/train.py`, but for --workdir."""
    folder = tmp_path_factory.mktemp("data")
    for domain in ("birds", "toys"):
        tree(
            folder / "tiny",
            domain,
            {
                split: [(f"{domain}/{split}/{i}.jpg", base + i % 4) for i in range(count)]
                for split, count, base in (("train", 24, 0), ("val", 12, 10), ("test", 8, 20))
            },
        )
    arguments = [f"--manual_dir={folder / 'tiny'}", f"--data_dir={folder / 'records'}"]
    code, _, err = run("tools/prepare.py", *arguments)
    assert code == 0, err[-3000:]
    config = folder / "config.py"
    config.write_text(CONFIG.format(backbone=str(tiny_backbone), steps=STEPS))
    return [f"--config={config}", f"--data_dir={folder / 'records'}", "--deterministic"]


def newest(workdir):
    steps = [int(p.stem[5:]) for p in workdir.glob("checkpoints/last/step-*.index")]
    return max(steps, default=0)


def state(workdir):
    """Everything in the newest checkpoint, by name."""
    reader = tf.train.load_checkpoint(
        str(workdir / "checkpoints" / "last" / f"step-{newest(workdir)}")
    )
    names = [n for n in reader.get_variable_to_shape_map() if "save_counter" not in n]
    return {
        name: reader.get_tensor(name) for name in names if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The end of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    code, _, err = run("tools/train.py", *command, f"--workdir={workdir}")
    assert code == 0, err[-3000:]
    return workdir


def assert_same(ours, theirs):
    ours, theirs = state(ours), state(theirs)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not np.array_equal(ours[name], theirs[name])]
    assert not different


def wait_for(condition, process, seconds=240):
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_a_run_killed_at_random_moments_ends_bit_identical(command, whole, tmp_path):
    workdir, generator = tmp_path / "killed", random.Random(0)
    for after in (0, 16, 36):
        process = start("tools/train.py", *command, f"--workdir={workdir}")
        # A checkpoint may be half written, or a metric row, or nothing yet of the next steps.
        wait_for(lambda after=after: newest(workdir) > after or _metrics(workdir) > after, process)
        time.sleep(generator.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    code, _, err = run("tools/train.py", *command, f"--workdir={workdir}")
    assert code == 0, err[-3000:]
    assert_same(whole, workdir)
    assert _rows(workdir) == _rows(whole)


def test_a_preempted_run_exits_well_and_goes_on(command, whole, tmp_path):
    workdir = tmp_path / "preempted"
    process = start("tools/train.py", *command, f"--workdir={workdir}")
    wait_for(lambda: newest(workdir) >= 16, process)
    process.send_signal(signal.SIGTERM)
    clock = time.monotonic()
    code, out, err = finish(process, 60)
    assert code == 0, err[-3000:]
    assert time.monotonic() - clock < 30
    saved = re.search(r"SIGTERM at step (\d+): saved", out)
    assert saved and int(saved[1]) == newest(workdir) < 12 + STEPS, out
    code, _, err = run("tools/train.py", *command, f"--workdir={workdir}")
    assert code == 0, err[-3000:]
    assert_same(whole, workdir)


def _metrics(workdir):
    rows = _rows(workdir)
    return rows[-1][0] if rows else 0


def _rows(workdir):
    """Step and losses of each whole row; speeds differ."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        if line.endswith("}"):
            row = json.loads(line)
            found.append((row["step"], row.get("val/merged/mean/r_at_1")))
    return found
