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

from universal_embedding.models.distribution import concatenate_hosts, num_hosts_and_id
from universal_embedding.models.heads.softmax import NEG_INF, SoftmaxTerms
from universal_embedding.private_apis import has_value


def shard_size(num_classes: int, num_shards: int) -> int:
    """Classes per replica; the last shards may hold padding classes that do not exist."""
    return -(-num_classes // num_shards)


class ShardedVariable(keras.Variable):
    """A variable `[rows, D]` of which each replica holds `shard_rows` consecutive rows.

    TensorFlow's variables that are synchronized when they are read, without an aggregation, are
    independent on each replica under every strategy; reading one outside of replicas is an error.
    Rows past the end are zero, get no gradient, and stay zero.

    Args:
        initializer: Makes the initial `[rows, D]`, on the host.
        num_rows: Rows of all replicas together.
        shard_rows: Rows of a replica.
        dim: D.
        name: Name of the variable.

    Attributes:
        num_rows: As given; `shape` is that of a replica's part.
    """

    def __init__(
        self,
        initializer: keras.initializers.Initializer,
        num_rows: int,
        shard_rows: int,
        dim: int,
        name: str,
    ) -> None:
        super().__init__(
            "zeros",
            shape=(shard_rows, dim),
            dtype="float32",
            synchronization="on_read",
            aggregation="none",
            name=name,
        )
        self.num_rows = num_rows
        if has_value(self):  # not in dry runs
            with tf.device("CPU:0"):
                ShardedTable(self.value, num_rows).assign(initializer((num_rows, dim)).numpy())


class ShardedTable:
    """The whole of a sharded variable or of its optimizer slot, to save and restore it.

    Args:
        shard: The variable, of which each replica holds its part.
        num_rows: Rows of all replicas together.
    """

    def __init__(self, shard: tf.Variable, num_rows: int) -> None:
        self.shard, self.dtype = shard, shard.dtype
        self.shape = tf.TensorShape([num_rows, *shard.shape[1:]])

    def numpy(self) -> np.ndarray:
        """The rows of all replicas, `[rows, D]`; each host must call it."""
        local = np.concatenate([copy.numpy() for copy in self._copies()])
        return concatenate_hosts(local, self._strategy)[: self.shape[0]]

    def assign(self, values: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Gives each replica of this host its rows of `values [rows, D]`.

        Args:
            values: The same on all hosts.
            mask: `[rows]` bool, the rows to change; None: all.
        """
        copies, size = self._copies(), self.shard.shape[0]
        first = num_hosts_and_id(self._strategy)[1] * len(copies)
        for index, copy in enumerate(copies, first):
            rows = slice(index * size, (index + 1) * size)
            shard = _pad(values[rows], size)
            if mask is not None:
                shard = np.where(_pad(mask[rows], size)[:, None], shard, copy.numpy())
            copy.assign(shard)

    @property
    def _strategy(self) -> tf.distribute.Strategy:
        return self.shard.distribute_strategy or tf.distribute.get_strategy()

    def _copies(self) -> tuple[tf.Variable, ...]:
        return self._strategy.experimental_local_results(self.shard)


def whole_table(
    variable: keras.Variable, shard: ShardedVariable | None = None
) -> tf.Variable | ShardedTable:
    """Views a variable as a checkpoint keeps it: alike on any number of replicas.

    Args:
        variable: A weight, or a slot of the optimizer of `shard`.
        shard: Where `variable` is a slot, the weight whose shape marks it; None: any other.
    """
    shard = variable if isinstance(variable, ShardedVariable) else shard
    if shard is None or tuple(variable.shape) != tuple(shard.shape):
        return variable.value
    return ShardedTable(variable.value, shard.num_rows)


def _pad(rows: np.ndarray, size: int) -> np.ndarray:
    return np.pad(rows, [(0, size - len(rows)), *[(0, 0)] * (rows.ndim - 1)])


def all_gather(local: tf.Tensor) -> tf.Tensor:
    """Concatenates the `[b, ...]` of every replica to `[R * b, ...]`, the same on all replicas."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return local
    batch = local.shape[0] and local.shape[0] * context.num_replicas_in_sync
    # A part of the batch has no device where a host has one replica, and gathering needs one.
    gathered = context.all_gather(tf.identity(local), axis=0)
    return tf.ensure_shape(gathered, [batch, *local.shape[1:]])


def gather_batch(local: tf.Tensor, num_shards: int) -> tf.Tensor:
    """`all_gather` for `num_shards` replicas, or on one device (a dry run) of as many rows."""
    gathered = all_gather(local)
    missing = num_shards // tf.distribute.get_replica_context().num_replicas_in_sync
    return gathered if missing == 1 else tf.tile(gathered, [missing, *[1] * (len(local.shape) - 1)])


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
    target_logit: tf.Tensor,
    rest_logsumexp: tf.Tensor,
    num_shards: int,
    local_batch: int | tf.Tensor,
) -> SoftmaxTerms:
    """Merges the shards' `[R * b]` terms into the full `[b]` terms of this replica's images."""
    shards = gather_batch(tf.stack((target_logit, rest_logsumexp))[None], num_shards)
    start = local_batch * tf.distribute.get_replica_context().replica_id_in_sync_group
    local = tf.slice(shards, [0, 0, start], [num_shards, 2, local_batch])
    return tf.reduce_sum(local[:, 0], axis=0), tf.reduce_logsumexp(local[:, 1], axis=0)
