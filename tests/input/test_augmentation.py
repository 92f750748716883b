import colorsys

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.input.augmentation import _branch, _layers, cutout, jitter, rand_augment

IMAGE = np.random.default_rng(0).uniform(20, 200, (16, 16, 3)).astype(np.float32)


def test_brightness_scales():
    out = np.stack([jitter(IMAGE, [i, 0], brightness=0.2) for i in range(60)])
    scales = out / IMAGE
    each = scales[:, 0, 0, 0]
    np.testing.assert_allclose(scales, each[:, None, None, None] * np.ones(IMAGE.shape), rtol=1e-4)
    assert 0.8 <= each.min() < 0.85
    assert 1.15 < each.max() <= 1.2


def test_contrast_scales_about_the_mean():
    out = jitter(IMAGE, [3, 0], contrast=0.3).numpy()
    mean = IMAGE.mean(axis=(0, 1))
    np.testing.assert_allclose(out.mean(axis=(0, 1)), mean, rtol=1e-4)
    factors = (out - mean) / (IMAGE - mean)
    assert np.ptp(factors[np.abs(IMAGE - mean) > 5]) < 1e-3


def test_saturation_and_hue_in_0_to_255_against_colorsys():
    for arguments, place in (({"saturation": 0.4}, 1), ({"hue": 0.1}, 0)):
        out = jitter(IMAGE, [5, 1], **arguments).numpy()
        before = np.array([colorsys.rgb_to_hsv(*p) for p in IMAGE.reshape(-1, 3) / 255])
        after = np.array([colorsys.rgb_to_hsv(*p) for p in out.reshape(-1, 3) / 255])
        others = [i for i in (1, 2) if i != place]
        np.testing.assert_allclose(after[:, others], before[:, others], atol=1e-3)
        assert np.abs(after - before)[:, place].max() > 0.005


def test_no_strength_changes_nothing():
    np.testing.assert_array_equal(jitter(IMAGE, [1, 2]), IMAGE)


def test_cutout():
    image = np.zeros((20, 20, 3), np.float32)
    holes = np.stack([cutout(tf.constant(image), [i, 0], 0.5) for i in range(200)]) == 127.5
    areas = holes[..., 0].sum(axis=(1, 2))
    assert areas.max() == 9 * 9  # centre and four pixels each way
    assert areas.min() >= 5 * 5  # a quarter, at a corner
    assert (holes.any(axis=0)).all()


@pytest.mark.parametrize("index", range(len(_layers(5.0))))
def test_each_operation_of_rand_augment(index):
    """Stays in range, is not the identity, and depends on the seed alone."""
    layer = _layers(5.0)[index]
    run = tf.function(lambda seed: tf.clip_by_value(_branch(layer, IMAGE[None], seed)(), 0, 255))
    images = [run(tf.constant([i, 3])).numpy() for i in (0, 1, 0)]
    assert images[0].shape == (1, 16, 16, 3)
    assert np.isfinite(images[0]).all()
    np.testing.assert_array_equal(images[0], images[2])
    assert np.abs(images[0][0] - IMAGE).max() > 0.1
    random = layer.name.startswith("random") and "poster" not in layer.name
    assert (images[0] != images[1]).any() == random


def test_magnitude_zero_moves_nothing():
    rotation = _layers(0.0)[0]
    out = _branch(rotation, IMAGE[None], tf.constant([1, 2]))()
    np.testing.assert_allclose(out[0], IMAGE, atol=1e-2)


def test_rand_augment_takes_every_operation():
    run = tf.function(lambda seed: rand_augment(tf.constant(IMAGE), seed, 1, 5.0))
    images = np.stack([run(tf.constant([i, 0])).numpy() for i in range(60)])
    assert images.shape == (60, 16, 16, 3)
    assert images.min() >= 0
    assert images.max() <= 255
    assert len({image.tobytes() for image in images}) > 40
