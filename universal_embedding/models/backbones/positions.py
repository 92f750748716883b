"""Learned position embeddings for pictures of another size."""

import math

import numpy as np
import tensorflow as tf


def resize_positions(table: np.ndarray, count: int, antialias: bool = True) -> np.ndarray:
    """Resizes position embeddings by bicubic interpolation over their square grid.

    Tokens before the grid (class token, registers, distillation token) keep their embeddings.

    Args:
        table: `[..., N, D]`, N = tokens before the grid + side * side.
        count: The new N, with as many tokens before the grid.
        antialias: Whether the grid is low-passed before it shrinks.

    Returns:
        `[..., count, D]`, of the dtype of `table`; `table` itself if N is `count`.

    Raises:
        ValueError: `count` is not such a number.
    """
    old = table.shape[-2]
    if old == count:
        return table
    side, new_side = math.isqrt(old), math.isqrt(count)
    prefix = old - side * side
    if prefix != count - new_side * new_side:
        raise ValueError(f"{old} position embeddings cannot become {count}: no square grids")
    rows = table.reshape(old, -1).astype("float32")
    grid = rows[prefix:].reshape(1, side, side, -1)
    grid = tf.image.resize(grid, [new_side, new_side], method="bicubic", antialias=antialias)
    rows = np.concatenate([rows[:prefix], grid.numpy().reshape(new_side * new_side, -1)])
    return rows.reshape(*table.shape[:-2], count, table.shape[-1]).astype(table.dtype)
