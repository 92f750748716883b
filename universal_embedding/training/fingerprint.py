"""Fingerprint of a batch: which image stood at which place, as one number."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

_DOMAIN_STRIDE = 2**40  # records of a domain are fewer


def fingerprint_slice(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """A replica's part of the fingerprint of a global batch; call it in a replica context.

    The parts add up to a multilinear hash modulo 2^64: each place of the batch has a random odd
    factor. So the sum depends on the images, on their order, and not on the number of replicas.

    Args:
        batch: The replica's slice, with `domain` `[b]` int32 and `record` `[b]` int64.

    Returns:
        int64 scalar.
    """
    context = tf.distribute.get_replica_context()
    size = batch["record"].shape[0]
    factors = tf.constant(_factors(size * context.num_replicas_in_sync))
    factors = tf.slice(factors, [context.replica_id_in_sync_group * size], [size])
    keys = batch["record"] + 1 + tf.cast(batch["domain"], tf.int64) * _DOMAIN_STRIDE
    return tf.reduce_sum(factors * keys)


def finish_fingerprint(total: np.int64) -> int:
    """The upper 48 bits of the sum of all parts: readers of JSON keep them exactly."""
    return int(np.int64(total).view(np.uint64)) >> 16


def _factors(batch_size: int) -> np.ndarray:
    bits = np.random.default_rng(0).integers(0, 2**63, batch_size, np.int64)
    return bits | 1
