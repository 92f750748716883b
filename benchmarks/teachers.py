"""Cost of teachers in tables: a training step with them, compared with one without.

    python benchmarks/teachers.py --backbone=PATH/TO/efficientnet_lite0.keras

The full loop of the recipe `distill_fusion` (JPEGs decoded and cropped, all layers trained) runs in
two experiments of one process in turn, one that classifies alone and one with tables of random
embeddings; a time is the median over the rounds, a ratio the median of the ratios of neighboring
rounds.
"""

import tempfile
import time
from pathlib import Path

import common
import numpy as np
import tensorflow as tf
from absl import flags

from universal_embedding.commands.config_flag import read_config_flag
from universal_embedding.datasets.embedding_table import write_npz
from universal_embedding.datasets.examples import Labels
from universal_embedding.training.config import teacher
from universal_embedding.training.data import stage_batches
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.train_step import MultiStepLoop, TrainStep

BACKBONE = flags.DEFINE_string("backbone", None, "Student: a .keras file.", required=True)
NUM_TEACHERS = flags.DEFINE_integer("num_teachers", 3, "Number of tables.", 1)
DIM = flags.DEFINE_integer("dim", 1280, "Dimensions of each table.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 8, "Rounds of each; one more warms up.", 1)
STEPS = flags.DEFINE_integer("steps", 5, "Steps of a round.", 1)
IMAGES_PER_DOMAIN, NUM_DOMAINS, NUM_CLASSES = 256, 8, 100


class ImageRecords(common.ShardedRecords):
    """Images of random classes."""

    def __init__(self, folder: Path, domain: str, images: list[bytes]):
        super().__init__(folder, domain, images, num_shards=1)
        self.labels = Labels(np.arange(len(images)) % NUM_CLASSES, np.arange(len(images) + 1))
        self.image_ids = np.array([f"{i}.jpg" for i in range(len(images))], object)


class Loop:
    """The stage of a recipe that trains all layers."""

    def __init__(self, workdir, records, teachers):
        config = read_config_flag(f"distill_fusion:backbone={BACKBONE.value}")
        config.stages = config.stages[1:]
        config.distillation.teachers = teachers
        if not teachers:
            for loss in ("embedding_matching", "distance_distribution"):
                config.losses[loss].weight = 0.0
        strategy = tf.distribute.get_strategy()
        experiment = Experiment.from_config(config, records, workdir, strategy)
        (stage,) = experiment.stages
        self._batches = stage_batches(experiment, stage, 0, show_progress=False)
        self._loop = MultiStepLoop(TrainStep(experiment, stage), strategy)
        self.batch_size = stage.batch_size

    def seconds_per_step(self):
        start = time.perf_counter()
        self._loop(self._batches, STEPS.value)[0].numpy()
        return (time.perf_counter() - start) / STEPS.value


def make_tables(folder, records):
    """Tables of random unit rows, as `teachers` of a config."""
    teachers = []
    for number in range(NUM_TEACHERS.value):
        rng, pairs = np.random.default_rng(number), []
        for domain_records in records.values():
            rows = rng.normal(size=(len(domain_records), DIM.value)).astype(np.float32)
            pairs.append((domain_records, rows / np.linalg.norm(rows, axis=1, keepdims=True)))
        write_npz(folder / f"table{number}.npz", pairs)
        teachers.append(teacher(str(folder / f"table{number}.npz")))
    return tuple(teachers)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = [common.photo_like_jpeg(i) for i in range(IMAGES_PER_DOMAIN)]
        records = {
            f"domain{i}": ImageRecords(folder, f"domain{i}", images) for i in range(NUM_DOMAINS)
        }
        without = Loop(folder / "without", records, ())
        taught = Loop(folder / "taught", records, make_tables(folder, records))
        without.seconds_per_step(), taught.seconds_per_step()
        times = np.array(
            [(without.seconds_per_step(), taught.seconds_per_step()) for _ in range(ROUNDS.value)]
        )
    ratio = float(np.median(times[:, 1] / times[:, 0]))
    print(
        f"without teachers {np.median(times[:, 0]):.3f} s per step of {without.batch_size} images"
    )
    print(
        f"{NUM_TEACHERS.value} tables of {DIM.value}: {np.median(times[:, 1]):.3f} s, {ratio:.3f}"
    )
    common.print_json(
        {
            "seconds_per_step": np.median(times, axis=0).round(4).tolist(),
            "ratio": round(ratio, 4),
            "ratio_by_round": (times[:, 1] / times[:, 0]).round(3).tolist(),
            "num_teachers": NUM_TEACHERS.value,
            "dim": DIM.value,
        }
    )


if __name__ == "__main__":
    common.run(main, needs_idle=True)
