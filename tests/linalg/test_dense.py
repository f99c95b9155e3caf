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
def test_solutions_are_those_of_numpy(device, block, monkeypatch):
    monkeypatch.setattr(dense, "BLOCK", block)
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


def test_the_factor_is_that_of_lapack():
    matrix = positive(2500)
    np.testing.assert_allclose(np.tril(Cholesky.of(matrix.copy()).lower), np.linalg.cholesky(matrix), atol=1e-9)


def test_an_array_is_overwritten():
    matrix = positive()
    assert np.shares_memory(Cholesky.of(matrix).lower, matrix)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_an_indefinite_matrix_is_refused(device):
    matrix = np.diag([1.0, -1.0, 2.0])
    if device is not None:
        matrix = pytest.importorskip("torch").as_tensor(matrix)
    with pytest.raises(np.linalg.LinAlgError, match="leading minor of order"):
        Cholesky.of(matrix)
