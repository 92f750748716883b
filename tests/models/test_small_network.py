"""The small network: shapes, and independence of the rest of the batch."""

import keras
import numpy as np
import pytest

from universal_embedding.models.small_network import small_network


@pytest.mark.parametrize("size", [64, 80])
def test_features(size):
    network = small_network(size)
    images = np.random.default_rng(0).uniform(0, 255, (3, size, size, 3)).astype(np.float32)
    features = network(images).numpy()
    assert features.shape == (3, network.output_shape[-1])
    assert np.isfinite(features).all() and features.std(0).max() > 0
    assert network.count_params() < 1_000_000


def test_a_picture_s_features_do_not_depend_on_its_batch():
    network = small_network(64)
    images = np.random.default_rng(1).uniform(0, 255, (4, 64, 64, 3)).astype(np.float32)
    alone = network(images[:1], training=True).numpy()
    together = network(images, training=True).numpy()[:1]
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(alone, network(images[:1], training=False).numpy(), atol=1e-6)


def test_saving(tmp_path):
    network = small_network(32)
    network.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    images = np.full((1, 32, 32, 3), 90.0, np.float32)
    np.testing.assert_allclose(network(images), again(images), atol=1e-6)


def test_too_small_a_picture():
    with pytest.raises(ValueError, match="16"):
        small_network(16)
