"""From what a person writes (`--backbone=...`) to a Keras model of features."""

from pathlib import Path

import keras

from universal_embedding.errors import UserError
from universal_embedding.models.backbones import applications, keras_file


def load_backbone(
    spec: str, image_size: int = 224, *, pooling: str | None = None, pretrained: bool = True
) -> keras.Model:
    """Loads a backbone with its pretrained weights.

    Args:
        spec: `small` (the package's own small network, untrained), a Keras file (`*.keras`,
            `*.h5`), or the name of a model of `keras.applications` (`EfficientNetV2B0`).
        image_size: S, the side of the pictures in pixels.
        pooling: `mean` or `gem` over positions; None is the backbone's own default.
        pretrained: False leaves the weights at their random initial values.

    Returns:
        A model `[B, S, S, 3]` float32 in 0..255 -> `[B, F]`, which normalises its input itself.

    Raises:
        UserError: `spec` cannot be found or fetched, or is no model of pictures.
    """
    if spec == "small":
        from universal_embedding.models.small_network import small_network

        return small_network(image_size)
    if Path(spec).suffix in (".keras", ".h5"):
        return keras_file.load(Path(spec), image_size, pooling)
    if spec in applications.names():
        return applications.load(spec, image_size, pooling, pretrained)
    raise UserError(
        f"backbone {spec!r} is none of: 'small', a Keras file (*.keras), "
        "a model of keras.applications (EfficientNetV2B0)"
    )
