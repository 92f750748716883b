"""Tests of resizing position embeddings, against closed forms."""

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.models.backbones.architecture import resize_position_embedding


def _plane(side, prefix):
    """Embeddings linear in the position, which bicubic interpolation keeps away from edges."""
    y, x = np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2, indexing="ij")
    grid = np.stack([y, x, 2 * y - x], axis=-1).reshape(side * side, 3)
    return np.concatenate([np.full((prefix, 3), 7.0), grid]).astype("float32")


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("new_side", [7, 16, 28])
def test_plane_stays_a_plane(prefix, new_side):
    table = _plane(14, prefix)
    resized = np.asarray(resize_position_embedding(table, new_side * new_side + prefix))
    np.testing.assert_array_equal(resized[:prefix], table[:prefix])
    edge = max(2, 2 * new_side // 14)
    inner = slice(edge, -edge)
    actual = resized[prefix:].reshape(new_side, new_side, 3)[inner, inner]
    expected = _plane(new_side, 0).reshape(new_side, new_side, 3)[inner, inner]
    np.testing.assert_allclose(actual, expected, atol=2e-3)


def test_same_number_of_tokens_is_the_identity():
    table = np.random.default_rng(0).normal(size=(1, 197, 8)).astype("float32")
    assert resize_position_embedding(table, 197) is table
    assert resize_position_embedding(table, 257).shape == (1, 257, 8)


def test_number_without_a_square_grid_is_an_error():
    with pytest.raises(ValueError, match="197 position embeddings cannot become 200"):
        resize_position_embedding(np.zeros((197, 8), "float32"), 200)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("side", "new_side"), [(16, 20), (20, 16), (14, 37), (7, 3)])
def test_resizing_equals_tensorflows_own_bicubic_interpolation(side, new_side, antialias):
    table = np.random.default_rng(0).normal(size=(1 + side * side, 6)).astype("float32")
    actual = resize_position_embedding(table, 1 + new_side * new_side, antialias)
    grid = tf.reshape(table[1:], [side, side, 6])
    grid = tf.image.resize(grid, [new_side, new_side], method="bicubic", antialias=antialias)
    np.testing.assert_allclose(actual[1:], tf.reshape(grid, [-1, 6]), atol=2e-6)
    np.testing.assert_array_equal(actual[0], table[0])
