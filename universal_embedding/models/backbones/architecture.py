"""Architecture of a backbone as JSON, without weights.

It rebuilds the backbone when its preset or file is gone, for another image size, or in another
precision.
"""

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from universal_embedding.models.backbones.depths import block_names
from universal_embedding.models.backbones.drop_path import patch_drop_paths
from universal_embedding.models.backbones.keras_workarounds import patch_weight_saving
from universal_embedding.models.backbones.layers import Normalize
from universal_embedding.private_apis import flatten_layers, has_value, share_value, without_values

_BUILT = ("build_config", "build_input_shape")  # recorded shapes: layers are built anew
_ALWAYS_FLOAT32 = ("Rescaling", "Normalization", Normalize.__name__)


def to_json(backbone: keras.Model) -> str:
    """Serializes the architecture of a backbone: image size and precision, but no weights."""
    return json.dumps(keras.saving.serialize_keras_object(backbone))


def from_json(text: str, remat: bool = False) -> keras.Model:
    """Builds the backbone that `to_json` serialized, with fresh weights; needs no other file.

    Args:
        text: The result of `to_json`.
        remat: Whether to recompute the activations of each block in the backward pass instead of
            keeping them (gradient checkpointing). Not part of the architecture.

    Raises:
        ValueError: `remat` is set and the blocks of the backbone are not layers.
    """
    backbone = keras.saving.deserialize_keras_object(json.loads(text))
    patch_weight_saving(backbone)
    patch_drop_paths(backbone)
    if remat:
        _rematerialize(backbone)
    return backbone


@functools.singledispatch
def rebuild(
    backbone: keras.Model,
    image_size: int | None = None,
    dtype: str | keras.DTypePolicy | None = None,
    remat: bool = False,
) -> keras.Model:
    """Copies `backbone`, weights included, for another image size or precision.

    Learned position embeddings are interpolated; every other weight is copied unchanged.

    Args:
        backbone: A functional model of images.
        image_size: Side of the images in pixels; None keeps it.
        dtype: A Keras dtype policy or its name (`mixed_bfloat16`); None keeps it.
        remat: See `from_json`.

    Raises:
        ValueError: The architecture does not support the image size or `remat`.
    """
    policy = None
    if dtype:
        policy = keras.saving.serialize_keras_object(keras.dtype_policies.get(dtype))
    text = _rewritten_json(backbone, image_size, policy)
    copy = from_json(text, remat)
    _check_same_weights(backbone, copy, image_size)
    antialias = _uses_antialiasing(text)
    for old, new in zip(backbone.weights, copy.weights, strict=True):
        value = _fit_weight(old, new.shape, antialias)
        if has_value(old):
            new.assign(value)
    return copy


@functools.singledispatch
def resize_backbone(backbone: keras.Model, image_size: int) -> Callable[..., tf.Tensor]:
    """Returns a function for another image size that computes with the weights of `backbone`.

    It holds no weights of its own. Position embeddings are interpolated at each call, so gradients
    reach those of `backbone`; all other weights, the statistics of batch norm included, are read
    and updated as by `backbone` itself. Blocks that `backbone` recomputes are recomputed.

    Args:
        backbone: A model of `[B, S, S, 3]`.
        image_size: Side of the function's images; for S the result is `backbone` itself.

    Returns:
        `(images [B, image_size, image_size, 3], training=False) -> [B, F]`.

    Raises:
        ValueError: The architecture does not support the image size.
    """
    if image_size == backbone.input_shape[1]:
        return backbone
    text = _rewritten_json(backbone, image_size)
    antialias = _uses_antialiasing(text)
    with without_values():
        resized = keras.saving.deserialize_keras_object(json.loads(text))
    patch_drop_paths(resized)
    if getattr(backbone, "is_rematerialized", False):
        _rematerialize(resized)
    _check_same_weights(backbone, resized, image_size)
    tables: list[tuple[keras.Variable, keras.Variable]] = []
    for old, new in zip(backbone.variables, resized.variables, strict=True):
        if old.shape == new.shape:
            share_value(new, old)
        elif new.dtype.startswith("int"):
            share_value(new, tf.constant(_fit_weight(old, new.shape, antialias)))
        else:
            _fit_weight(old, new.shape, antialias)  # raises where it is not about positions
            tables.append((new, old))
    if not tables:
        return resized

    def call(images: tf.Tensor, training: bool = False) -> tf.Tensor:
        mapping = [
            (new, resize_position_embedding(tf.convert_to_tensor(old), new.shape[-2], antialias))
            for new, old in tables
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            features = resized(images, training=training)
        for variable in resized.non_trainable_variables:  # what `resized` assigned in the scope
            value = scope.get_current_value(variable)
            if value is not None and not any(variable is new for new, _ in tables):
                variable.assign(value)
        return features

    return call


def has_position_tables(backbone: keras.Model, image_size: int) -> bool:
    """Whether some weight of `backbone` would have another shape at another image size.

    Raises:
        ValueError: The architecture does not support the image size.
    """
    with without_values():
        resized = keras.saving.deserialize_keras_object(
            json.loads(_rewritten_json(backbone, image_size))
        )
    _check_same_weights(backbone, resized, image_size)
    pairs = zip(backbone.weights, resized.weights, strict=True)
    return any(old.shape != new.shape for old, new in pairs)


def _rewritten_json(
    backbone: keras.Model, image_size: int | None = None, policy: dict | None = None
) -> str:
    size = image_size if image_size != backbone.input_shape[1] else None
    return json.dumps(_rewrite(json.loads(to_json(backbone)), size, policy))


def _check_same_weights(backbone: keras.Model, copy: keras.Model, image_size: int | None) -> None:
    if len(copy.weights) != len(backbone.weights):
        raise ValueError(f"the number of its weights changes with image size {image_size}")


def resize_position_embedding(
    table: tf.Tensor, num_tokens: int, antialias: bool = True
) -> tf.Tensor:
    """Resizes position embeddings by bicubic interpolation over their square grid.

    The interpolation is a product with constant matrices, since XLA, and with it a TPU, has no
    kernel for TensorFlow's bicubic resize. Tokens before the grid (class token, registers,
    distillation token) keep their embeddings. Gradients pass through.

    Args:
        table: `[..., N, D]`, N = tokens before the grid + side * side.
        num_tokens: The new N, with the same number of tokens before the grid.
        antialias: Whether the grid is low-pass filtered before it shrinks.

    Returns:
        `[..., num_tokens, D]` with the dtype of `table`; `table` itself if N is `num_tokens`.

    Raises:
        ValueError: The numbers of tokens do not differ by square grids.
    """
    *_, old_tokens, dim = table.shape
    if old_tokens == num_tokens:
        return table
    side, new_side = math.isqrt(old_tokens), math.isqrt(num_tokens)
    prefix = old_tokens - side * side
    if prefix != num_tokens - new_side * new_side:
        raise ValueError(
            f"{old_tokens} position embeddings cannot become {num_tokens}: not square grids"
        )
    rows = tf.reshape(table, [-1, old_tokens, dim])
    grid = tf.reshape(tf.cast(rows[:, prefix:], tf.float32), [-1, side, side, dim])
    matrix = tf.constant(interpolation_matrix(side, new_side, antialias))
    grid = tf.einsum("im,jn,bmnd->bijd", matrix, matrix, grid)
    grid = tf.cast(tf.reshape(grid, [-1, new_side * new_side, dim]), rows.dtype)
    resized = tf.concat([rows[:, :prefix], grid], axis=1)
    return tf.reshape(resized, [*table.shape[:-2], num_tokens, dim])


@functools.cache
def interpolation_matrix(
    side: int, new_side: int, antialias: bool, method: str = "bicubic"
) -> np.ndarray:
    """`[new_side, side]` float32: the interpolation of a line is linear in its values."""
    with tf.init_scope(), tf.device("CPU"):
        lines = tf.reshape(tf.eye(side), [1, side, 1, side])
        lines = tf.image.resize(lines, [new_side, 1], method, antialias=antialias)
        return lines.numpy().reshape(new_side, side)


def _uses_antialiasing(text: str) -> bool:
    """Whether the architecture resizes positions with antialiasing; only DINOv2 states it."""
    return '"antialias_in_interpolation": false' not in text


def _fit_weight(weight: keras.Variable, shape: tuple[int, ...], antialias: bool) -> np.ndarray:
    """The value of a weight in another `shape`; only weights about positions may differ."""
    if has_value(weight):
        value = keras.ops.convert_to_numpy(weight)
    else:  # only its shape is checked
        value = np.broadcast_to(np.zeros((), weight.dtype), weight.shape)
    if value.shape == tuple(shape):
        return value
    if value.ndim == 2 and value.shape[0] == 1 and value.dtype.kind == "i":  # position ids
        return np.arange(shape[1], dtype=value.dtype)[None]
    if value.ndim in (2, 3) and "position" in weight.path and value.shape[-1] == shape[-1]:
        return np.asarray(resize_position_embedding(value, shape[-2], antialias))
    raise ValueError(f"its weight {weight.path} {value.shape} would have to become {tuple(shape)}")


def _rewrite(value: Any, size: int | None, policy: dict | None) -> Any:
    """Changes image size and precision in a serialized model."""
    if isinstance(value, list):
        return [_rewrite(item, size, policy) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") in _ALWAYS_FLOAT32:
        policy = None
    return {k: _rewrite_entry(k, v, size, policy) for k, v in value.items() if k not in _BUILT}


def _rewrite_entry(key: str, value: Any, size: int | None, policy: dict | None) -> Any:
    if policy and key == "dtype" and isinstance(value, dict):
        return policy
    if size and key == "batch_shape" and isinstance(value, list) and len(value) == 4:
        side = size if value[3] == 3 else None  # None: feature maps inside
        return [value[0], side, side, value[3]]
    if size and key in ("image_shape", "input_shape", "position_embedding_shape") and value:
        return [size, size, *value[2:]]
    if size and key == "image_size" and value:
        return [size, size] if isinstance(value, list) else size
    return _rewrite(value, size, policy)


def _rematerialize(backbone: keras.Model) -> None:
    """Makes every block of `backbone` keep only its input while training.

    `keras.RematScope` cannot be used: in a `tf.function` it fails for layers that are called with
    keyword arguments, as KerasHub's blocks are (keras-team/keras#21207).

    Raises:
        ValueError: The blocks are not layers, or have dropout, which would differ when recomputed.
    """
    names = block_names(backbone)
    if not names:
        raise ValueError("gradient checkpointing (remat) needs a transformer backbone")
    for layer in flatten_layers(backbone):
        if getattr(layer, "rate", 0):
            raise ValueError(f"gradient checkpointing (remat) cannot have dropout ({layer.rate})")
    for layer in flatten_layers(backbone):
        if layer.name in names:
            layer.call = _recomputing(layer.call)
    backbone.is_rematerialized = True


def _recomputing(call: Callable) -> Callable:
    @functools.wraps(call)
    def recomputing(first: tf.Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(first, keras.KerasTensor):
            return call(first, *args, **kwargs)
        outputs = []

        def output_tensors(x: tf.Tensor) -> list[tf.Tensor]:
            outputs.append(call(x, *args, **kwargs))
            return [output for output in tf.nest.flatten(outputs[-1]) if output is not None]

        tensors = iter(tf.recompute_grad(output_tensors)(first))
        return tf.nest.map_structure(lambda x: None if x is None else next(tensors), outputs[0])

    return recomputing
