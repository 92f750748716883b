import colorsys

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.input.augmentation import (
    apply_layer,
    color_jitter,
    mix,
    mix_permutation,
    rand_augment,
    rand_augment_layers,
    random_erasing,
    sample_mix,
)

IMAGE = np.random.default_rng(0).uniform(20, 200, (16, 16, 3)).astype(np.float32)


def test_brightness_scales_all_values():
    out = np.stack([color_jitter(IMAGE, [i, 0], brightness=0.2) for i in range(60)])
    scales = out / IMAGE
    factors = scales[:, 0, 0, 0]
    np.testing.assert_allclose(
        scales, factors[:, None, None, None] * np.ones(IMAGE.shape), rtol=1e-4
    )
    assert 0.8 <= factors.min() < 0.85
    assert 1.15 < factors.max() <= 1.2


def test_contrast_scales_about_the_mean():
    out = color_jitter(IMAGE, [3, 0], contrast=0.3).numpy()
    mean = IMAGE.mean(axis=(0, 1))
    np.testing.assert_allclose(out.mean(axis=(0, 1)), mean, rtol=1e-4)
    factors = (out - mean) / (IMAGE - mean)
    assert np.ptp(factors[np.abs(IMAGE - mean) > 5]) < 1e-3


def test_saturation_and_hue_change_one_hsv_channel_of_colorsys():
    for strength, channel in (({"saturation": 0.4}, 1), ({"hue": 0.1}, 0)):
        out = color_jitter(IMAGE, [5, 1], **strength).numpy()
        original = np.array([colorsys.rgb_to_hsv(*p) for p in IMAGE.reshape(-1, 3) / 255])
        jittered = np.array([colorsys.rgb_to_hsv(*p) for p in out.reshape(-1, 3) / 255])
        fixed = [i for i in (1, 2) if i != channel]
        np.testing.assert_allclose(jittered[:, fixed], original[:, fixed], atol=1e-3)
        assert np.abs(jittered - original)[:, channel].max() > 0.005


def test_color_jitter_without_strength_changes_nothing():
    np.testing.assert_array_equal(color_jitter(IMAGE, [1, 2]), IMAGE)


def test_random_erasing_fills_a_square_anywhere():
    image = np.zeros((20, 20, 3), np.float32)
    out = np.stack([random_erasing(tf.constant(image), [i, 0], 0.25) for i in range(200)])
    holes = out == 127.5
    areas = holes[..., 0].sum(axis=(1, 2))
    assert areas.max() == 10 * 10  # a quarter of the image
    assert areas.min() >= 5 * 5  # a quarter, at a corner
    assert (holes.any(axis=0)).all()


@pytest.mark.parametrize("index", range(len(rand_augment_layers(5.0))))
def test_rand_augment_layer_depends_on_the_seed_alone(index):
    """Stays in range, is not the identity, and depends on the seed alone."""
    layer = rand_augment_layers(5.0)[index]
    run = tf.function(lambda seed: tf.clip_by_value(apply_layer(layer, IMAGE[None], seed), 0, 255))
    images = [run(tf.constant([i, 3])).numpy() for i in (0, 1, 0)]
    assert images[0].shape == (1, 16, 16, 3)
    assert np.isfinite(images[0]).all()
    np.testing.assert_array_equal(images[0], images[2])
    assert np.abs(images[0][0] - IMAGE).max() > 0.1
    random = layer.name.startswith("random") and "poster" not in layer.name
    assert (images[0] != images[1]).any() == random


def test_rotation_of_magnitude_zero_moves_nothing():
    rotation = rand_augment_layers(0.0)[0]
    out = apply_layer(rotation, IMAGE[None], tf.constant([1, 2]))
    np.testing.assert_allclose(out[0], IMAGE, atol=1e-2)


def test_rand_augment_takes_every_operation():
    run = tf.function(lambda seed: rand_augment(tf.constant(IMAGE), seed, 1, 5.0))
    images = np.stack([run(tf.constant([i, 0])).numpy() for i in range(60)])
    assert images.shape == (60, 16, 16, 3)
    assert images.min() >= 0
    assert images.max() <= 255
    assert len({image.tobytes() for image in images}) > 40


def test_mix_permutation_swaps_pairs():
    assert mix_permutation(6) == [1, 0, 3, 2, 5, 4]
    assert mix_permutation(3) == [1, 0, 2]


def test_mix_equals_a_loop():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (5, 8, 8, 3), np.uint8),
        "label": np.arange(5, dtype=np.int32),
        "domain": np.array([0, 0, 1, 0, 1], np.int32),
    }
    mix_params = np.array(
        [[0.3, 0, 0, 0, 0], [1, 2, 1, 6, 8], [0.5, 0, 0, 0, 0], [1, 0, 0, 8, 8], [0.1, 0, 0, 0, 0]],
        np.float32,
    )
    mixed = mix({k: tf.constant(v) for k, v in batch.items()}, mix_params)
    result = {k: v.numpy() for k, v in mixed.items()}
    image = batch["image"].astype(np.float32)
    image[0] = np.floor(0.3 * image[0] + 0.7 * image[1] + 0.5)
    image[1, 2:6, 1:8] = batch["image"][0, 2:6, 1:8]
    assert result["image"].dtype == np.uint8
    np.testing.assert_array_equal(result["image"], image)
    np.testing.assert_allclose(result["mix"], [0.3, 1 - 28 / 64, 1, 1, 1], rtol=1e-6)
    assert result["label2"].tolist() == [1, 0, 3, 2, 4]


def sample_many(**options):
    function = tf.function(lambda seed: sample_mix(seed, 100, **options))
    return np.stack([function(tf.constant([s, 5])).numpy() for s in range(400)])


def test_mixup_ratio_follows_the_beta_distribution():
    mix_params = sample_many(mixup=2.0, cutmix=0.0)
    assert (mix_params[:, 1:] == 0).all()
    # Beta(2, 2): mean 1/2, variance 1/20
    assert abs(mix_params[:, 0].mean() - 0.5) < 0.04
    assert abs(mix_params[:, 0].var() - 0.05) < 0.012
    small = sample_many(mixup=0.01, cutmix=0.0)[:, 0]
    assert np.isfinite(small).all()


def test_cutmix_box_is_within_the_image():
    mix_params = sample_many(mixup=0.0, cutmix=1.0)
    assert (mix_params[:, 0] == 1).all()
    top, left, bottom, right = mix_params[:, 1:].T
    assert ((top >= 0) & (bottom <= 100) & (top <= bottom)).all()
    assert ((left >= 0) & (right <= 100) & (left <= right)).all()
    assert mix_params[:, 1:].std(axis=0).min() > 10


def test_mixup_and_cutmix_together_take_half_each():
    mix_params = sample_many(mixup=1.0, cutmix=1.0)
    cut = (mix_params[:, 3] > mix_params[:, 1]).mean()
    assert 0.4 < cut < 0.6
