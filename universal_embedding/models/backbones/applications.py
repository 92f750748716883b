"""Models of `keras.applications`, by name."""

import sys

import keras
import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.models.backbones.normalization import Normalize
from universal_embedding.models.backbones.pooling import pool


def names() -> list[str]:
    """The models of `keras.applications`: names in capitals that are functions."""
    found = vars(keras.applications).items()
    return sorted(name for name, value in found if name[0].isupper() and callable(value))


def load(name: str, image_size: int, pooling: str | None, pretrained: bool) -> keras.Model:
    """Loads the model without its classifier, ImageNet weights unless `pretrained` is False."""
    build = getattr(keras.applications, name)
    weights = "imagenet" if pretrained else None
    try:
        tower = build(include_top=False, weights=weights, input_shape=(image_size, image_size, 3))
    except Exception as error:
        raise UserError(
            f"backbone {name!r} of keras.applications at picture size {image_size} cannot be "
            f"loaded: {error}; without a network, put its weights where Keras keeps them "
            "(~/.keras/models), or give another backbone or size"
        ) from error
    images = keras.Input((image_size, image_size, 3), name="image")
    features = tower(_normalization(build)(images))
    return keras.Model(images, pool(features, pooling, 0, name), name="backbone")


def _normalization(build: object) -> Normalize:
    """What the model's own `preprocess_input` does, found by giving it pure colours."""
    preprocess = sys.modules[build.__module__].preprocess_input
    black, red, white = ((0, 0, 0), (255, 0, 0), (255, 255, 255))
    colours = np.array([black, red, white], "float32")[:, None, None]
    offset, of_red, of_white = np.asarray(preprocess(colours.copy()), "float64")[:, 0, 0]
    bgr = bool(of_red[0] == offset[0])
    return Normalize(((of_white - offset) / 255).tolist(), offset.tolist(), bgr, name="normalize")
