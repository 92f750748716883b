"""Pictures per second of an exported model against its bare backbone in a `tf.function`.

    python benchmarks/export.py --backbone=../shared/backbones/efficientnet_lite0.keras

Both get pictures of the backbone's own size (the exported model uint8, the backbone float32) and
are called in turns, one call each; rates are of the median call. Pictures of 375 x 500, which have
to be resized, are told besides.
"""

import json
import os
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from absl import app, flags

from universal_embedding.export import saved_model
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedder import Embedder

BACKBONE = flags.DEFINE_string("backbone", "small", "As models.backbones.load_backbone takes it.")
IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "In pixels.")
PICTURES = flags.DEFINE_integer("pictures", 1000, "How many each embeds, at each batch size.")
CALLS = 40  # of each at least
GOAL = 0.95


def seconds(call, images):
    start = time.perf_counter()
    np.asarray(call(images))
    return time.perf_counter() - start


def main(argv):
    del argv
    side = IMAGE_SIZE.value
    backbone = load_backbone(BACKBONE.value, side)
    with tempfile.TemporaryDirectory() as folder:
        saved_model.save(Embedder(backbone, image_size=side), f"{folder}/model")
        serve = tf.saved_model.load(f"{folder}/model").signatures["serving_default"]
    bare = tf.function(lambda images: backbone(images, training=False))

    def exported(images):
        return serve(images)["embedding_norm"]

    random = np.random.default_rng(0)
    results = {"backbone": os.path.basename(BACKBONE.value), "image_size": side}
    print(f"{'batch':>5} {'backbone/s':>11} {'exported/s':>11} {'ratio':>6} {'375x500/s':>10}")
    for batch in (1, 32):
        square = tf.constant(random.integers(0, 256, [batch, side, side, 3], np.uint8))
        photo = tf.constant(random.integers(0, 256, [batch, 375, 500, 3], np.uint8))
        turns = [(bare, tf.cast(square, tf.float32)), (exported, square), (exported, photo)]
        calls = max(CALLS, PICTURES.value // batch)
        times = [[seconds(call, images) for call, images in turns] for _ in range(calls + 3)]
        base, own, resized = batch / np.median(times[3:], axis=0)
        ratio = float(own / base)
        print(f"{batch:5} {base:11.1f} {own:11.1f} {ratio:6.3f} {resized:10.1f}")
        results[f"batch_{batch}"] = {
            "backbone": base,
            "exported": own,
            "ratio": ratio,
            "exported_375x500": resized,
            "goal": GOAL,
            "met": ratio >= GOAL,
        }
    print(json.dumps(results))


if __name__ == "__main__":
    app.run(main)
