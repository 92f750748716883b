"""Remedies for two defects of Keras 3.15 and KerasHub 0.32, which lose weights in silence."""

import functools

import keras
import tensorflow as tf


def apply(backbone: keras.Model) -> None:
    """Makes both TensorFlow's and Keras' saving of `backbone` complete."""
    _track_every_weight(backbone)
    for layer in backbone._flatten_layers():
        if type(layer).__name__ == "DINOV2Embedding":
            layer.save_own_variables = functools.partial(_save_positions, layer)


def _track_every_weight(backbone: keras.Model) -> None:
    """Lets `tf.train.Checkpoint` and `tf.saved_model.save` see every weight.

    Layers that are appended to a list (the blocks of ViT, DeiT, DINOv2, DINOv3, Swin, HGNetV2) are
    tracked by Keras but not by TensorFlow, whose checkpoints then leave them out without a word.
    """
    weights = tf.Module()
    weights.in_order = list(backbone.weights)
    backbone._track_trackable(weights, "every_weight", overwrite=True)


def _save_positions(layer: keras.Layer, store: dict) -> None:
    """Keeps fine-tuned position embeddings of DINOv2 in Keras' files.

    The layer has them twice: as pretrained (`position_embeddings`) and for the picture size in
    use (`interpolated_position_embeddings`, which train). Keras' loading computes the second from
    the first, which its saving refreshes only if the *sum* of all differences is positive.
    `architecture.rebuild` makes both for one picture size, so that they can be the same.
    """
    layer.position_embeddings.assign(layer.interpolated_position_embeddings)
    keras.Layer.save_own_variables(layer, store)
