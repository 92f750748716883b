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
        ValueError: The blocks are no layers of their own, or have dropout, which would differ when
            computed again.
    """
    names = block_names(backbone)
    if not names:
        raise ValueError("gradient checkpointing (remat) needs a transformer backbone")
    for layer in backbone._flatten_layers():
        if getattr(layer, "rate", 0):
            raise ValueError(f"gradient checkpointing (remat) with dropout {layer.rate}")
    for layer in backbone._flatten_layers():
        if layer.name in names:
            layer.call = _recomputed(layer.call)


def _recomputed(call: Callable) -> Callable:
    @functools.wraps(call)
    def recomputed(first: tf.Tensor, *rest: object, **options: object) -> object:
        if isinstance(first, keras.KerasTensor):
            return call(first, *rest, **options)
        outputs = []

        def tensors(x: tf.Tensor) -> list[tf.Tensor]:
            outputs.append(call(x, *rest, **options))
            return [output for output in tf.nest.flatten(outputs[-1]) if output is not None]

        found = iter(tf.recompute_grad(tensors)(first))
        return tf.nest.map_structure(lambda x: None if x is None else next(found), outputs[0])

    return recomputed
