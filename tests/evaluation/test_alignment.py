import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.random_domains import continuous
from universal_embedding.evaluation.alignment import SHRINKAGE, fit_alignment
from universal_embedding.evaluation.embeddings import normalize_rows
from universal_embedding.search.exact import BlockedTopK


def random_rotation(rng, size):
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_procrustes_equals_scipy_and_keeps_lengths(seed, size):
    rng = np.random.default_rng(seed)
    new, old = continuous(rng, 40, size), continuous(rng, 40, size)
    rotation = fit_alignment(new, old)
    expected, _ = scipy.linalg.orthogonal_procrustes(new.astype(float), old.astype(float))
    np.testing.assert_allclose(rotation, expected, atol=1e-8)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(size), atol=1e-12)


def test_aligned_rotation_of_a_model_finds_the_same_neighbors():
    rng = np.random.default_rng(0)
    old = continuous(rng, 500, 16)
    new = old @ random_rotation(rng, 16).astype(np.float32)
    aligned = normalize_rows(new @ fit_alignment(new[:100], old[:100])).astype(np.float32)
    np.testing.assert_allclose(aligned, old, atol=1e-6)
    search = BlockedTopK()
    search.index(old)
    expected, _ = search.query(old, 500)
    neighbors, _ = search.query(aligned, 500)
    unequal = neighbors != expected  # only where two similarities differ by rounding
    similarities = old @ old.T
    gaps = np.take_along_axis(similarities, neighbors, 1)
    gaps -= np.take_along_axis(similarities, expected, 1)
    assert np.abs(gaps).max() < 2e-6 and unequal.mean() < 1e-3


def test_linear_map_has_the_least_penalized_error():
    rng = np.random.default_rng(1)
    new, old = continuous(rng, 60, 5).astype(float), continuous(rng, 60, 5).astype(float)
    rotation = fit_alignment(new, old)

    def cost(matrix):
        error = ((new @ matrix - old) ** 2).sum()
        return error + SHRINKAGE * 60 / 5 * ((matrix - rotation) ** 2).sum()

    best = fit_alignment(new, old, "linear")
    for _ in range(50):
        assert cost(best) < cost(best + 1e-3 * rng.standard_normal((5, 5)))


def test_wrong_shapes_and_methods_are_refused():
    rows = np.eye(4)
    with pytest.raises(ValueError, match=r"new has shape \(4, 4\) and old \(3, 4\)"):
        fit_alignment(rows, rows[:3])
    with pytest.raises(ValueError, match="method is 'best'"):
        fit_alignment(rows, rows, "best")
