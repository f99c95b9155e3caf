"""Iterative CUR against the plain algorithm and scikit-matter."""

from __future__ import annotations

import numpy as np
import pytest

from kernelpot.linalg.volumes import iterative_cur


def matrix(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape) * np.logspace(0, -2, shape[1]) + 0.3


@pytest.mark.parametrize("shape", [(60, 12), (15, 40)])
def test_it_is_scikit_matters_sample_cur(shape):
    selection = pytest.importorskip("skmatter.sample_selection")
    X = matrix(shape)
    expected = selection.CUR(n_to_select=10).fit(X).selected_idx_
    np.testing.assert_array_equal(iterative_cur(X, 10), expected)


@pytest.mark.parametrize("shape", [(60, 12), (15, 40)])
def test_it_is_the_plain_algorithm(shape):
    X = matrix(shape, seed=3)
    rest, expected = X.copy(), []
    for _ in range(9):
        expected.append(int(np.argmax(np.abs(np.linalg.svd(rest)[0][:, 0]))))
        row = rest[expected[-1]] / np.linalg.norm(rest[expected[-1]])
        rest = rest - np.outer(rest @ row, row)
    np.testing.assert_array_equal(iterative_cur(X, 9), expected)
    # The first four given, the others follow.
    np.testing.assert_array_equal(iterative_cur(X, 5, given=X[expected[:4]]), expected[4:])


def test_it_ends_where_nothing_is_left():
    X = matrix((20, 3)) @ np.random.default_rng(1).standard_normal((3, 9))
    assert len(iterative_cur(X, 10)) == 3
    assert len(iterative_cur(np.zeros((4, 2)), 2)) == 0
    assert len(iterative_cur(X, 4, given=X)) == 0
