import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from universal_embedding.input.bijection import key, permute


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 100, 1000, 65536, 100_003])
def test_permute_is_a_permutation(n):
    for k in range(3):
        out = permute(np.arange(n), n, key(7, k))
        np.testing.assert_array_equal(np.sort(out), np.arange(n))


@given(st.data(), st.integers(1, 300) | st.integers(1, 2**52), st.integers(0, 2**63 - 1))
def test_different_positions_of_any_range_stay_different_and_inside(data, n, seed):
    positions = data.draw(st.sets(st.integers(0, n - 1), max_size=100))
    out = permute(sorted(positions), n, key(seed))
    assert len(set(out.tolist())) == len(positions)
    assert ((out >= 0) & (out < n)).all()


def test_element_alone_equals_element_among_others():
    n = np.array([3, 50, 1000, 12, 1])
    keys = key(np.arange(5))
    at = np.array([2, 33, 999, 0, 0])
    together = permute(at, n, keys)
    alone = [int(permute(a, m, k)) for a, m, k in zip(at, n, keys, strict=True)]
    assert together.tolist() == alone


def test_every_order_of_three_is_equally_likely():
    keys = key(11, np.arange(6000))
    orders = permute(np.arange(3)[None], 3, keys[:, None])
    _, counts = np.unique(orders @ [9, 3, 1], return_counts=True)
    chi2 = ((counts - 1000) ** 2 / 1000).sum()
    assert len(counts) == 6
    assert chi2 < 20.5  # 0.999 quantile at 5 degrees of freedom


def test_where_a_record_goes_is_uniform_and_neighbours_are_independent():
    n, keys = 20, key(5, np.arange(20_000))
    first, second = permute(3, n, keys), permute(4, n, keys)
    counts = np.bincount(first, minlength=n)
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # 0.999 quantile at 19
    pairs = np.bincount(first * n + second, minlength=n * n).reshape(n, n)
    assert (np.diag(pairs) == 0).all()
    off = pairs[~np.eye(n, dtype=bool)]
    expected = 20_000 / (n * (n - 1))
    assert ((off - expected) ** 2 / expected).sum() < 467  # 0.999 quantile at 379


def test_known_values_never_change():
    # A checkpoint of today must resume tomorrow: any change here breaks that.
    assert int(key(1, 2, 3)) == 16_299_856_255_350_999_488
    assert permute(np.arange(10), 10, key(0)).tolist() == [4, 0, 3, 9, 8, 7, 6, 5, 1, 2]
