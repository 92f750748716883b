"""`universal-embedding train` over prepared images, killed and preempted for real."""

import json
import random
import re
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.layouts import write_uned_layout
from tests.helpers.processes import finish, run_cli, start

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
    config.model.embedding_dim = 5
    config.model.dropout = 0.1
    config.optimizer.ema_decay = 0.9
    config.steps_per_execution = 2
    config.log_every_steps = config.evals.val.every_steps = 10
    config.checkpoint_every_steps = 4
    learning_rates = dict(projection_lr=1e-2, head_lr=1e-2)
    config.stages = (
        stage(steps=12, input="features", **learning_rates),
        stage(steps={steps}, backbone_lr=1e-2, warmup_steps=4, **learning_rates),
    )
    return config
"""


@pytest.fixture(scope="module")
def flags(tmp_path_factory, tiny_backbone):
    """The flags of `universal-embedding train`, except --workdir."""
    folder = tmp_path_factory.mktemp("data")
    for domain in ("birds", "toys"):
        write_uned_layout(
            folder / "tiny",
            domain,
            {
                split: [(f"{domain}/{split}/{i}.jpg", base + i % 4) for i in range(count)]
                for split, count, base in (("train", 24, 0), ("val", 12, 10), ("test", 8, 20))
            },
        )
    data_dir = f"--data_dir={folder / 'records'}"
    code, _, err = run_cli("prepare", f"--manual_dir={folder / 'tiny'}", data_dir)
    assert code == 0, err[-3000:]
    config = folder / "config.py"
    config.write_text(CONFIG.format(backbone=str(tiny_backbone), steps=STEPS))
    return [f"--config={config}", data_dir, "--deterministic"]


def start_training(flags, workdir):
    return start("-m", "universal_embedding", "train", *flags, f"--workdir={workdir}")


def train_to_the_end(flags, workdir):
    code, _, err = run_cli("train", *flags, f"--workdir={workdir}")
    assert code == 0, err[-3000:]


def newest_step(workdir):
    steps = [int(p.stem[5:]) for p in workdir.glob("checkpoints/last/step-*.index")]
    return max(steps, default=0)


def read_state(workdir):
    """Everything in the newest checkpoint, by name."""
    reader = tf.train.load_checkpoint(
        str(workdir / "checkpoints" / "last" / f"step-{newest_step(workdir)}")
    )
    names = [n for n in reader.get_variable_to_shape_map() if "save_counter" not in n]
    return {
        name: reader.get_tensor(name) for name in names if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


def read_rows(workdir):
    """Step and score of each complete row; speeds differ."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return [(row["step"], row.get("val/merged/mean/r_at_1")) for row in rows]


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """The end of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train_to_the_end(flags, workdir)
    return workdir


def assert_same_state(actual, expected):
    actual, expected = read_state(actual), read_state(expected)
    assert actual.keys() == expected.keys()
    different = [name for name in actual if not np.array_equal(actual[name], expected[name])]
    assert not different


def wait_for(condition, process, seconds=240):
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < limit
        time.sleep(0.005)


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
