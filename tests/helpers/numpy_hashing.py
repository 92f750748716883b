"""Hashes and permutations in numpy: the oracle of `input.hashing`, which is TensorFlow ops."""

from typing import Any

import numpy as np

_ROUNDS = 8  # even, so that the two halves end where they began


def hash_ints(*parts: Any) -> np.ndarray:
    """Hashes integers, or integer arrays that broadcast, to 64 bits (splitmix64, folded).

    Returns:
        uint64 array of the broadcast shape; equal on every machine and with every version of numpy.
    """
    with np.errstate(over="ignore"):  # unsigned arithmetic modulo 2^64 is intended
        state = np.asarray(0x243F6A8885A308D3, np.uint64)
        for part in parts:
            state = _mix(state ^ _mix(np.asarray(part, np.int64).astype(np.uint64)))
    return np.asarray(state)


def index_shuffle(positions: Any, n: Any, keys: Any) -> np.ndarray:
    """Maps positions by a pseudorandom permutation of 0..n-1 that a key selects.

    A Feistel network over the smallest power of two that holds n (at least 16), walked along its
    cycle until it lands below n (Black and Rogaway 2002). All arguments broadcast: each element
    may have its own n and key.

    Args:
        positions: Integers, 0 <= positions < n.
        n: Size of the permuted range, 1 <= n <= 2^52.
        keys: uint64 from `hash_ints`; each key selects another permutation.

    Returns:
        int64 array of the broadcast shape.
    """
    positions, n, keys = np.broadcast_arrays(
        np.asarray(positions, np.uint64), np.asarray(n, np.uint64), np.asarray(keys, np.uint64)
    )
    shape = positions.shape
    out, n, keys = positions.flatten(), n.ravel(), keys.ravel()
    bits = np.maximum(np.frexp((n - np.uint64(1)).astype(np.float64))[1], 4).astype(np.uint64)
    pending = np.arange(out.size)
    while pending.size:
        out[pending] = _feistel(out[pending], bits[pending], keys[pending])
        pending = pending[out[pending] >= n[pending]]
    return out.astype(np.int64).reshape(shape)


def _feistel(x: np.ndarray, bits: np.ndarray, keys: np.ndarray) -> np.ndarray:
    right_bits = bits // np.uint64(2)
    left_bits = bits - right_bits
    left_mask = (np.uint64(1) << left_bits) - np.uint64(1)
    right_mask = (np.uint64(1) << right_bits) - np.uint64(1)
    left, right = x >> right_bits, x & right_mask
    with np.errstate(over="ignore"):
        for round_index in range(_ROUNDS):
            noise = _mix(keys + right * np.uint64(16) + np.uint64(round_index))
            left, right = right, (left ^ noise) & left_mask
            left_mask, right_mask = right_mask, left_mask
    return left << right_bits | right


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
