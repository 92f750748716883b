"""Workarounds for two Keras 3.15 / KerasHub 0.32 bugs that silently drop weights when saving."""

import functools
from typing import Any

import keras
import tensorflow as tf

from universal_embedding.private_apis import flatten_layers


def patch_weight_saving(backbone: keras.Model) -> None:
    """Makes both TensorFlow and Keras save every weight of `backbone`."""
    _track_every_weight(backbone)
    for layer in flatten_layers(backbone):
        if type(layer).__name__ == "DINOV2Embedding":
            layer.save_own_variables = functools.partial(_save_positions, layer)


def _track_every_weight(backbone: keras.Model) -> None:
    """Makes `tf.train.Checkpoint` and `tf.saved_model.save` see every weight.

    Layers that are appended to a list (the blocks of ViT, DeiT, DINOv2, DINOv3, Swin, HGNetV2) are
    tracked by Keras but not by TensorFlow, whose checkpoints then silently leave them out. The fix
    of keras-team/keras#18398 covers lists that are complete when they are assigned.
    """
    weights = tf.Module()
    weights.in_order = list(backbone.weights)
    backbone.every_weight = weights


def _save_positions(layer: keras.Layer, store: dict[str, Any]) -> None:
    """Keeps fine-tuned position embeddings of DINOv2 in Keras files.

    The layer, as added in keras-team/keras-hub#2328, holds them twice: as pretrained
    (`position_embeddings`) and for the image size in use (`interpolated_position_embeddings`, which
    are trained). Loading computes the second from the first, but saving refreshes the first only if
    the *sum* of all differences is positive. `architecture.rebuild` makes both for one image size,
    so that they can be equal.
    """
    layer.position_embeddings.assign(layer.interpolated_position_embeddings)
    keras.Layer.save_own_variables(layer, store)
