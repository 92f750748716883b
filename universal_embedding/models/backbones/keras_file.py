"""Any Keras model file that maps pictures to features."""

from pathlib import Path

import keras

from universal_embedding.errors import UserError
from universal_embedding.models.backbones.pooling import pool


def load(path: Path, image_size: int, pooling: str | None) -> keras.Model:
    """Loads `path` at its own picture size; a map of features is pooled, a vector is not."""
    if not path.is_file():
        raise UserError(f"backbone file {path} does not exist; give the path of a Keras model file")
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise UserError(
            f"backbone file {path} is not a Keras model that can be loaded ({error}); "
            "write it with keras' model.save('name.keras')"
        ) from error
    shape, gives = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] != 3:
        raise UserError(
            f"backbone file {path} takes {shape}; it must take one batch of pictures [B, S, S, 3]"
        )
    if not isinstance(gives, tuple) or len(gives) not in (2, 3, 4):
        raise UserError(
            f"backbone file {path} gives {gives}; it must give features "
            "[B, F], [B, N, F] or [B, H, W, F]"
        )
    size = shape[1] or image_size
    images = keras.Input((size, size, 3), name="image")
    features = model(images)
    if len(gives) != 2 or pooling:
        features = pool(features, pooling, 0, str(path))
    return keras.Model(images, features, name="backbone")
