"""Class weights sharded over the replicas of a `tf.distribute` strategy.

Replica r of R holds `ceil(C / R)` classes starting at `r * ceil(C / R)`, in its own copy of a
variable whose copies are never synchronized. Each replica compares the images of all replicas with
its classes; only two numbers per image, the target logit and the log-sum-exp of the rest, travel
between replicas. Every replica differentiates its own losses and thereby gets the complete gradient
of its classes, so that gradient must not be summed over the replicas again; the gradient of the
embeddings is complete as well.
"""

import keras
import numpy as np
import tensorflow as tf

from universal_embedding.models.heads.softmax import NEG_INF, SoftmaxTerms


def shard_size(num_classes: int, num_shards: int) -> int:
    """Classes per replica; the last shards may hold padding classes that do not exist."""
    return -(-num_classes // num_shards)


def make_sharded(values: np.ndarray, size: int, name: str) -> keras.Variable:
    """Creates a variable `[size, D]` of which each replica holds its rows of `values [rows, D]`."""
    variable = keras.Variable(
        np.zeros((size, values.shape[1]), np.float32),
        synchronization="on_read",
        aggregation="none",
        name=name,
    )
    write_shards(variable, values)
    return variable


def read_shards(variable: keras.Variable, rows: int) -> np.ndarray:
    """Concatenates the shards of all replicas to `[rows, D]`, for saving; cross-replica only.

    Works on optimizer slots as well.
    """
    copies = tf.distribute.get_strategy().experimental_local_results(variable.value)
    return np.concatenate([copy.numpy() for copy in copies])[:rows]


def write_shards(variable: keras.Variable, values: np.ndarray) -> None:
    """Assigns to each replica its rows of `values [rows, D]`; cross-replica only."""
    copies = tf.distribute.get_strategy().experimental_local_results(variable.value)
    size = variable.shape[0]
    for index, copy in enumerate(copies):
        shard = values[index * size : (index + 1) * size]
        copy.assign(np.pad(shard, ((0, size - len(shard)), (0, 0))))


def all_gather(local: tf.Tensor) -> tf.Tensor:
    """Concatenates the `[b, ...]` of every replica to `[R * b, ...]`, the same on all replicas."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return local
    batch = local.shape[0] and local.shape[0] * context.num_replicas_in_sync
    return tf.ensure_shape(context.all_gather(local, axis=0), [batch, *local.shape[1:]])


def local_slice(values: tf.Tensor, size: int | tf.Tensor) -> tf.Tensor:
    """This replica's `size` rows of values `[R * size, ...]` that all replicas have alike."""
    start = size * tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.slice(values, [start, *[0] * (values.shape.rank - 1)], [size, *values.shape[1:]])


def local_classes(
    labels: tf.Tensor, num_classes: int, num_shards: int
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Labels relative to this replica's shard, and the bias that masks its padding classes.

    Args:
        labels: `[B]` int32, global classes.
        num_classes: C of all shards together.
        num_shards: Number of replicas.

    Returns:
        labels: `[B]` int32, -1 where another replica holds the class.
        bias: `[shard_size]` float32, or None where no shard has padding.
    """
    size = shard_size(num_classes, num_shards)
    first = size * tf.distribute.get_replica_context().replica_id_in_sync_group
    is_local = (labels >= first) & (labels < first + size)
    bias = None
    if size * num_shards != num_classes:
        bias = tf.where(first + tf.range(size) < num_classes, 0.0, NEG_INF)
    return tf.where(is_local, labels - first, -1), bias


def merge_shards(
    target_logit: tf.Tensor, rest_logsumexp: tf.Tensor, local_batch: int | tf.Tensor
) -> SoftmaxTerms:
    """Merges the shards' `[R * b]` terms into the full `[b]` terms of this replica's images."""
    context = tf.distribute.get_replica_context()
    shards = context.all_gather(tf.stack((target_logit, rest_logsumexp))[None], axis=0)
    start = context.replica_id_in_sync_group * local_batch
    local = shards[:, :, start:][:, :, :local_batch]
    return tf.reduce_sum(local[:, 0], axis=0), tf.reduce_logsumexp(local[:, 1], axis=0)
