"""Tests of the small network: shapes, and independence of the rest of the batch."""

import keras
import numpy as np
import pytest

from universal_embedding.models.small_network import small_network


@pytest.mark.parametrize("size", [64, 80])
def test_features_are_finite_and_differ_between_images(size):
    network = small_network(size)
    images = np.random.default_rng(0).uniform(0, 255, (3, size, size, 3)).astype(np.float32)
    features = network(images).numpy()
    assert features.shape == (3, network.output_shape[-1])
    assert np.isfinite(features).all() and features.std(0).max() > 0
    assert network.count_params() < 1_000_000


def test_features_do_not_depend_on_the_rest_of_the_batch():
    network = small_network(64)
    images = np.random.default_rng(1).uniform(0, 255, (4, 64, 64, 3)).astype(np.float32)
    single = network(images[:1], training=True).numpy()
    batched = network(images, training=True).numpy()[:1]
    np.testing.assert_allclose(single, batched, atol=1e-5)
    np.testing.assert_allclose(single, network(images[:1], training=False).numpy(), atol=1e-6)


def test_features_survive_saving_and_loading(tmp_path):
    network = small_network(32)
    network.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    images = np.full((1, 32, 32, 3), 90.0, np.float32)
    np.testing.assert_allclose(network(images), loaded(images), atol=1e-6)


def test_image_size_below_32_is_an_error():
    with pytest.raises(ValueError, match="16"):
        small_network(16)
