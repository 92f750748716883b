"""Learned position embeddings for pictures of another size."""

import math

import tensorflow as tf


def resize_positions(table: tf.Tensor, count: int, antialias: bool = True) -> tf.Tensor:
    """Resizes position embeddings by bicubic interpolation over their square grid.

    Tokens before the grid (class token, registers, distillation token) keep their embeddings.
    Gradients pass through.

    Args:
        table: `[..., N, D]`, N = tokens before the grid + side * side.
        count: The new N, with as many tokens before the grid.
        antialias: Whether the grid is low-passed before it shrinks.

    Returns:
        `[..., count, D]`, of the dtype of `table`; `table` itself if N is `count`.

    Raises:
        ValueError: `count` is not such a number.
    """
    *_, old, width = table.shape
    if old == count:
        return table
    side, new_side = math.isqrt(old), math.isqrt(count)
    prefix = old - side * side
    if prefix != count - new_side * new_side:
        raise ValueError(f"{old} position embeddings cannot become {count}: no square grids")
    rows = tf.reshape(table, [-1, old, width])
    grid = tf.reshape(tf.cast(rows[:, prefix:], tf.float32), [-1, side, side, width])
    grid = tf.image.resize(grid, [new_side, new_side], method="bicubic", antialias=antialias)
    grid = tf.cast(tf.reshape(grid, [-1, new_side * new_side, width]), rows.dtype)
    resized = tf.concat([rows[:, :prefix], grid], axis=1)
    return tf.reshape(resized, [*table.shape[:-2], count, width])
