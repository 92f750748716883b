"""Class weights divided over the replicas of a `tf.distribute` strategy.

Replica r of R holds the classes from `r * ceil(C / R)` on, in its own copy of a variable whose
copies are never made equal. Each replica compares the pictures of all replicas with its classes;
per picture only two numbers, the target's logit and the others' log-sum-exp, go between replicas.
Differentiating on every replica its own losses gives each the complete gradient of its classes, so
it must not be summed over the replicas again; that of the embeddings is complete as well.
"""

import keras
import numpy as np
import tensorflow as tf

from universal_embedding.models.heads.softmax import NEVER


def shard_size(classes: int, shards: int) -> int:
    """Classes on each replica; the last may hold some that do not exist."""
    return -(-classes // shards)


def make_sharded(values: np.ndarray, size: int, name: str) -> keras.Variable:
    """A variable `[size, D]` of which each replica has its own part of `values [rows, D]`."""
    variable = keras.Variable(
        np.zeros((size, values.shape[1]), np.float32),
        synchronization="on_read",
        aggregation="none",
        name=name,
    )
    write_shards(variable, values)
    return variable


def read_shards(variable: keras.Variable, rows: int) -> np.ndarray:
    """All replicas' rows one after another, `[rows, D]`: what to save. Outside of replicas.

    Works on the slots of an optimizer as well.
    """
    copies = tf.distribute.get_strategy().experimental_local_results(variable.value)
    return np.concatenate([copy.numpy() for copy in copies])[:rows]


def write_shards(variable: keras.Variable, values: np.ndarray) -> None:
    """Gives each replica its rows of `values [rows, D]`. Outside of replicas."""
    copies = tf.distribute.get_strategy().experimental_local_results(variable.value)
    size = variable.shape[0]
    for number, copy in enumerate(copies):
        part = values[number * size : (number + 1) * size]
        copy.assign(np.pad(part, ((0, size - len(part)), (0, 0))))


def gather_batch(part: tf.Tensor) -> tf.Tensor:
    """`[b, ...]` of each replica -> `[R * b, ...]`, the same on all."""
    context = tf.distribute.get_replica_context()
    batch = part.shape[0] and part.shape[0] * context.num_replicas_in_sync
    return tf.ensure_shape(context.all_gather(part, axis=0), [batch, *part.shape[1:]])


def local_classes(
    labels: tf.Tensor, classes: int, shards: int
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Labels as this replica counts them (-1: another replica's), and `bias` of its classes."""
    size = shard_size(classes, shards)
    first = size * tf.distribute.get_replica_context().replica_id_in_sync_group
    here = (labels >= first) & (labels < first + size)
    bias = None
    if size * shards != classes:
        bias = tf.where(first + tf.range(size) < classes, 0.0, NEVER)
    return tf.where(here, labels - first, -1), bias


def combine(
    target: tf.Tensor, others: tf.Tensor, batch: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The replicas' `[R * b]` splits -> the whole split of this replica's own `[b]` pictures."""
    context = tf.distribute.get_replica_context()
    parts = context.all_gather(tf.stack((target, others))[None], axis=0)
    own = parts[:, :, context.replica_id_in_sync_group * batch :][:, :, :batch]
    return tf.reduce_sum(own[:, 0], axis=0), tf.reduce_logsumexp(own[:, 1], axis=0)
