"""Tests of one set of weights at several image sizes, against backbones rebuilt for each size."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.fake_tpu import count_ops
from tests.helpers.tiny_presets import SIZE, make_tiny_model
from universal_embedding.models.backbones import load_backbone, rebuild, resize_backbone

NEW_SIZE = 48  # pixels: a 6 x 6 grid instead of 4 x 4


@pytest.fixture(scope="module", params=["ViTBackbone", "DINOV2Backbone"])
def backbone(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("preset") / request.param)
    make_tiny_model(request.param).save_to_preset(folder)
    return load_backbone(folder, SIZE)


def make_images(size):
    return np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)


def test_features_equal_those_of_a_backbone_rebuilt_at_that_size(backbone):
    resized, rebuilt = resize_backbone(backbone, NEW_SIZE), rebuild(backbone, NEW_SIZE)
    images = make_images(NEW_SIZE)
    np.testing.assert_allclose(resized(images), rebuilt(images), atol=1e-5)


def test_features_follow_the_weights_as_they_train(backbone):
    resized = resize_backbone(backbone, NEW_SIZE)
    initial_weights = backbone.get_weights()
    positions = _positions(backbone)
    wave = np.sin(np.arange(np.prod(positions.shape), dtype=np.float32))
    positions.assign(positions + 0.3 * wave.reshape(positions.shape))
    try:
        actual = np.asarray(resized(make_images(NEW_SIZE)))
        expected = np.asarray(rebuild(backbone, NEW_SIZE)(make_images(NEW_SIZE)))
    finally:
        backbone.set_weights(initial_weights)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.abs(actual - resized(make_images(NEW_SIZE))).max() > 1e-3


def test_gradients_reach_every_weight_of_the_backbone(backbone):
    resized = resize_backbone(backbone, NEW_SIZE)
    weights = [variable.value for variable in backbone.trainable_variables]
    target = tf.random.stateless_normal([2, backbone.output_shape[-1]], [0, 0])

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(resized(tf.constant(make_images(NEW_SIZE))) * target)
        return tape.gradient(loss, weights)

    paths = [variable.path for variable in backbone.trainable_variables]
    actual = dict(zip(paths, gradients(), strict=True))
    native = dict(zip(paths, _native_gradients(backbone, target), strict=True))
    # Weights that the backbone itself does not use (a mask token) have no gradient; all others do.
    missing = [path for path, g in actual.items() if g is None and native[path] is not None]
    assert not missing
    assert np.abs(actual[_positions(backbone).path]).max() > 0


def test_gradient_of_positions_matches_finite_differences(backbone):
    resized, positions = resize_backbone(backbone, NEW_SIZE), _positions(backbone)
    target = tf.random.stateless_normal([2, backbone.output_shape[-1]], [0, 0])
    direction = np.random.default_rng(1).normal(size=positions.shape).astype(np.float32)

    def loss():
        return tf.reduce_sum(resized(tf.constant(make_images(NEW_SIZE))) * target)

    with tf.GradientTape() as tape:
        value = loss()
    slope = float(tf.reduce_sum(tape.gradient(value, positions.value) * direction))
    start, step = positions.numpy(), 1e-2
    values = []
    for sign in (1, -1):
        positions.assign(start + sign * step * direction)
        values.append(float(loss()))
    positions.assign(start)
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-2, abs=1e-3)


def test_native_size_is_the_backbone_itself(backbone):
    assert resize_backbone(backbone, SIZE) is backbone


def test_batch_norm_updates_its_statistics_as_at_the_native_size():
    def make(size):
        keras.utils.set_random_seed(0)
        images = keras.Input((size, size, 3))
        maps = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(images))
        return keras.Model(images, keras.layers.GlobalAveragePooling2D()(maps))

    model, expected = make(16), make(24)
    initial_weights = expected.get_weights()
    resized = resize_backbone(model, 24)
    np.testing.assert_allclose(
        resized(make_images(24), training=True), expected(make_images(24), training=True), atol=1e-6
    )
    for actual, new in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(actual, new, rtol=1e-6)
    assert np.abs(expected.get_weights()[-1] - initial_weights[-1]).max() > 0.01
    resized(make_images(24), training=False)
    np.testing.assert_array_equal(model.get_weights()[-1], actual)


def test_another_size_needs_no_variables(backbone):
    """Also not later: Keras initializes pending variables when a scope of its own ends."""
    before = live_variables()
    resized = resize_backbone(backbone, NEW_SIZE)
    keras.Model(backbone.input, keras.layers.Dense(3)(backbone.output))  # + kernel and bias
    resized(make_images(NEW_SIZE))
    assert len(live_variables() - before) <= 2


def test_xla_compiles_another_size_with_its_gradients(backbone):
    resized, positions = resize_backbone(backbone, NEW_SIZE), _positions(backbone)
    images = tf.constant(make_images(NEW_SIZE))

    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(resized(images) ** 2)
        return tape.gradient(loss, positions.value)

    compiled = tf.function(gradient, jit_compile=True)()
    np.testing.assert_allclose(compiled, gradient(), rtol=1e-3, atol=1e-4)


def test_recomputed_blocks_stay_recomputed_and_give_the_same_gradients(backbone):
    recomputing = rebuild(backbone, remat=True)
    target = tf.random.stateless_normal([2, backbone.output_shape[-1]], [0, 0])

    def gradients(model):
        resized = resize_backbone(model, NEW_SIZE)
        weights = [variable.value for variable in model.trainable_variables]

        @tf.function
        def compute():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(resized(tf.constant(make_images(NEW_SIZE))) * target)
            return tape.gradient(loss, weights, unconnected_gradients="zero")

        return compute(), count_ops(compute.get_concrete_function())

    expected, ops = gradients(backbone)
    actual, recomputing_ops = gradients(recomputing)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4)
    assert recomputing_ops["Einsum"] > ops["Einsum"]


def live_variables():
    gc.collect()
    return {id(o) for o in gc.get_objects() if isinstance(o, tf.Variable)}


def _positions(backbone):
    """The trained position embeddings: those in use where there are two tables."""
    positions = [v for v in backbone.trainable_variables if "position" in v.path]
    return next((v for v in positions if "interpolated" in v.path), positions[0])


def _native_gradients(backbone, target):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(backbone(make_images(SIZE)) * target)
    return tape.gradient(loss, [v.value for v in backbone.trainable_variables])
