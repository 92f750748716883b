"""Gradient checkpointing: a block's activations are computed again in the backward pass."""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from universal_embedding.models.backbones.depths import block_names


def rematerialize(backbone: keras.Model) -> None:
    """Makes every block of `backbone` keep only its input while training.

    `keras.RematScope` does not serve here: in a `tf.function` it fails for layers that are called
    with keywords, as KerasHub's blocks are.

    Raises:
        ValueError: The blocks are no layers of their own.
    """
    names = block_names(backbone)
    if not names:
        raise ValueError("gradient checkpointing (remat) needs a transformer backbone")
    for layer in backbone._flatten_layers():
        if layer.name in names:
            layer.call = _recomputed(layer.call)


def _recomputed(call: Callable) -> Callable:
    @functools.wraps(call)
    def recomputed(*inputs: tf.Tensor, **options: object) -> tf.Tensor:
        if not options.get("training") or isinstance(inputs[0], keras.KerasTensor):
            return call(*inputs, **options)
        return tf.recompute_grad(functools.partial(call, **options))(*inputs)

    return recomputed
