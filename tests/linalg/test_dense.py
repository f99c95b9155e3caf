"""Factorisation in place against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.linalg import dense
from kernelpot.linalg.dense import Cholesky, Triangle, factorise

ROUTES = pytest.mark.parametrize("most", [0, 16_000], ids=["blocks", "LAPACK"])


def positive(n=12, seed=0):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return a @ a.T + np.eye(n)


def packed(matrix):
    result = Triangle.zeros(len(matrix))
    result[slice(0, len(matrix)), slice(0, len(matrix))] = matrix
    return result


def unpacked(lower):
    n = len(lower)
    return np.concatenate([np.pad(run, ((0, 0), (0, n - stop))) for run, (_, stop) in lower])


@pytest.mark.parametrize("block", [1, 5, 12, 1024])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_solutions_are_those_of_numpy(device, block, monkeypatch):
    monkeypatch.setattr(dense, "BLOCK", block)
    matrix = positive()
    # What stands above the diagonal is not looked at.
    given = np.tril(matrix) + np.triu(np.full_like(matrix, 7.0), 1)
    if device is not None:
        torch = pytest.importorskip("torch")
        factor = Cholesky.of(torch.as_tensor(given))
    else:
        factor = Cholesky.of(packed(given))
    b = np.arange(12.0)
    np.testing.assert_allclose(factor.solve(b), np.linalg.solve(matrix, b), rtol=1e-9)
    half = factor.half_solve(np.stack([b, b**2], axis=1))
    np.testing.assert_allclose((half**2).sum(0)[0], b @ np.linalg.solve(matrix, b), rtol=1e-9)


@ROUTES
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_factor_takes_the_place_of_the_lower_triangle_alone(order, most, monkeypatch):
    monkeypatch.setattr(dense, "LAPACK_MOST", most)
    matrix = positive(2500)
    a = np.array(matrix, order=order)
    factorise(a)
    np.testing.assert_allclose(np.tril(a), np.linalg.cholesky(matrix), atol=1e-9)
    np.testing.assert_array_equal(np.triu(a, 1), np.triu(matrix, 1))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_matrix_is_never_left_to_lapack(order, monkeypatch):
    """In threads it ends the process for some 28,000 rows."""
    monkeypatch.setattr(dense, "LAPACK_MOST", 11)
    monkeypatch.setattr(dense.lapack, "dpotrf", None)
    a = np.array(positive(), order=order)
    factorise(a)
    np.testing.assert_allclose(np.tril(a), np.linalg.cholesky(positive()), atol=1e-12)


@ROUTES
def test_an_indefinite_matrix_is_refused(most, monkeypatch):
    monkeypatch.setattr(dense, "LAPACK_MOST", most)
    with pytest.raises(np.linalg.LinAlgError, match="leading minor of order"):
        factorise(np.diag([1.0, -1.0, 2.0]))


@pytest.mark.parametrize("device", [None, "cpu"])
def test_an_indefinite_triangle_or_tensor_is_refused(device):
    matrix = np.diag([1.0, -1.0, 2.0])
    given = packed(matrix) if device is None else pytest.importorskip("torch").as_tensor(matrix)
    with pytest.raises(np.linalg.LinAlgError, match="leading minor of order"):
        Cholesky.of(given)


@ROUTES
def test_a_failure_leaves_what_stands_above_the_diagonal(most, monkeypatch):
    monkeypatch.setattr(dense, "LAPACK_MOST", most)
    monkeypatch.setattr(dense, "BLOCK", 5)
    matrix = positive() - 2.0 * np.eye(12)
    a = matrix.copy()
    with pytest.raises(np.linalg.LinAlgError):
        factorise(a)
    np.testing.assert_array_equal(np.triu(a, 1), np.triu(matrix, 1))


@given(st.data())
def test_what_is_written_stands_where_a_square_matrix_has_it(data):
    n, block = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 13))
    rng = np.random.default_rng(0)
    whole = np.zeros((n, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "BLOCK", block)
        lower = Triangle.zeros(n)
    assert len(lower) == n
    for _ in range(5):
        rows, columns = (slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2)))) for _ in range(2))
        values = rng.normal(size=(rows.stop - rows.start, columns.stop - columns.start))
        lower[rows, columns] = whole[rows, columns] = values
    corner, diagonal = rng.normal(size=(n // 2, n // 2)), rng.normal(size=n)
    lower.add_corner(corner)
    lower.add_diagonal(diagonal)
    whole[: n // 2, : n // 2] += corner
    whole[np.diag_indices(n)] += diagonal
    np.testing.assert_array_equal(np.tril(unpacked(lower)), np.tril(whole))


def test_a_triangle_takes_half_of_a_square():
    n = 4 * dense.BLOCK
    assert sum(run.nbytes for run in Triangle.zeros(n).runs) == 4 * n * (n + dense.BLOCK)
