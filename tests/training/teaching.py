"""What the tests of objectives share: batches, teachers that are arrays, naive distances."""

import numpy as np
import tensorflow as tf

from universal_embedding.training.config import base_config
from universal_embedding.training.objectives.base import Outputs, Setting


class ArrayTeachers:
    def __init__(self, universal=False):
        self.universal = universal

    def __call__(self, batch):
        return batch["teacher"]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_batch(seed=0, size=12, domains=3, teacher=7, student=5, classes=3):
    rng = np.random.default_rng(seed)
    batch = {
        "domain": rng.integers(0, domains, size).astype(np.int32),
        "label": rng.integers(0, classes, size).astype(np.int32),
        "teacher": unit(rng.normal(size=(size, teacher))),
        "student": unit(rng.normal(size=(size, student))),
    }
    return batch


def make(module, universal=False, **fields):
    config = base_config()
    config.update_from_flattened_dict(fields)
    return module.Loss(Setting(config, None, {}, ArrayTeachers(universal)))


def outputs(embedding, features=None):
    return Outputs(features, embedding, tf.constant(0, tf.int64), tf.constant(1.0))


def losses(objective, batch):
    batch = {name: tf.constant(value) for name, value in batch.items()}
    return objective.losses(batch, outputs(batch["student"])).numpy()


def gradient(objective, batch, watched="student"):
    batch = {name: tf.constant(value) for name, value in batch.items()}
    with tf.GradientTape() as tape:
        tape.watch(batch[watched])
        total = tf.reduce_sum(objective.losses(batch, outputs(batch["student"])))
    return tape.gradient(total, batch[watched])


def others(batch, i, universal=False):
    """The pictures that anchor i is compared with."""
    return [
        j
        for j in range(len(batch["domain"]))
        if j != i and (universal or batch["domain"][j] == batch["domain"][i])
    ]


def distance(rows, i, j):
    return float(np.sqrt(((rows[i].astype(np.float64) - rows[j]) ** 2).sum()))
