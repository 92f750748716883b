"""Embedding batches of pictures with a model in memory, on all replicas of a strategy."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

Embed = Callable[[tf.Tensor], np.ndarray]


def on_replicas(model: keras.Model, strategy: tf.distribute.Strategy) -> Embed:
    """A function from `[b, S, S, 3]` pictures, 0..255, to `[b, D]` float32 of `model`.

    The pictures are split over this host's replicas; a number that does not divide is padded.
    """
    compiled = tf.function(lambda images: tf.cast(model(images, training=False), tf.float32))
    if strategy.num_replicas_in_sync == 1:
        return lambda images: compiled(images).numpy()

    def embed(images: tf.Tensor) -> np.ndarray:
        replicas = len(strategy.extended.worker_devices)
        images = tf.convert_to_tensor(images)
        padding = -len(images) % replicas
        padded = tf.pad(images, [[0, padding], [0, 0], [0, 0], [0, 0]])
        slices = iter(tf.split(padded, replicas))
        values = strategy.experimental_distribute_values_from_function(lambda _: next(slices))
        results = strategy.experimental_local_results(strategy.run(compiled, args=(values,)))
        return np.concatenate([result.numpy() for result in results])[: len(images)]

    return embed
