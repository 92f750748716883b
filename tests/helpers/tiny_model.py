"""A small embedding model with enough structure to tell images apart, and its export."""

import keras
import numpy as np

from universal_embedding.export.zip_archive import write_submission
from universal_embedding.models.embedding_model import EmbeddingModel


def build_model(embedding_dim=64, image_size=32, resize_mode="squash", seed=0):
    """An `EmbeddingModel` with random weights that are a function of `seed`."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input([image_size, image_size, 3])
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.Conv2D(16, 5, strides=2, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(48, 3, strides=2, activation="gelu")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Dropout(0.2)(x))
    return EmbeddingModel(keras.Model(inputs, x), embedding_dim, image_size, resize_mode)


def draw_image(height, width, seed=0):
    """`[H, W, 3]` uint8 with coarse structure, so that resizing keeps something of it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, [7, 7, 3])
    rows = np.linspace(0, 6.99, height).astype(int)
    return coarse[rows][:, np.linspace(0, 6.99, width).astype(int)].astype(np.uint8)


def export_tiny_model(folder):
    """Exports `build_model()` into `folder`; (zip, SavedModel directory)."""
    write_submission(build_model(), folder / "submission.zip", folder / "saved_model")
    return folder / "submission.zip", folder / "saved_model"
