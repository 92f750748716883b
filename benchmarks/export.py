"""Speed of an exported model, compared with its bare backbone in a `tf.function`.

    python benchmarks/export.py --backbone=PATH/TO/efficientnet_lite0.keras

Both get images of the backbone's own size (the exported model uint8, the backbone float32) and
alternate call by call; rates are those of the median call. The exported model is also timed on
images of 375 x 500, which it has to resize.
"""

import os
import tempfile
import time

import common
import numpy as np
import tensorflow as tf
from absl import flags

from universal_embedding.export.saved_model import save_model
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel

BACKBONE = flags.DEFINE_string(
    "backbone", "small", "Backbone: `small`, a .keras file, or a name that load_backbone takes."
)
IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Input size of the backbone, in pixels.", 1)
NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 1000, "Images that each model embeds at each batch size, at least.", 1
)
MIN_CALLS, NUM_WARMUP = 40, 3
GOAL = 0.95


def time_call(call, images):
    start = time.perf_counter()
    np.asarray(call(images))
    return time.perf_counter() - start


def main():
    size = IMAGE_SIZE.value
    backbone = load_backbone(BACKBONE.value, size)
    with tempfile.TemporaryDirectory() as folder:
        save_model(EmbeddingModel(backbone, image_size=size), f"{folder}/model")
        serve = tf.saved_model.load(f"{folder}/model").signatures["serving_default"]
    call_backbone = tf.function(lambda images: backbone(images, training=False))

    def call_exported(images):
        return serve(images)["embedding_norm"]

    rng = np.random.default_rng(0)
    result = {"backbone": os.path.basename(BACKBONE.value), "image_size": size}
    print(f"{'batch':>5} {'backbone/s':>11} {'exported/s':>11} {'ratio':>6} {'375x500/s':>10}")
    for batch_size in (1, 32):
        square = tf.constant(rng.integers(0, 256, [batch_size, size, size, 3], np.uint8))
        photo = tf.constant(rng.integers(0, 256, [batch_size, 375, 500, 3], np.uint8))
        cases = [
            (call_backbone, tf.cast(square, tf.float32)),
            (call_exported, square),
            (call_exported, photo),
        ]
        num_calls = max(MIN_CALLS, NUM_IMAGES.value // batch_size)
        times = [
            [time_call(call, images) for call, images in cases]
            for _ in range(num_calls + NUM_WARMUP)
        ]
        rates = batch_size / np.median(times[NUM_WARMUP:], axis=0)
        bare, exported, resized = rates.tolist()
        ratio = exported / bare
        print(f"{batch_size:5} {bare:11.1f} {exported:11.1f} {ratio:6.3f} {resized:10.1f}")
        result[f"batch_{batch_size}"] = {
            "backbone": bare,
            "exported": exported,
            "ratio": ratio,
            "exported_375x500": resized,
            "goal": GOAL,
            "goal_reached": ratio >= GOAL,
        }
    common.print_json(result)


if __name__ == "__main__":
    common.run(main, needs_idle=True)
