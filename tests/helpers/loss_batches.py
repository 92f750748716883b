"""Helpers of the loss tests: random batches, teachers that are arrays, naive distances."""

import numpy as np
import tensorflow as tf

from universal_embedding.training.config import base_config
from universal_embedding.training.losses import LOSSES, LossContext, ModelOutputs
from universal_embedding.training.strategy import mirrored


class ArrayTeacher:
    """A teacher whose embeddings come with the batch, and perhaps `known [b]`."""

    def __init__(self, is_universal=False, name="teacher", weight=1.0):
        self.is_universal, self.name, self.weight = is_universal, name, weight
        self.known_domains = [True]

    def __call__(self, batch):
        return batch[self.name]

    def knows(self, batch):
        return batch.get(f"known {self.name}")


def unit_rows(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_batch(seed=0, size=12, num_domains=3, teacher_dim=7, student_dim=5, num_classes=3):
    rng = np.random.default_rng(seed)
    return {
        "domain": rng.integers(0, num_domains, size).astype(np.int32),
        "label": rng.integers(0, num_classes, size).astype(np.int32),
        "teacher": unit_rows(rng.normal(size=(size, teacher_dim))),
        "student": unit_rows(rng.normal(size=(size, student_dim))),
    }


def make_loss(name, is_universal=False, **options):
    """The loss of this name with some of its options set, taught by an `ArrayTeacher`."""
    config = base_config()
    config.losses[name].update(options)
    return LOSSES[name](LossContext(config, None, {}, [ArrayTeacher(is_universal)]))


def model_outputs(embedding, features=None):
    return ModelOutputs(features, embedding, tf.constant(0, tf.int64), tf.constant(1.0))


def loss_values(loss, batch):
    batch = {name: tf.constant(value) for name, value in batch.items()}
    return loss(batch, model_outputs(batch["student"])).numpy()


def on_replicas(compute, batch, strategy=None, num_replicas=1):
    """`compute(slice)` of each replica's slice of a batch, joined along the last axis.

    Args:
        compute: A function of a dict of tensors.
        batch: Arrays by name.
        strategy: The replicas; None: `num_replicas` of them.
        num_replicas: Number of replicas.
    """
    if strategy is None:
        strategy = mirrored(num_replicas) if num_replicas > 1 else tf.distribute.get_strategy()
    count = strategy.num_replicas_in_sync

    def part(context):
        replica = context.replica_id_in_sync_group
        return {k: tf.constant(np.split(np.asarray(v), count)[replica]) for k, v in batch.items()}

    parts = strategy.experimental_distribute_values_from_function(part)
    results = strategy.experimental_local_results(strategy.run(tf.function(compute), args=(parts,)))
    return np.concatenate([result.numpy() for result in results], axis=-1)


def loss_gradient(loss, batch, watched="student"):
    """Gradient of the summed losses with respect to an entry of the batch."""
    batch = {name: tf.constant(value) for name, value in batch.items()}
    with tf.GradientTape() as tape:
        tape.watch(batch[watched])
        total = tf.reduce_sum(loss(batch, model_outputs(batch["student"])))
    return tape.gradient(total, batch[watched])


def compared_images(batch, i, across_domains=False):
    """The images that anchor i is compared with."""
    return [
        j
        for j in range(len(batch["domain"]))
        if j != i and (across_domains or batch["domain"][j] == batch["domain"][i])
    ]


def distance(rows, i, j):
    return float(np.sqrt(((rows[i].astype(np.float64) - rows[j]) ** 2).sum()))
