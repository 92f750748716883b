"""One set of weights, pictures of several sizes."""

from collections.abc import Callable

import keras
import tensorflow as tf

from universal_embedding.models.backbones.architecture import antialiased, rebuild, to_json
from universal_embedding.models.backbones.positions import resize_positions


def at_size(backbone: keras.Model, image_size: int) -> Callable[..., tf.Tensor]:
    """A function of pictures of another size that computes with the weights of `backbone`.

    Position embeddings are resized at each call, so gradients reach those of `backbone`; its other
    weights are used as they are. Batch norm takes its moving statistics, and keeps them.

    Args:
        backbone: Takes `[B, S, S, 3]`.
        image_size: Side of the function's pictures; S gives `backbone` itself.

    Returns:
        `(images [B, image_size, image_size, 3], training=False) -> [B, F]`.

    Raises:
        ValueError: the architecture does not take such pictures.
    """
    if image_size == backbone.input_shape[1]:
        return backbone
    other = rebuild(backbone, image_size)
    antialias = antialiased(to_json(backbone))
    pairs = list(zip(other.weights, backbone.weights, strict=True))

    def call(images: tf.Tensor, training: bool = False) -> tf.Tensor:
        floats = [(of, own) for of, own in pairs if of.dtype.startswith("float")]
        mapping = [(of, _value(own, of, antialias)) for of, own in floats]
        with keras.StatelessScope(state_mapping=mapping):
            return other(images, training=training)

    return call


def _value(weight: keras.Variable, like: keras.Variable, antialias: bool) -> tf.Tensor:
    value = tf.convert_to_tensor(weight)
    if value.shape == like.shape:
        return value
    return resize_positions(value, like.shape[-2], antialias)
