"""Volumes against plain QR, brute force and determinants."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import qr

from kernelpot.errors import DataError, ParameterError
from kernelpot.linalg.volumes import leading, maxvol, off_span, square

seeds = st.integers(0, 10_000)


def volume(A):
    """Product of singular values."""
    return np.prod(np.linalg.svd(A, compute_uv=False))


@given(seeds, st.integers(1, 8), st.floats(0.0, 0.2))
def test_no_swap_enlarges_the_square_volume_by_more_than_the_tolerance(seed, r, tol):
    W = np.random.default_rng(seed).standard_normal((60, r)) * np.logspace(0, -4, r)
    rows = square(W, tol=tol)
    assert len(set(rows.tolist())) == r
    B = W @ np.linalg.inv(W[rows])
    assert np.abs(B).max() <= 1.0 + tol + 1e-9
    first = qr(W.T, mode="r", pivoting=True)[1][:r]
    assert volume(W[rows]) >= volume(W[first]) * (1.0 - 1e-9)


@given(seeds)
def test_the_square_volume_is_near_the_best_of_all(seed):
    W = np.random.default_rng(seed).standard_normal((10, 3))
    best = max(volume(W[list(rows)]) for rows in combinations(range(10), 3))
    # |B| <= 1 bounds any other volume by r^(r/2), Hadamard's bound; random rows come far closer.
    assert volume(W[square(W, tol=0.0)]) >= best / 3**1.5


@given(seeds)
def test_growth_takes_the_row_that_enlarges_the_rectangular_volume_most(seed):
    X = np.random.default_rng(seed).standard_normal((30, 4))
    rows = maxvol(X, 12)
    assert len(set(rows.tolist())) == 12
    for t in range(4, 12):
        before = volume(X[rows[:t]])
        gains = np.array([volume(X[[*rows[:t], i]]) / before for i in range(30)])
        gains[rows[:t]] = 0.0
        assert gains[rows[t]] >= gains.max() * (1.0 - 1e-9)


@given(seeds)
def test_rows_with_given_ones_have_the_volume_outside_their_span(seed):
    rng = np.random.default_rng(seed)
    X, given_ = rng.standard_normal((25, 6)), rng.standard_normal((2, 6))
    rows = maxvol(X, 4, given=given_, tol=0.0)
    whole = volume(np.concatenate([given_, X[rows]]))
    assert whole == pytest.approx(volume(given_) * volume(off_span(X, given_)[rows]), rel=1e-8)
    # No single swap makes it larger.
    for t in range(4):
        for i in set(range(25)) - set(rows.tolist()):
            other = rows.copy()
            other[t] = i
            assert volume(np.concatenate([given_, X[other]])) <= whole * (1.0 + 1e-9)


def test_given_rows_that_span_everything_leave_only_growth():
    rng = np.random.default_rng(0)
    X, given_ = rng.standard_normal((20, 3)), rng.standard_normal((5, 3))
    first = maxvol(X, 1, given=given_)[0]
    gains = [volume(np.concatenate([given_, X[[i]]])) for i in range(20)]
    assert first == np.argmax(gains)


def test_fewer_rows_than_directions_stand_for_the_leading_ones():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 10)) * np.logspace(0, -3, 10)
    V = np.linalg.svd(X, full_matrices=False)[2][:4].T
    rows = maxvol(X, 4)
    assert np.abs(X @ V @ np.linalg.inv(X[rows] @ V)).max() <= 1.05 + 1e-9
    # The choice does not depend on the axes of the descriptor.
    turned = X @ np.linalg.qr(rng.standard_normal((10, 10)))[0]
    np.testing.assert_array_equal(maxvol(turned, 4), rows)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_leading_directions_are_singular_vectors(shape):
    X = np.random.default_rng(0).standard_normal(shape)
    _, values, Vt = np.linalg.svd(X, full_matrices=False)
    found, V = leading(X, 3)
    np.testing.assert_allclose(found, values[:3])
    np.testing.assert_allclose(np.abs(np.sum(V * Vt[:3].T, axis=0)), 1.0)
    low = X[:, :2] @ np.random.default_rng(1).standard_normal((2, shape[1]))
    assert leading(low, 5)[1].shape == (shape[1], 2)
    assert leading(np.zeros(shape), 5)[1].shape == (shape[1], 0)


def test_off_span_is_a_projection():
    rng = np.random.default_rng(0)
    X, given_ = rng.standard_normal((9, 7)), rng.standard_normal((3, 7))
    rest = off_span(X, given_)
    np.testing.assert_allclose(rest @ given_.T, 0.0, atol=1e-13)
    np.testing.assert_allclose(rest, X - X @ np.linalg.pinv(given_) @ given_, atol=1e-12)


def test_equal_and_empty_rows_still_give_k():
    assert len(set(maxvol(np.ones((6, 3)), 4).tolist())) == 4
    assert len(set(maxvol(np.zeros((6, 3)), 4).tolist())) == 4
    assert len(set(maxvol(np.ones((6, 3)), 4, given=np.ones((2, 3))).tolist())) == 4


def test_bad_vectors_are_refused():
    with pytest.raises(ParameterError, match="`k` must be between 1"):
        maxvol(np.ones((3, 2)), 4)
    with pytest.raises(DataError, match="vector 1 is not finite"):
        maxvol(np.array([[1.0], [np.nan]]), 1)
