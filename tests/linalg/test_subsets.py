from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.errors import DataError, ParameterError
from kernelpot.linalg.subsets import cur, farthest_points, kmeans_medoids


def plain_farthest(X, k, first):
    chosen = [first]
    while len(chosen) < k:
        near = np.square(X[:, None] - X[chosen]).sum(-1).min(1)
        chosen.append(int(near.argmax()))
    return chosen


@given(st.integers(0, 1000), st.sampled_from([1.0, 1e-6, 1e6]))
def test_farthest_points_are_those_of_the_plain_algorithm(seed, scale):
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((5, 3))[rng.integers(5, size=60)] + 0.2 * rng.standard_normal((60, 3))) * scale
    assert farthest_points(X, 20, first=7).tolist() == plain_farthest(X, 20, 7)


def test_farthest_points_stop_early_when_nothing_is_left_to_cover():
    X = np.repeat(np.eye(3), 4, axis=0)
    assert len(farthest_points(X, 9)) == 3
    line = np.arange(10.0)[:, None]
    assert len(farthest_points(line, 10, first=0, tol=1.0)) < 10


def test_farthest_points_go_on_from_several_taken_ones():
    X = np.arange(10.0)[:, None]
    assert farthest_points(X, 3, first=[0, 9]).tolist() in ([0, 9, 4], [0, 9, 5])


@pytest.mark.parametrize("method", [farthest_points, cur, kmeans_medoids])
def test_subsets_are_distinct_and_repeat_under_a_seed(method):
    X = np.random.default_rng(0).standard_normal((50, 4))
    chosen = method(X, 12, seed=3)
    assert len(set(chosen.tolist())) == 12
    np.testing.assert_array_equal(chosen, method(X, 12, seed=3))


@pytest.mark.parametrize("method", [farthest_points, cur, kmeans_medoids])
def test_bad_vectors_and_sizes_are_refused(method):
    X = np.ones((5, 2))
    with pytest.raises(ParameterError, match="`k` must be between 1"):
        method(X, 6)
    with pytest.raises(ParameterError, match="shape"):
        method(X[0], 1)
    X[3, 1] = np.nan
    with pytest.raises(DataError, match="vector 3 is not finite"):
        method(X, 2)


def test_wrong_starts_are_refused():
    X = np.ones((5, 2))
    with pytest.raises(ParameterError, match="`first` must hold"):
        farthest_points(X, 2, first=5)
    with pytest.raises(ParameterError, match="counts the points"):
        farthest_points(X, 1, first=[0, 1])
    with pytest.raises(ParameterError, match="`tol`"):
        farthest_points(X, 1, tol=-1.0)
    with pytest.raises(ParameterError, match="`n_init`"):
        kmeans_medoids(X, 1, n_init=0)


@pytest.mark.parametrize("shape", [(60, 5), (20, 40)])
def test_cur_prefers_rows_of_high_leverage(shape):
    X = np.random.default_rng(1).standard_normal(shape) * 1e-3
    X[:, 0] = 0.0
    X[11, 0] = 1.0
    hits = [11 in cur(X, 3, seed=seed) for seed in range(40)]
    assert np.mean(hits) > 0.5 if shape[0] > shape[1] else np.mean(hits) > 3 / shape[0]


def test_cur_of_zero_rows_still_returns_distinct_ones():
    assert len(set(cur(np.zeros((5, 2)), 3).tolist())) == 3


def test_kmeans_medoids_take_one_member_of_every_cluster():
    centres = 100.0 * np.arange(4)[:, None] * np.ones(3)
    X = np.repeat(centres, 10, axis=0) + np.random.default_rng(0).standard_normal((40, 3))
    assert sorted(kmeans_medoids(X, 4) // 10) == [0, 1, 2, 3]
    assert len(set(kmeans_medoids(np.ones((5, 2)), 3).tolist())) == 3
