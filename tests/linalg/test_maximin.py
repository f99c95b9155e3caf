"""Maximin distances against farthest points and brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist

from kernelpot.linalg.subsets import farthest_points, maximin

seeds = st.integers(0, 10_000)


@given(seeds, st.integers(2, 12))
def test_the_smallest_distance_is_never_below_that_of_farthest_points(seed, k):
    X = np.random.default_rng(seed).standard_normal((40, 3))
    chosen = maximin(X, k, seed=seed)
    assert len(set(chosen.tolist())) == k
    assert pdist(X[chosen]).min() >= pdist(X[farthest_points(X, k, seed=seed)]).min() * (1.0 - 1e-12)


@given(seeds)
def test_given_points_count_and_never_make_it_worse(seed):
    rng = np.random.default_rng(seed)
    X, given_ = rng.standard_normal((30, 2)), rng.standard_normal((4, 2))

    def smallest(rows):
        return min(pdist(X[rows]).min(), cdist(X[rows], given_).min())

    start = farthest_points(np.concatenate([given_, X]), 9, first=np.arange(4))[4:] - 4
    chosen = maximin(X, 5, given=given_, seed=seed)
    assert len(set(chosen.tolist())) == 5
    assert smallest(chosen) >= smallest(start) * (1.0 - 1e-12)


def test_it_comes_near_the_best_of_all_where_farthest_points_do_not():
    ours, theirs = [], []
    for seed in range(20):
        X = np.random.default_rng(seed).random((14, 2))
        best = max(pdist(X[list(rows)]).min() for rows in combinations(range(14), 5))
        ours.append(pdist(X[maximin(X, 5, seed=seed)]).min() / best)
        theirs.append(pdist(X[farthest_points(X, 5, seed=seed)]).min() / best)
    assert np.mean(ours) > 0.97 > np.mean(theirs)


@pytest.mark.parametrize("k", [1, 3])
def test_equal_points_end_the_exchange(k):
    assert len(set(maximin(np.ones((5, 2)), k).tolist())) == k
    assert len(set(maximin(np.ones((5, 2)), k, given=np.ones((2, 2))).tolist())) == k


def test_all_points_are_a_choice_too():
    X = np.random.default_rng(0).standard_normal((6, 2))
    assert sorted(maximin(X, 6)) == list(range(6))
