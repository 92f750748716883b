"""One set of weights at several picture sizes, against backbones rebuilt for each size."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_presets import SIZE, tiny

from universal_embedding.models.backbones import at_size, load_backbone
from universal_embedding.models.backbones.architecture import rebuild

OTHER = 48  # pixels: a 6 x 6 grid instead of 4 x 4


@pytest.fixture(scope="module", params=["ViTBackbone", "DINOV2Backbone"])
def backbone(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("preset") / request.param)
    tiny(request.param).save_to_preset(folder)
    return load_backbone(folder, SIZE)


def pictures(size):
    return np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)


def test_the_same_function_as_a_backbone_rebuilt_at_that_size(backbone):
    here, there = at_size(backbone, OTHER), rebuild(backbone, OTHER)
    np.testing.assert_allclose(here(pictures(OTHER)), there(pictures(OTHER)), atol=1e-5)


def test_it_follows_the_weights_as_they_train(backbone):
    here = at_size(backbone, OTHER)
    before = backbone.get_weights()
    positions = _positions(backbone)
    wave = np.sin(np.arange(np.prod(positions.shape), dtype=np.float32))
    positions.assign(positions + 0.3 * wave.reshape(positions.shape))
    try:
        found = np.asarray(here(pictures(OTHER)))
        expected = np.asarray(rebuild(backbone, OTHER)(pictures(OTHER)))
    finally:
        backbone.set_weights(before)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - here(pictures(OTHER))).max() > 1e-3


def test_gradients_reach_every_weight_of_the_backbone(backbone):
    here = at_size(backbone, OTHER)
    weights = [variable.value for variable in backbone.trainable_variables]
    target = tf.random.stateless_normal([2, backbone.output_shape[-1]], [0, 0])

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(here(tf.constant(pictures(OTHER))) * target)
        return tape.gradient(loss, weights)

    found = dict(zip([v.path for v in backbone.trainable_variables], gradients(), strict=True))
    base = dict(zip(found, _own_gradients(backbone, target), strict=True))
    # What the backbone itself leaves out (a mask token) stays out; nothing else.
    missing = [path for path, g in found.items() if g is None and base[path] is not None]
    assert not missing
    assert np.abs(found[_positions(backbone).path]).max() > 0


def test_the_gradient_of_positions_is_that_of_a_small_step(backbone):
    here, positions = at_size(backbone, OTHER), _positions(backbone)
    target = tf.random.stateless_normal([2, backbone.output_shape[-1]], [0, 0])
    direction = np.random.default_rng(1).normal(size=positions.shape).astype(np.float32)

    def loss():
        return tf.reduce_sum(here(tf.constant(pictures(OTHER))) * target)

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


def test_its_own_size_is_the_backbone_itself(backbone):
    assert at_size(backbone, SIZE) is backbone


def test_batch_norm_keeps_its_statistics():
    images = keras.Input((16, 16, 3))
    maps = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(images))
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(maps))
    before = model.get_weights()
    at_size(model, 24)(pictures(24), training=True)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def _positions(backbone):
    """The trained position embeddings: those in use where there are two tables."""
    found = [v for v in backbone.trainable_variables if "position" in v.path]
    return next((v for v in found if "interpolated" in v.path), found[0])


def _own_gradients(backbone, target):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(backbone(pictures(SIZE)) * target)
    return tape.gradient(loss, [v.value for v in backbone.trainable_variables])
