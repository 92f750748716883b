"""Training step over joined backbones, compared with the sum of the steps over each alone.

All layers train, on one batch in memory: forward and backward pass of the backbones at their own
sizes, projection, head of 1,278 classes, AdamW. Steps of all runs alternate in one process; a time
is the median over the rounds. The goal is a ratio of at most 1.1.

    python benchmarks/fusion_step.py --backbones=PATH/TO/a.keras,PATH/TO/b.keras
"""

import tempfile
import time
from pathlib import Path

import common
import keras
import numpy as np
import tensorflow as tf
from absl import flags

from universal_embedding.training.config import base_config, stage
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.train_step import MultiStepLoop, TrainStep

BACKBONES = flags.DEFINE_list("backbones", None, "Backbones: .keras files.", required=True)
ROUNDS = flags.DEFINE_integer("rounds", 6, "Rounds of one step of each run; one warms up.", 2)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images of a batch.", 1)
NUM_CLASSES = 1278  # of uned_mini


def make_step(backbone: str, image_size: int, records: dict, folder: Path):
    """A function that takes one training step on a batch in memory."""
    config = base_config()
    config.data.batch_size = BATCH_SIZE.value
    config.model.backbone = backbone
    config.model.image_size = image_size
    rates = {"backbone_lr": 1e-5, "projection_lr": 1e-3, "head_lr": 1e-3}
    config.stages = (stage(steps=ROUNDS.value, **rates),)
    strategy = tf.distribute.get_strategy()
    experiment = Experiment.from_config(config, records, folder, strategy)
    rng = np.random.default_rng(0)
    size = (BATCH_SIZE.value, image_size, image_size, 3)
    batch = {
        "image": rng.integers(0, 256, size, np.uint8),
        "label": rng.integers(0, NUM_CLASSES, BATCH_SIZE.value, np.int32),
        "domain": np.zeros(BATCH_SIZE.value, np.int32),
        "record": np.zeros(BATCH_SIZE.value, np.int64),
    }
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    loop = MultiStepLoop(TrainStep(experiment, experiment.stages[0]), strategy)

    def step():
        loop(batches, 1)[1].numpy()

    return step


def main():
    sizes = [
        keras.saving.load_model(name, compile=False).input_shape[1] for name in BACKBONES.value
    ]
    specs = dict(zip(BACKBONES.value, sizes, strict=True))
    joined = "+".join(BACKBONES.value)
    specs[joined] = max(sizes)
    with tempfile.TemporaryDirectory() as name:
        images = [common.synthetic_jpeg(0, 64, 64)] * NUM_CLASSES
        records = {"domain": common.ShardedRecords(Path(name), "domain", images, 1)}
        steps = {s: make_step(s, size, records, Path(name)) for s, size in specs.items()}
        seconds = {spec: [] for spec in steps}
        for _ in range(ROUNDS.value):
            for spec, step in steps.items():
                start = time.perf_counter()
                step()
                seconds[spec].append(time.perf_counter() - start)
    medians = {spec: float(np.median(times[1:])) for spec, times in seconds.items()}
    total = sum(medians[name] for name in BACKBONES.value)
    by_round = np.array(seconds[joined]) / sum(np.array(seconds[name]) for name in BACKBONES.value)
    for spec, median in medians.items():
        print(f"{'+'.join(Path(n).stem for n in spec.split('+')):50s}{median:8.3f} s")
    ratio = medians[joined] / total
    print(f"joined / sum of those alone: {ratio:.3f}")
    common.print_json(
        {
            "seconds": {
                "+".join(Path(n).stem for n in s.split("+")): m for s, m in medians.items()
            },
            "ratio": ratio,
            "ratio_by_round": [round(float(r), 3) for r in by_round[1:]],
            "batch_size": BATCH_SIZE.value,
        }
    )


if __name__ == "__main__":
    common.run(main, needs_idle=True)
