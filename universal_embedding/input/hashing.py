"""Stateless hashes and permutations as TensorFlow ops: any element, at any time, from a key alone.

Unsigned 64-bit arithmetic that wraps: the values are equal on every machine.
"""

from typing import Any

import tensorflow as tf

_ROUNDS = 8  # even, so that the two halves end where they began


def hash_ints(*parts: Any) -> tf.Tensor:
    """Hashes integers, or integer tensors that broadcast, to 64 bits (splitmix64, folded).

    Returns:
        uint64 tensor of the broadcast shape.
    """
    state = _uint64(0x243F6A8885A308D3)
    for part in parts:
        state = _mix(state ^ _mix(tf.bitcast(tf.cast(part, tf.int64), tf.uint64)))
    return state


def index_shuffle(positions: Any, n: Any, keys: tf.Tensor) -> tf.Tensor:
    """Maps positions by a pseudorandom permutation of 0..n-1 that a key selects.

    A Feistel network over the smallest power of two that holds n (at least 16), walked along its
    cycle until it lands below n (Black and Rogaway 2002). All arguments broadcast: each element
    may have its own n and key. TensorFlow's own `index_shuffle` is the same construction, but less
    even over short ranges; see docs/design.md.

    Args:
        positions: Integers, 0 <= positions < n.
        n: Size of the permuted range, 1 <= n <= 2^52.
        keys: uint64 from `hash_ints`; each key selects another permutation.

    Returns:
        int64 tensor of the broadcast shape.
    """
    n = tf.convert_to_tensor(n, tf.int64)
    # The exponent of a float64 is the number of bits, exactly up to 2^52.
    exponents = tf.bitwise.right_shift(tf.bitcast(tf.cast(n - 1, tf.float64), tf.int64), 52)
    bits = tf.bitcast(tf.maximum(exponents - 1022, 4), tf.uint64)
    right_bits = bits // _uint64(2)
    left_bits = bits - right_bits
    masks = [tf.bitwise.left_shift(_uint64(1), b) - _uint64(1) for b in (left_bits, right_bits)]

    def permute(x: tf.Tensor) -> tf.Tensor:
        left, right = tf.bitwise.right_shift(x, right_bits), x & masks[1]
        for round_index in range(_ROUNDS):
            noise = _mix(keys + right * _uint64(16) + _uint64(round_index))
            left, right = right, (left ^ noise) & masks[round_index % 2]
        return tf.bitwise.left_shift(left, right_bits) | right

    def walk(x: tf.Tensor, is_outside: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.where(is_outside, permute(x), x)
        return x, tf.bitcast(x, tf.int64) >= n

    # All shapes broadcast before the loop, whose variables keep theirs.
    x = tf.cast(positions, tf.int64) + tf.zeros_like(n) + tf.zeros_like(keys, tf.int64)
    x = tf.bitcast(x, tf.uint64)
    out, _ = tf.while_loop(
        lambda _, is_outside: tf.reduce_any(is_outside), walk, (x, tf.ones_like(x, tf.bool))
    )
    return tf.bitcast(out, tf.int64)


def _mix(x: tf.Tensor) -> tf.Tensor:
    x += _uint64(0x9E3779B97F4A7C15)
    x = (x ^ tf.bitwise.right_shift(x, _uint64(30))) * _uint64(0xBF58476D1CE4E5B9)
    x = (x ^ tf.bitwise.right_shift(x, _uint64(27))) * _uint64(0x94D049BB133111EB)
    return x ^ tf.bitwise.right_shift(x, _uint64(31))


def _uint64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)
