"""A backbone as JSON, without weights: to build it again when its preset or file is gone, for
another picture size, in another precision.
"""

import json

import keras
import numpy as np

from universal_embedding.models.backbones import normalization, pooling, remedies  # noqa: F401
from universal_embedding.models.backbones.positions import resize_positions
from universal_embedding.models.backbones.remat import rematerialize

_BUILT = ("build_config", "build_input_shape")  # shapes that layers had: they are built anew
_ALWAYS_FLOAT32 = ("Rescaling", "Normalization", "Normalize")


def to_json(backbone: keras.Model) -> str:
    """The architecture of a backbone as text: picture size and precision, but no weights."""
    return json.dumps(keras.saving.serialize_keras_object(backbone))


def antialiased(text: str) -> bool:
    """Whether positions of the architecture are resized with antialiasing; DINOv2 says if not."""
    return '"antialias_in_interpolation": false' not in text


def from_json(text: str, remat: bool = False) -> keras.Model:
    """Builds what `to_json` described, with fresh weights; needs no preset and no other file.

    Args:
        text: From `to_json`.
        remat: Whether each block's activations are computed again in the backward pass instead
            of kept (gradient checkpointing). It is not part of the architecture.

    Raises:
        ValueError: `remat` is asked of a backbone whose blocks are no layers of their own.
    """
    backbone = keras.saving.deserialize_keras_object(json.loads(text))
    remedies.apply(backbone)
    if remat:
        rematerialize(backbone)
    return backbone


def rebuild(
    backbone: keras.Model,
    image_size: int | None = None,
    dtype: str | keras.DTypePolicy | None = None,
    remat: bool = False,
) -> keras.Model:
    """A copy of `backbone`, weights included, for another picture size or precision.

    Learned position embeddings are resized; every other weight is copied unchanged.

    Args:
        backbone: A functional model of pictures.
        image_size: Side of the pictures in pixels; None keeps it.
        dtype: A Keras dtype policy or its name (`mixed_bfloat16`); None keeps it.
        remat: See `from_json`.

    Raises:
        ValueError: The architecture does not take such pictures, or cannot `remat`.
    """
    policy = dtype and keras.saving.serialize_keras_object(keras.dtype_policies.get(dtype))
    resized = image_size and image_size != backbone.input_shape[1]
    config = _rewrite(json.loads(to_json(backbone)), image_size if resized else None, policy)
    text = json.dumps(config)
    copy = from_json(text, remat)
    antialias = antialiased(text)
    if len(copy.weights) != len(backbone.weights):
        raise ValueError(f"its weights change in number with the picture size {image_size}")
    for old, new in zip(backbone.weights, copy.weights, strict=True):
        new.assign(_fitted(old, new.shape, antialias))
    return copy


def _fitted(weight: keras.Variable, shape: tuple[int, ...], antialias: bool) -> np.ndarray:
    """The value of a weight for a place of `shape`; what differs must be about positions."""
    value = keras.ops.convert_to_numpy(weight)
    if value.shape == tuple(shape):
        return value
    if value.ndim == 2 and value.shape[0] == 1 and value.dtype.kind == "i":  # position numbers
        return np.arange(shape[1], dtype=value.dtype)[None]
    if value.ndim in (2, 3) and "position" in weight.path and value.shape[-1] == shape[-1]:
        return np.asarray(resize_positions(value, shape[-2], antialias))
    raise ValueError(f"its weight {weight.path} {value.shape} would have to become {tuple(shape)}")


def _rewrite(value: object, size: int | None, policy: dict | None) -> object:
    """Another picture size and precision for a serialised model."""
    if isinstance(value, list):
        return [_rewrite(item, size, policy) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") in _ALWAYS_FLOAT32:
        policy = None
    return {k: _entry(k, v, size, policy) for k, v in value.items() if k not in _BUILT}


def _entry(key: str, value: object, size: int | None, policy: dict | None) -> object:
    if policy and key == "dtype" and isinstance(value, dict):
        return policy
    if size and key == "batch_shape" and isinstance(value, list) and len(value) == 4:
        side = size if value[3] == 3 else None  # None: maps of features within
        return [value[0], side, side, value[3]]
    if size and key in ("image_shape", "input_shape", "position_embedding_shape") and value:
        return [size, size, *value[2:]]
    if size and key == "image_size" and value:
        return [size, size] if isinstance(value, list) else size
    return _rewrite(value, size, policy)
