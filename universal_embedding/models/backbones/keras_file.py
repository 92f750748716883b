"""Any Keras model file that maps pictures to features."""

from pathlib import Path

import keras

from universal_embedding.errors import UserError
from universal_embedding.models.backbones.pooling import pool


def load(path: Path, image_size: int, pooling: str | None) -> keras.Model:
    """Loads `path`; a map of features is pooled, one vector is taken as it is."""
    if not path.is_file():
        raise UserError(f"backbone file {path} does not exist; give the path of a Keras model file")
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise UserError(
            f"backbone file {path} is not a Keras model that can be loaded ({error}); "
            "write it with keras' model.save('name.keras')"
        ) from error
    takes = getattr(model, "input_shape", None)
    if not isinstance(takes, tuple) or len(takes) != 4 or takes[-1] != 3:
        raise UserError(
            f"backbone file {path} takes {takes}; it must take one batch of pictures [B, S, S, 3]"
        )
    if takes[1:3] not in ((image_size, image_size), (None, None)):
        raise UserError(
            f"backbone file {path} takes pictures of {takes[1]} x {takes[2]}, not the image size "
            f"{image_size}; set the image size to {takes[1]}"
        )
    rank = len(model.output_shape)
    if rank == 2 and pooling:
        raise UserError(
            f"pooling is {pooling!r}, but backbone file {path} gives one vector for each picture; "
            "leave pooling out"
        )
    if rank not in (2, 3, 4):
        raise UserError(
            f"backbone file {path} gives {model.output_shape}; it must give features "
            "[B, F], [B, N, F] or [B, H, W, F]"
        )
    images = keras.Input((image_size, image_size, 3), name="image")
    features = model(images)
    return keras.Model(images, features if rank == 2 else pool(features, pooling), name="backbone")
