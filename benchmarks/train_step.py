"""What training costs beside the bare backbone: UnED's 316,446 classes, batch 64, 224 pixels.

The full loop (ArrayRecords of JPEGs decoded and augmented, backbone, projection, joint head, AdamW,
metrics) and the backbone's forward and backward pass on one batch in memory take turns, in one
process; a rate is the median over the turns. Their CPU time, of all threads, is compared as well:
unlike the clock's it does not count what other programs took. `pooling` is a backbone that costs
nothing: what remains is the loop's own time.

    python benchmarks/train_step.py --backbones=vit_s16,../shared/backbones/efficientnet_lite0.keras
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from input_pipeline import Records, picture

from universal_embedding.datasets.domains import UNED
from universal_embedding.datasets.labels import Labels
from universal_embedding.training.config import base_config, stage
from universal_embedding.training.run import Run
from universal_embedding.training.trainer import SCORE, Trainer

BACKBONES = flags.DEFINE_list("backbones", ["vit_s16", "pooling"], "`vit_s16`, `pooling`, files.")
TURNS = flags.DEFINE_integer("turns", 4, "Turns of each way; the first is not counted.", 2)
STEPS = flags.DEFINE_integer("steps", 1, "Steps in a turn.", 1)
CLASSES = flags.DEFINE_bool("classes", True, "UnED's classes; otherwise ten for each domain.")
BATCH, SIZE, PICTURES = 64, 224, 64


class ManyClasses(Records):
    """A few pictures standing for one of each class."""

    def __init__(self, folder: Path, domain: str, contents: list[bytes], classes: int):
        super().__init__(folder, domain, contents)
        self.pictures, self.labels = (
            len(contents),
            Labels(np.arange(classes), np.arange(classes + 1)),
        )
        self.image_ids = np.array([f"{i}.jpg" for i in range(classes)], object)

    def read(self, numbers):
        return [super(ManyClasses, self).read([int(i) % self.pictures])[0] for i in numbers]


def make_records(folder: Path) -> dict[str, ManyClasses]:
    contents = [picture(i) for i in range(PICTURES)]
    return {
        domain.key: ManyClasses(
            folder, domain.key, contents, domain.classes["train"] if CLASSES.value else 10
        )
        for domain in UNED.values()
    }


def make_backbone(name: str, folder: Path) -> str:
    if name == "vit_s16":
        import keras_hub

        folder = folder / name
        keras_hub.models.ViTBackbone(
            image_shape=(SIZE, SIZE, 3),
            patch_size=16,
            num_layers=12,
            num_heads=6,
            hidden_dim=384,
            mlp_dim=1536,
        ).save_to_preset(str(folder))
        return str(folder)
    if name == "pooling":
        images = keras.Input((SIZE, SIZE, 3))
        scale = keras.layers.Rescaling(1 / 255)(images)
        features = keras.layers.GlobalAveragePooling2D()(scale)
        path = folder / "pooling.keras"
        keras.Model(images, keras.layers.Dense(8)(features)).save(path)
        return str(path)
    return name


def make_bare(backbone: keras.Model, images: tf.Tensor):
    weights = [variable.value for variable in backbone.trainable_variables]

    @tf.function
    def bare():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(tf.square(backbone(images, training=False)))
        return tape.gradient(loss, weights)

    def step():
        bare()[0].numpy()

    return step


class Turns:
    """Called by the trainer as its validation: ends a turn of the loop, has one of the backbone."""

    def __init__(self, bare):
        self.bare, self.spent = bare, {"loop": [], "bare": []}
        self.ended = None

    def __call__(self, *_):
        if self.ended is not None:
            self.spent["loop"].append((clocks() - self.ended) / STEPS.value)
        began = clocks()
        for _ in range(STEPS.value):
            self.bare()
        self.spent["bare"].append((clocks() - began) / STEPS.value)
        self.ended = clocks()
        return {SCORE: 0.0}


def clocks() -> np.ndarray:
    """Seconds by the clock, and of CPU."""
    return np.array([time.perf_counter(), time.process_time()])


def measure(name: str, folder: Path, records: dict) -> dict:
    config = base_config()
    config.data.batch_size = BATCH
    config.data.sampler = "dataset_size"
    config.model.backbone = make_backbone(name, folder)
    config.log_every = config.steps_per_call = STEPS.value
    config.validate_every = STEPS.value
    config.checkpoint_every = 0
    rates = {"backbone_rate": 1e-5, "projection_rate": 1e-3, "head_rate": 1e-3}
    config.stages = (stage(steps=STEPS.value * (TURNS.value + 1), **rates),)
    run = Run(config, records, folder / "run" / Path(name).stem, tf.distribute.get_strategy())
    turns = Turns(make_bare(run.embedder.backbone, next(run.batches(run.stages[0], 0))["image"]))
    if not Trainer(run, turns).run():
        sys.exit("stopped by a signal, so there is no figure")
    loop, loop_cpu = np.transpose(turns.spent["loop"][1:])
    bare, bare_cpu = np.transpose(turns.spent["bare"][1:-1])
    return {
        "loop_pictures_per_s": BATCH / float(np.median(loop)),
        "bare_pictures_per_s": BATCH / float(np.median(bare)),
        "ratio": float(np.median(bare) / np.median(loop)),
        "ratios_of_turns": [round(float(x), 3) for x in bare / loop],
        "cpu_ratio": float(np.median(bare_cpu) / np.median(loop_cpu)),
        "cpu_ratios_of_turns": [round(float(x), 3) for x in bare_cpu / loop_cpu],
        "cpu_seconds_beside_the_backbone": float(np.median(loop_cpu) - np.median(bare_cpu)),
    }


def main(_):
    result = {}
    with tempfile.TemporaryDirectory() as name:
        records = make_records(Path(name))
        classes = sum(len(of) for of in records.values())
        for backbone in BACKBONES.value:
            result[Path(backbone).stem] = measure(backbone, Path(name), records)
    print(f"{classes:,} classes, batch {BATCH}, {SIZE} pixels; pictures per second")
    print(f"{'backbone':22s}{'loop':>8s}{'bare':>8s}{'ratio':>8s}{'CPU':>8s}{'CPU beside':>12s}")
    for backbone, of in result.items():
        print(
            f"{backbone:22s}{of['loop_pictures_per_s']:8.1f}{of['bare_pictures_per_s']:8.1f}"
            f"{of['ratio']:8.3f}{of['cpu_ratio']:8.3f}"
            f"{of['cpu_seconds_beside_the_backbone']:10.2f} s"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
