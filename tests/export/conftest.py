"""A small embedder with structure enough to be told apart from its neighbours."""

import keras
import numpy as np
import pytest

from universal_embedding.export import submission
from universal_embedding.models.embedder import Embedder


def build_embedder(dimension=64, image_size=32, aspect="squash", seed=0) -> Embedder:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input([image_size, image_size, 3])
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.Conv2D(16, 5, strides=2, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(48, 3, strides=2, activation="gelu")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Dropout(0.2)(x))
    return Embedder(keras.Model(inputs, x), dimension, image_size, aspect, dropout=0.1)


def draw_picture(height, width, seed=0):
    """`[H, W, 3]` uint8 with coarse structure, so that resizing keeps something of it."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, [7, 7, 3])
    rows = np.linspace(0, 6.99, height).astype(int)
    return coarse[rows][:, np.linspace(0, 6.99, width).astype(int)].astype(np.uint8)


@pytest.fixture(scope="session")
def embedder():
    return build_embedder()


@pytest.fixture(scope="session")
def exported(embedder, tmp_path_factory):
    """`(zip, directory)` of the embedder."""
    folder = tmp_path_factory.mktemp("exported")
    submission.write(embedder, folder / "submission.zip", folder / "saved_model")
    return folder / "submission.zip", folder / "saved_model"


@pytest.fixture(scope="session")
def tiny_embedder():
    """Builds embedders: `tiny_embedder(dimension, image_size, aspect, seed)`."""
    return build_embedder


@pytest.fixture(scope="session")
def picture():
    """Draws pictures: `picture(height, width, seed)`."""
    return draw_picture
