"""A run of a few seconds over prepared images, and what it leaves in its directory."""

import json
import time

import numpy as np
import tensorflow as tf

from tests.helpers.layouts import write_uned_layout
from tests.helpers.processes import run_cli

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


def prepare_run(folder, backbone):
    """Prepares data in `folder`; returns the flags of `universal-embedding train` but --workdir."""
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
    config.write_text(CONFIG.format(backbone=str(backbone), steps=STEPS))
    return [f"--config={config}", data_dir, "--deterministic"]


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
    """Step, score and data of each complete row; speeds differ."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    names = ("step", "val/merged/mean/r_at_1", "data_fingerprint")
    return [tuple(row.get(name) for name in names) for row in rows]


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
