"""Models of `keras.applications`, by name."""

from collections.abc import Callable

import keras
import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.models.backbones.layers import Normalize, pool


def list_applications() -> list[str]:
    """Lists the models of `keras.applications`: capitalized names that are functions."""
    members = vars(keras.applications).items()
    return sorted(name for name, value in members if name[0].isupper() and callable(value))


def load_application(
    name: str, image_size: int, pooling: str | None, pretrained: bool
) -> keras.Model:
    """Loads a model without its classifier; ImageNet weights unless `pretrained` is False.

    Raises:
        UserError: The weights cannot be loaded, or the model cannot have this image size.
    """
    build = getattr(keras.applications, name)
    weights = "imagenet" if pretrained else None
    try:
        tower = build(include_top=False, weights=weights, input_shape=(image_size, image_size, 3))
    except Exception as error:
        raise UserError(
            f"backbone {name!r} of keras.applications cannot be loaded at image size {image_size}: "
            f"{error}; without a network, put its weights where Keras keeps them "
            "(~/.keras/models), or choose another backbone or size"
        ) from error
    images = keras.Input((image_size, image_size, 3), name="image")
    features = tower(_normalization(build)(images))
    return keras.Model(images, pool(features, pooling, 0, name), name="backbone")


def _normalization(build: Callable[..., keras.Model]) -> Normalize:
    """The model's own `preprocess_input` as a layer, measured on pure colors."""
    module = getattr(keras.applications, build.__module__.rpartition(".")[2])
    black, red, white = ((0, 0, 0), (255, 0, 0), (255, 255, 255))
    colors = np.array([black, red, white], "float32")[:, None, None]
    outputs = np.asarray(module.preprocess_input(colors.copy()), "float64")[:, 0, 0]
    offset, red_output, white_output = outputs
    bgr = bool(red_output[0] == offset[0])
    return Normalize(
        ((white_output - offset) / 255).tolist(), offset.tolist(), bgr, name="normalize"
    )
