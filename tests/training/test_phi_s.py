"""PHI-S against its definition: isotropic, a rotation and one scale, invertible."""

import numpy as np
import pytest

from universal_embedding.errors import UserError
from universal_embedding.training.phi_s import PhiS, hadamard_matrix


def teacher_rows(dim, count=400, seed=0):
    """Correlated rows with very different variances, far from the origin."""
    rng = np.random.default_rng(seed)
    scales = np.logspace(0, -3, dim)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return (rng.normal(size=(count, dim)) * scales) @ rotation + rng.normal(size=dim)


# 12 and 20 by Paley, 64 by Sylvester, 36 = 2 (17 + 1); 3, 7 and 52 have no matrix here.
@pytest.mark.parametrize("dim", [1, 2, 3, 7, 12, 20, 36, 52, 64])
def test_rows_become_isotropic_by_a_rotation_and_one_scale(dim):
    rows = teacher_rows(dim)
    phi_s = PhiS.fit([rows[:3], rows[3:3], rows[3:250], rows[250:]])
    result = phi_s.apply(rows)
    np.testing.assert_allclose(result.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(result.var(0), 1, atol=1e-6)
    np.testing.assert_allclose(phi_s.invert(result), rows, atol=1e-6)
    distances = np.linalg.norm(rows[1:] - rows[0], axis=1)
    expected = distances / np.sqrt(rows.var(0).mean())
    np.testing.assert_allclose(np.linalg.norm(result[1:] - result[0], axis=1), expected, rtol=1e-6)


def test_every_coordinate_has_an_equal_share_of_every_eigenvector():
    rows = teacher_rows(24)
    phi_s = PhiS.fit([rows])
    eigenvectors = np.linalg.eigh(np.cov(rows.T))[1]
    np.testing.assert_allclose(np.abs(eigenvectors.T @ phi_s.rotation), 24**-0.5, atol=1e-8)


def test_result_does_not_depend_on_the_blocks():
    rows = teacher_rows(8)
    whole, parts = PhiS.fit([rows]), PhiS.fit(np.array_split(rows, 77))
    for name in ("mean", "rotation", "scale"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-9)


def test_rows_of_float32_stay_so():
    rows = teacher_rows(12).astype(np.float32)
    result = PhiS.fit([rows]).apply(rows)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.var(0), 1, atol=1e-3)


def test_map_is_read_back_for_its_own_rows_alone(tmp_path):
    phi_s = PhiS.fit([teacher_rows(4)])
    phi_s.save(tmp_path / "phi_s.npz", "key")
    read = PhiS.load(tmp_path / "phi_s.npz", "key")
    np.testing.assert_array_equal(read.rotation, phi_s.rotation)
    assert read.scale == phi_s.scale
    assert PhiS.load(tmp_path / "phi_s.npz", "other") is None
    (tmp_path / "phi_s.npz").write_bytes(b"damaged")
    assert PhiS.load(tmp_path / "phi_s.npz", "key") is None


def test_equal_rows_are_refused():
    with pytest.raises(UserError, match="all of its 5 training images one embedding"):
        PhiS.fit([np.ones((5, 4))])


def test_hadamard_matrices_are_orthogonal_signs():
    sizes = [*range(1, 129), 384, 768, 1152, 1280, 1408, 1664]
    made = {size: hadamard_matrix(size) for size in sizes}
    for size, matrix in made.items():
        if matrix is not None:
            assert set(np.unique(matrix)) <= {-1.0, 1.0}
            np.testing.assert_array_equal(matrix @ matrix.T, size * np.eye(size))
    missing = [size for size, matrix in made.items() if matrix is None]
    assert [size for size in missing if size % 4 == 0] == [52, 92, 100, 116]
    assert all(size % 4 for size in missing if size not in (52, 92, 100, 116))
