import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import numpy_hashing
from universal_embedding.input import hashing


def hash_ints(*parts):
    return hashing.hash_ints(*parts).numpy()


def index_shuffle(positions, n, keys):
    return hashing.index_shuffle(np.asarray(positions, np.int64), np.asarray(n), keys).numpy()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4), st.integers(0, 99))
def test_hash_equals_numpy(parts, seed):
    values = np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, 50)
    np.testing.assert_array_equal(
        hash_ints(*parts, values), numpy_hashing.hash_ints(*parts, values)
    )


def test_index_shuffle_equals_numpy_for_thousands_of_sizes_and_keys():
    rng = np.random.default_rng(0)
    n = np.concatenate([rng.integers(1, 40, 3000), 2 ** rng.integers(0, 53, 3000)])
    n[3000:5000] -= rng.integers(0, n[3000:5000])
    positions, keys = rng.integers(0, n), numpy_hashing.hash_ints(3, np.arange(6000))
    expected = numpy_hashing.index_shuffle(positions, n, keys)
    np.testing.assert_array_equal(index_shuffle(positions, n, keys), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 100, 1000, 65536, 100_003])
def test_index_shuffle_is_a_permutation(n):
    for k in range(3):
        out = index_shuffle(np.arange(n), n, hash_ints(7, k))
        np.testing.assert_array_equal(np.sort(out), np.arange(n))


@given(st.data(), st.integers(1, 300) | st.integers(1, 2**52), st.integers(0, 2**63 - 1))
def test_index_shuffle_keeps_positions_distinct_and_in_range(data, n, seed):
    positions = data.draw(st.sets(st.integers(0, n - 1), max_size=100))
    out = index_shuffle(sorted(positions), n, hash_ints(seed))
    assert len(set(out.tolist())) == len(positions)
    assert ((out >= 0) & (out < n)).all()


def test_index_shuffle_of_an_array_equals_that_of_each_element():
    n = np.array([3, 50, 1000, 12, 1])
    keys = hash_ints(np.arange(5))
    positions = np.array([2, 33, 999, 0, 0])
    results = index_shuffle(positions, n, keys)
    expected = [int(index_shuffle(p, m, k)) for p, m, k in zip(positions, n, keys, strict=True)]
    assert results.tolist() == expected


def test_index_shuffle_makes_every_order_of_three_equally_likely():
    keys = hash_ints(11, np.arange(6000))
    orders = index_shuffle(np.arange(3)[None], 3, keys[:, None])
    _, counts = np.unique(orders @ [9, 3, 1], return_counts=True)
    chi2 = ((counts - 1000) ** 2 / 1000).sum()
    assert len(counts) == 6
    assert chi2 < 20.5  # 0.999 quantile at 5 degrees of freedom


def test_index_shuffle_is_uniform_and_adjacent_positions_are_independent():
    n, keys = 20, hash_ints(5, np.arange(20_000))
    first, second = index_shuffle(3, n, keys), index_shuffle(4, n, keys)
    counts = np.bincount(first, minlength=n)
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # 0.999 quantile at 19
    pairs = np.bincount(first * n + second, minlength=n * n).reshape(n, n)
    assert (np.diag(pairs) == 0).all()
    off_diagonal = pairs[~np.eye(n, dtype=bool)]
    expected = 20_000 / (n * (n - 1))
    assert ((off_diagonal - expected) ** 2 / expected).sum() < 467  # 0.999 quantile at 379


def test_known_values_never_change():
    # A checkpoint of today must resume tomorrow: any change here breaks that.
    assert int(hash_ints(1, 2, 3)) == 16_299_856_255_350_999_488
    shuffled = index_shuffle(np.arange(10), 10, hash_ints(0))
    assert shuffled.tolist() == [4, 0, 3, 9, 8, 7, 6, 5, 1, 2]
