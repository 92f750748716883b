"""Joined backbones, against each of them called alone on images that TensorFlow resized."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.tiny_presets import make_tiny_model
from universal_embedding.errors import UserError
from universal_embedding.input.resizing import resize
from universal_embedding.models.backbones import (
    FusedBackbone,
    from_json,
    load_backbone,
    rebuild,
    resize_backbone,
    to_json,
)
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.models.standardization import Standardization


def convolution(size, seed, dim=5):
    keras.utils.set_random_seed(seed)
    images = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 128, -1)(images)
    x = keras.layers.Conv2D(dim, 3, strides=2, activation="relu")(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """A network of 20 pixels, and a transformer of 32 that is used at 48."""
    folder = tmp_path_factory.mktemp("towers")
    convolution(20, 1).save(folder / "a.keras")
    make_tiny_model("ViTBackbone").save_to_preset(str(folder / "vit"))
    return f"{folder / 'a.keras'}+{folder / 'vit'}@48"


@pytest.fixture(scope="module")
def fused(spec):
    return load_backbone(spec, 24, keep_positions=True)


def make_images(size):
    return np.random.default_rng(0).uniform(0, 255, (3, size, size, 3)).astype(np.float32)


def features_one_by_one(spec, images, sizes):
    names = [name.split("@")[0] for name in spec.split("+")]
    towers = [load_backbone(name, size) for name, size in zip(names, sizes, strict=True)]
    parts = [t(resize(images, s)) for t, s in zip(towers, sizes, strict=True)]
    return np.concatenate(parts, axis=1)


def test_features_are_those_of_each_backbone_at_its_own_size(spec, fused):
    images = make_images(24)
    expected = features_one_by_one(spec, images, (20, 48))
    np.testing.assert_allclose(fused(images), expected, atol=2e-5)
    assert fused.tower_sizes == [20, 48] and fused.input_shape == (None, 24, 24, 3)
    assert fused.output_shape == expected[0][None].shape[:0] + (None, expected.shape[1])
    for index, part in enumerate(np.split(expected, [fused.feature_dims[0]], axis=1)):
        np.testing.assert_allclose(fused.call_tower(index, images), part, atol=2e-5)


def test_all_backbones_follow_the_size_of_the_images(spec, fused):
    resized = resize_backbone(fused, 48)  # twice as large
    images = make_images(48)
    assert resize_backbone(fused, 24) is fused
    expected = features_one_by_one(spec, images, (40, 96))
    np.testing.assert_allclose(resized(images), expected, atol=2e-5)
    np.testing.assert_allclose(rebuild(fused, 48)(images), expected, atol=2e-5)


def test_json_keeps_the_architecture(fused):
    copy = from_json(to_json(fused))
    assert isinstance(copy, FusedBackbone)
    copy.set_weights(fused.get_weights())
    np.testing.assert_array_equal(copy(make_images(24)), fused(make_images(24)))


def test_keras_file_keeps_the_model(fused, tmp_path):
    model = EmbeddingModel(fused, 4, 24, standardize=True, feature_power=0.5)
    dim = fused.output_shape[-1]
    fit(model.standardization, np.random.default_rng(0).gamma(1, 2, (9, dim)))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    images = make_images(30)
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)
    assert loaded.standardization.is_fitted


@pytest.mark.slow
def test_gradients_reach_every_backbone_through_xla(fused):
    weights = [variable.value for variable in fused.trainable_variables]

    @tf.function(jit_compile=True)
    def gradients(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(fused(images) ** 2)
        return tape.gradient(loss, weights, unconnected_gradients="zero")

    sizes = [float(tf.norm(gradient)) for gradient in gradients(make_images(24))]
    assert sizes[0] > 0 and sum(size > 0 for size in sizes) > 0.8 * len(sizes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("small+", "backbone ''"),
        ("small+small@0", "image size of 0"),
        ("small+nothing.keras", "does not exist"),
    ],
)
def test_wrong_names_are_one_line(wrong, message):
    with pytest.raises(UserError, match=message):
        load_backbone(wrong, 32)


def test_a_plus_in_the_name_of_a_file_joins_nothing(tmp_path):
    path = tmp_path / "a+b.keras"
    convolution(16, 0).save(path)
    assert not isinstance(load_backbone(str(path), 16), FusedBackbone)


def fit(layer, features):
    layer.fit(lambda function: np.mean(function(features), axis=0), len(features))


def make_features():
    """Features of three backbones: signed, small, constant."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(5, 3, (500, 4)), rng.normal(-1, 0.01, (500, 6)), np.full((500, 2), 7.0)]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_standardized_features_of_each_backbone_have_mean_0_and_length_1(power):
    features, layer = make_features(), Standardization([4, 6, 2], power)
    assert not layer.is_fitted
    fit(layer, features)
    parts = np.split(np.asarray(layer(features), np.float64), [4, 10], axis=1)
    for part in parts[:2]:
        np.testing.assert_allclose(part.mean(0), 0, atol=1e-4)
        assert np.square(part).sum(1).mean() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(parts[2], 0, atol=1e-6)  # constant features
    assert layer.is_fitted and not layer.trainable_variables


def test_features_have_one_scale_by_backbone():
    features, layer = make_features(), Standardization([4, 8])
    np.testing.assert_allclose(layer(features), features, rtol=1e-6)
    fit(layer, features)
    for part in (slice(4), slice(4, None)):
        rows = features[:, part] - features[:, part].mean(0)
        expected = rows / np.sqrt(np.square(rows).sum(1).mean())
        np.testing.assert_allclose(layer(features)[:, part], expected, atol=1e-5)


def test_power_is_signed_and_does_not_depend_on_the_scale():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5))
    small, large = Standardization([5], 0.5), Standardization([5], 0.5)
    fit(small, features)
    fit(large, 1000 * features)
    np.testing.assert_allclose(small(features), large(1000 * features), atol=1e-5)
    scaled = features / np.sqrt(np.square(features).mean())
    expected = np.sign(scaled) * (np.sqrt(np.abs(scaled) + 0.01) - 0.1)
    np.testing.assert_allclose(small.temper(features), expected, atol=1e-5)
    zeros = tf.Variable(tf.zeros([1, 5]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(small(tf.nn.relu(zeros)))
    assert np.isfinite(tape.gradient(loss, zeros)).all()
