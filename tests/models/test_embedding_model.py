"""Tests of the embedding model: unit rows, resizing inside, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.input.resizing import resize
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return EmbeddingModel(load_backbone("MobileNetV2", 64, pretrained=False), 16, image_size=64)


def test_rows_are_unit_for_any_image_size_and_dtype(model):
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 90, 3), dtype="uint8")
    embeddings = model(images)
    assert embeddings.shape == (3, 16)
    assert embeddings.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(model(images.astype("float32")), embeddings, atol=1e-6)


@pytest.mark.parametrize("resize_mode", ["squash", "crop", "pad"])
def test_images_are_resized_inside_the_model(model, resize_mode):
    images = np.random.default_rng(0).integers(0, 256, (2, 90, 50, 3), dtype="uint8")
    bare = EmbeddingModel(model.backbone, None, image_size=64, resize_mode=resize_mode)
    np.testing.assert_array_equal(bare(images), bare(resize(images, 64, resize_mode)))


def test_gradient_is_that_of_the_unit_vector(model):
    features = tf.random.stateless_normal((2, 1280), (0, 0))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(features)
        value = model.embed_features(features)[:, 0]
        expected = tf.math.l2_normalize(model.projection(features), axis=-1)[:, 0]
    actual_gradient = tape.gradient(value, features)
    expected_gradient = tape.gradient(expected, features)
    np.testing.assert_allclose(actual_gradient, expected_gradient, rtol=1e-4, atol=1e-7)


def test_embeddings_survive_saving_and_loading(model, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype="uint8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    assert loaded.get_config().keys() == model.get_config().keys()


def test_output_is_the_features_without_projection(model):
    bare = EmbeddingModel(model.backbone, embedding_dim=None, image_size=64)
    assert bare(np.zeros((1, 64, 64, 3), "float32")).shape == (1, 1280)
    assert (bare.output_dim, model.output_dim) == (1280, 16)


def test_projection_with_bias_is_of_unit_features(model, tmp_path):
    biased = EmbeddingModel(model.backbone, 8, image_size=64, projection_bias=True)
    rng = np.random.default_rng(0)
    biased.projection.bias.assign(rng.normal(size=8))
    features = rng.normal(size=(3, 1280)).astype("float32")
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    rows = rows @ biased.projection.kernel.numpy() + biased.projection.bias.numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(biased.embed_features(features), rows, atol=1e-5)
    biased.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.embed_features(features), biased.embed_features(features))


def test_zero_features_give_zeros_not_nan(model):
    embeddings = model.embed_features(tf.zeros((2, 1280)))
    np.testing.assert_array_equal(embeddings, np.zeros((2, 16)))
