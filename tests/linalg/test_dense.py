"""Factorisation in place against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from kernelpot.linalg import dense
from kernelpot.linalg.dense import Cholesky


def positive(n=12, seed=0):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return a @ a.T + np.eye(n)


@pytest.mark.parametrize("block", [1, 5, 12, 1024])
@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("most", [0, 16_000], ids=["blocks", "LAPACK"])
def test_solutions_are_those_of_numpy(device, block, most, monkeypatch):
    monkeypatch.setattr(dense, "BLOCK", block)
    monkeypatch.setattr(dense, "LAPACK_MOST", most)
    matrix = positive()
    # What stands above the diagonal is not looked at.
    given = np.tril(matrix) + np.triu(np.full_like(matrix, 7.0), 1)
    if device is not None:
        torch = pytest.importorskip("torch")
        given = torch.as_tensor(given)
    factor = Cholesky.of(given)
    b = np.arange(12.0)
    np.testing.assert_allclose(factor.solve(b), np.linalg.solve(matrix, b), rtol=1e-9)
    half = factor.half_solve(np.stack([b, b**2], axis=1))
    np.testing.assert_allclose((half**2).sum(0)[0], b @ np.linalg.solve(matrix, b), rtol=1e-9)


@pytest.mark.parametrize("most", [0, 16_000], ids=["blocks", "LAPACK"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_factor_takes_the_place_of_the_lower_triangle_alone(order, most, monkeypatch):
    monkeypatch.setattr(dense, "LAPACK_MOST", most)
    matrix = positive(2500)
    a = np.array(matrix, order=order)
    dense.factorise(a)
    np.testing.assert_allclose(np.tril(a), np.linalg.cholesky(matrix), atol=1e-9)
    np.testing.assert_array_equal(np.triu(a, 1), np.triu(matrix, 1))


def test_an_array_is_overwritten():
    matrix = positive()
    assert np.shares_memory(Cholesky.of(matrix).lower, matrix)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_matrix_is_never_left_to_lapack(order, monkeypatch):
    """In threads it ends the process for some 28,000 rows."""
    monkeypatch.setattr(dense, "LAPACK_MOST", 11)
    monkeypatch.setattr(dense.lapack, "dpotrf", None)
    a = np.array(positive(), order=order)
    dense.factorise(a)
    np.testing.assert_allclose(np.tril(a), np.linalg.cholesky(positive()), atol=1e-12)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("most", [0, 16_000], ids=["blocks", "LAPACK"])
def test_an_indefinite_matrix_is_refused(device, most, monkeypatch):
    monkeypatch.setattr(dense, "LAPACK_MOST", most)
    matrix = np.diag([1.0, -1.0, 2.0])
    if device is not None:
        matrix = pytest.importorskip("torch").as_tensor(matrix)
    with pytest.raises(np.linalg.LinAlgError, match="leading minor of order"):
        Cholesky.of(matrix)


@pytest.mark.parametrize("most", [0, 16_000], ids=["blocks", "LAPACK"])
def test_a_failure_leaves_what_stands_above_the_diagonal(most, monkeypatch):
    monkeypatch.setattr(dense, "LAPACK_MOST", most)
    monkeypatch.setattr(dense, "BLOCK", 5)
    matrix = positive() - 2.0 * np.eye(12)
    a = matrix.copy()
    with pytest.raises(np.linalg.LinAlgError):
        dense.factorise(a)
    np.testing.assert_array_equal(np.triu(a, 1), np.triu(matrix, 1))
