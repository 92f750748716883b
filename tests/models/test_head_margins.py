"""Tests of margins against the papers' formulas, in float64, over every degree."""

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.models.heads.softmax import apply_margin, class_margins

DEGREES = np.deg2rad(np.arange(181.0))


def naive(theta, margin, margin_type):
    if margin_type == "none":
        return np.cos(theta)
    if margin_type == "cosface":
        return np.cos(theta) - margin
    if theta + margin > np.pi:
        return np.cos(theta) - margin * np.sin(margin)
    return np.cos(theta + margin)


@pytest.mark.parametrize("margin_type", ["none", "cosface", "arcface"])
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.3, 0.5, 1.1])
def test_margin_equals_the_formula_at_every_degree(margin_type, margin):
    actual = apply_margin(tf.constant(np.cos(DEGREES), tf.float32), margin, margin_type)
    expected = [naive(theta, margin, margin_type) for theta in DEGREES]
    np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize("margin_type", ["none", "cosface", "arcface"])
def test_slope_matches_finite_differences(margin_type):
    theta = DEGREES[1:-1]
    cosine = tf.constant(np.cos(theta), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(cosine)
        value = apply_margin(cosine, 0.4, margin_type)
    step = 1e-6
    ahead = [naive(np.arccos(c + step), 0.4, margin_type) for c in np.cos(theta)]
    behind = [naive(np.arccos(c - step), 0.4, margin_type) for c in np.cos(theta)]
    np.testing.assert_allclose(
        tape.gradient(value, cosine), np.subtract(ahead, behind) / (2 * step), rtol=2e-3
    )


def test_value_and_slope_are_finite_beyond_cosine_one():
    cosine = tf.constant([1.0, -1.0, 1.0000002, -1.0000002, 0.9999999, -0.9999999])
    with tf.GradientTape() as tape:
        tape.watch(cosine)
        value = apply_margin(cosine, 0.5, "arcface")
    assert np.isfinite(value).all()
    slope = tape.gradient(value, cosine).numpy()
    assert np.isfinite(slope).all()
    assert (slope > 0).all()
    np.testing.assert_allclose(value[0], np.cos(0.5), rtol=1e-6)
    np.testing.assert_allclose(value[1], -1 - 0.5 * np.sin(0.5), rtol=1e-6)


def test_class_margin_is_larger_for_rarer_classes():
    margins = class_margins(np.array([1, 16, 10_000]), scale=0.45, power=0.25, offset=0.05)
    np.testing.assert_allclose(margins, [0.5, 0.275, 0.095], rtol=1e-6)
    assert margins.dtype == np.float32
