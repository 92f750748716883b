"""The embedder: unit rows, resizing inside, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.input.resizing import resize
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedder import Embedder


@pytest.fixture(scope="module")
def embedder():
    keras.utils.set_random_seed(0)
    return Embedder(load_backbone("MobileNetV2", 64, pretrained=False), 16, image_size=64)


def test_unit_rows_from_any_size_and_dtype(embedder):
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 90, 3), dtype="uint8")
    embeddings = embedder(images)
    assert embeddings.shape == (3, 16)
    assert embeddings.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(embedder(images.astype("float32")), embeddings, atol=1e-6)


@pytest.mark.parametrize("aspect", ["squash", "crop", "pad"])
def test_resizing_is_inside(embedder, aspect):
    images = np.random.default_rng(0).integers(0, 256, (2, 90, 50, 3), dtype="uint8")
    whole = Embedder(embedder.backbone, None, image_size=64, aspect=aspect)
    np.testing.assert_array_equal(whole(images), whole(resize(images, 64, aspect)))


def test_gradient_is_that_of_the_unit_vector(embedder):
    features = tf.random.stateless_normal((2, 1280), (0, 0))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(features)
        found = embedder.embed_features(features)[:, 0]
        expected = tf.math.l2_normalize(embedder.projection(features), axis=-1)[:, 0]
    one, other = tape.gradient(found, features), tape.gradient(expected, features)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


def test_saved_and_loaded(embedder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype="uint8")
    embedder.save(tmp_path / "embedder.keras")
    loaded = keras.saving.load_model(tmp_path / "embedder.keras")
    np.testing.assert_array_equal(loaded(images), embedder(images))
    assert loaded.get_config().keys() == embedder.get_config().keys()


def test_without_projection_gives_features(embedder):
    plain = Embedder(embedder.backbone, dimension=None, image_size=64)
    assert plain(np.zeros((1, 64, 64, 3), "float32")).shape == (1, 1280)


def test_zero_features_give_zeros_not_nan(embedder):
    embeddings = embedder.embed_features(tf.zeros((2, 1280)))
    np.testing.assert_array_equal(embeddings, np.zeros((2, 16)))
