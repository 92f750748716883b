"""Hashes and permutations without state: any element, at any time, from a key alone."""

from typing import Any

import numpy as np

_ROUNDS = 8  # even, so that the two halves end where they began


def key(*parts: Any) -> np.ndarray:
    """A 64-bit hash of integers, or of integer arrays that broadcast (splitmix64, folded).

    Returns:
        uint64 array of the broadcast shape. Equal on every machine and version of numpy.
    """
    with np.errstate(over="ignore"):  # unsigned arithmetic modulo 2^64 is meant
        folded = np.uint64(0x243F6A8885A308D3)
        for part in parts:
            folded = _mix(folded ^ _mix(np.asarray(part, np.int64).astype(np.uint64)))
    return np.asarray(folded)


def permute(positions: Any, n: Any, keys: Any) -> np.ndarray:
    """Where a permutation of 0..n-1, chosen by a key, sends each position.

    A Feistel network over the smallest power of two that holds n (at least 16), walked along its
    cycle until it lands below n (Black and Rogaway 2002). All arguments broadcast: each element
    may have an n and a key of its own.

    Args:
        positions: Integers, 0 <= positions < n.
        n: Size of the permuted range, 1 <= n <= 2^52.
        keys: uint64, see `key`; each key is another permutation.

    Returns:
        int64 array of the broadcast shape.
    """
    positions, n, keys = np.broadcast_arrays(
        np.asarray(positions, np.uint64), np.asarray(n, np.uint64), np.asarray(keys, np.uint64)
    )
    shape = positions.shape
    out, n, keys = positions.flatten(), n.ravel(), keys.ravel()
    bits = np.maximum(np.frexp((n - np.uint64(1)).astype(np.float64))[1], 4).astype(np.uint64)
    walking = np.arange(out.size)
    while walking.size:
        out[walking] = _feistel(out[walking], bits[walking], keys[walking])
        walking = walking[out[walking] >= n[walking]]
    return out.astype(np.int64).reshape(shape)


def _feistel(x: np.ndarray, bits: np.ndarray, keys: np.ndarray) -> np.ndarray:
    one = np.uint64(1)
    right_bits = bits // np.uint64(2)
    left_bits = bits - right_bits
    left, right = x >> right_bits, x & ((one << right_bits) - one)
    left_mask, right_mask = (one << left_bits) - one, (one << right_bits) - one
    with np.errstate(over="ignore"):
        for turn in range(_ROUNDS):
            noise = _mix(keys + right * np.uint64(16) + np.uint64(turn))
            left, right = right, (left ^ noise) & left_mask
            left_mask, right_mask = right_mask, left_mask
    return left << right_bits | right


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
