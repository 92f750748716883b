"""Speed of training, compared with the bare backbone: 316,446 classes (UnED), batch 64, 224 pixels.

The full loop (prepared JPEGs decoded and augmented, backbone, projection, joint head, AdamW,
metrics) and the backbone's forward and backward pass on one batch in memory alternate in one
process; a rate is the median over the rounds. Their CPU time, summed over all threads, is compared
too: unlike wall-clock time, it excludes the time taken by other programs. `pooling` is a backbone
that costs almost nothing, so that the loop's own time remains.

    python benchmarks/train_step.py --backbones=vit_s16,PATH/TO/efficientnet_lite0.keras
"""

import tempfile
import time
from pathlib import Path

import common
import keras
import numpy as np
import tensorflow as tf
from absl import flags

from universal_embedding.datasets.domains import UNED
from universal_embedding.datasets.examples import Labels
from universal_embedding.training.config import base_config, stage
from universal_embedding.training.data import stage_batches
from universal_embedding.training.experiment import Experiment

BACKBONES = flags.DEFINE_list(
    "backbones", ["vit_s16", "pooling"], "Backbones: `vit_s16`, `pooling`, or .keras files."
)
ROUNDS = flags.DEFINE_integer(
    "rounds", 4, "Rounds in which loop and backbone alternate; the first one warms up.", 2
)
STEPS_PER_ROUND = flags.DEFINE_integer("steps_per_round", 1, "Steps of each in a round.", 1)
UNED_CLASSES = flags.DEFINE_bool(
    "uned_classes", True, "Use UnED's numbers of classes; otherwise ten classes per domain."
)
BATCH_SIZE, IMAGE_SIZE, NUM_IMAGES = 64, 224, 64


class RepeatedRecords(common.ShardedRecords):
    """A few images that stand for one image of each of many classes."""

    def __init__(self, folder: Path, domain: str, images: list[bytes], num_classes: int):
        super().__init__(folder, domain, images, num_shards=1)
        index = np.arange(num_classes) % len(images)
        places = self.shards, self.offsets, self.lengths
        self.shards, self.offsets, self.lengths = (values[index] for values in places)
        self.labels = Labels(np.arange(num_classes), np.arange(num_classes + 1))
        self.image_ids = np.array([f"{i}.jpg" for i in range(num_classes)], object)


def make_records(folder: Path) -> dict[str, RepeatedRecords]:
    images = [common.photo_like_jpeg(i) for i in range(NUM_IMAGES)]
    return {
        domain.key: RepeatedRecords(
            folder,
            domain.key,
            images,
            domain.num_classes["train"] if UNED_CLASSES.value else 10,
        )
        for domain in UNED.values()
    }


def make_backbone(name: str, folder: Path) -> str:
    """Writes the backbone, if it is not a file already, and returns its path."""
    if name == "vit_s16":
        import keras_hub

        folder = folder / name
        keras_hub.models.ViTBackbone(
            image_shape=(IMAGE_SIZE, IMAGE_SIZE, 3),
            patch_size=16,
            num_layers=12,
            num_heads=6,
            hidden_dim=384,
            mlp_dim=1536,
        ).save_to_preset(str(folder))
        return str(folder)
    if name == "pooling":
        images = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
        scaled = keras.layers.Rescaling(1 / 255)(images)
        pooled = keras.layers.GlobalAveragePooling2D()(scaled)
        path = folder / "pooling.keras"
        keras.Model(images, keras.layers.Dense(8)(pooled)).save(path)
        return str(path)
    return name


def make_bare_step(backbone: keras.Model, images: tf.Tensor):
    """A function that runs the backbone forward and backward on `images`."""
    weights = [variable.value for variable in backbone.trainable_variables]

    @tf.function
    def compute_gradients():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(tf.square(backbone(images, training=False)))
        return tape.gradient(loss, weights)

    def step():
        compute_gradients()[0].numpy()

    return step


class AlternatingTimer:
    """Called by the trainer as an evaluator: ends a round of the loop and runs one of the backbone.

    Attributes:
        loop: Wall-clock and CPU seconds of a step of the loop, by round.
        bare: The same for the bare backbone.
    """

    def __init__(self, bare_step):
        self.loop, self.bare = [], []
        self._bare_step, self._loop_start = bare_step, None

    def __call__(self, model, strategy):
        if self._loop_start is not None:
            self.loop.append((read_clocks() - self._loop_start) / STEPS_PER_ROUND.value)
        start = read_clocks()
        for _ in range(STEPS_PER_ROUND.value):
            self._bare_step()
        self.bare.append((read_clocks() - start) / STEPS_PER_ROUND.value)
        self._loop_start = read_clocks()
        return {"merged/mean/r_at_1": 0.0}


def read_clocks() -> np.ndarray:
    """Wall-clock and CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def make_config(backbone: str):
    config = base_config()
    config.data.batch_size = BATCH_SIZE
    config.data.sampler = "dataset_size"
    config.model.backbone = backbone
    config.log_every_steps = config.steps_per_execution = STEPS_PER_ROUND.value
    config.evals.val.every_steps = STEPS_PER_ROUND.value
    config.checkpoint_every_steps = 0
    rates = {"backbone_lr": 1e-5, "projection_lr": 1e-3, "head_lr": 1e-3}
    config.stages = (stage(steps=STEPS_PER_ROUND.value * (ROUNDS.value + 1), **rates),)
    return config


def measure(name: str, folder: Path, records: dict) -> dict:
    config = make_config(make_backbone(name, folder))
    workdir = folder / "run" / Path(name).stem
    experiment = Experiment.from_config(config, records, workdir, tf.distribute.get_strategy())
    batch = next(stage_batches(experiment, experiment.stages[0], 0))
    timer = AlternatingTimer(make_bare_step(experiment.model.backbone, batch["image"]))
    common.train_to_end(experiment, {"val": timer})
    loop, loop_cpu = np.transpose(timer.loop[1:])
    bare, bare_cpu = np.transpose(timer.bare[1:-1])
    return {
        "loop_images_per_second": BATCH_SIZE / float(np.median(loop)),
        "bare_images_per_second": BATCH_SIZE / float(np.median(bare)),
        "ratio": float(np.median(bare) / np.median(loop)),
        "ratio_by_round": [round(float(ratio), 3) for ratio in bare / loop],
        "cpu_ratio": float(np.median(bare_cpu) / np.median(loop_cpu)),
        "cpu_ratio_by_round": [round(float(ratio), 3) for ratio in bare_cpu / loop_cpu],
        "cpu_seconds_outside_backbone": float(np.median(loop_cpu) - np.median(bare_cpu)),
    }


def main():
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        records = make_records(Path(name))
        num_classes = sum(len(domain_records) for domain_records in records.values())
        for backbone in BACKBONES.value:
            rows[Path(backbone).stem] = measure(backbone, Path(name), records)
    print(f"{num_classes:,} classes, batch {BATCH_SIZE}, {IMAGE_SIZE} pixels; images per second")
    print(f"{'backbone':22s}{'loop':>8s}{'bare':>8s}{'ratio':>8s}{'CPU':>8s}{'CPU beyond':>12s}")
    for backbone, row in rows.items():
        print(
            f"{backbone:22s}{row['loop_images_per_second']:8.1f}"
            f"{row['bare_images_per_second']:8.1f}{row['ratio']:8.3f}{row['cpu_ratio']:8.3f}"
            f"{row['cpu_seconds_outside_backbone']:10.2f} s"
        )
    sizes = {"num_classes": num_classes, "batch_size": BATCH_SIZE, "image_size": IMAGE_SIZE}
    common.print_json({**sizes, "backbones": rows})


if __name__ == "__main__":
    common.run(main, needs_idle=True)
