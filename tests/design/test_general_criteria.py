"""Searches with criteria of several parts, and with those whose gains have no form in small matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.design import IV, A, Compound, D, E, G, Precision, branch_and_bound, certify, select
from kernelpot.design.criteria import MeanVariance
from kernelpot.design.search.engines import LazyGains
from kernelpot.design.search.exchange import exchange
from kernelpot.design.search.gains import Gains, Path
from kernelpot.design.search.pruning import Losses
from kernelpot.design.search.swaps import ScreenedSwaps
from kernelpot.errors import ParameterError
from tests.design.pools import matrix, pool, task
from tests.design.test_criteria import plain, worst

seeds = st.integers(0, 10_000)


def compound(info):
    return Compound([D(), A(info.d), IV(info.target())], [1, 1, 2], info.d)


@given(seeds)
def test_losses_of_a_mean_variance_are_differences_of_values(seed):
    info = pool(8, seed=seed, heights=(0, 1, 3, 9), scale=3.0)
    criterion = MeanVariance([A(info.d), IV(info.target())], [1, 2], info.d)
    losses = Losses(task(info, criterion))
    losses.remove(2)
    left = [0, 1, 3, 4, 5, 6, 7]
    now = plain(criterion, matrix(info, left))
    expected = [plain(criterion, matrix(info, [t for t in left if t != s])) - now for s in left]
    np.testing.assert_allclose(losses.values[left], expected, rtol=1e-5, atol=1e-8)


@given(seeds)
def test_losses_of_a_compound_are_differences_of_values(seed):
    info = pool(8, seed=seed, heights=(0, 1, 3, 9), scale=3.0)
    criterion = compound(info)
    losses = Losses(task(info, criterion))
    left = list(range(8))
    for gone in (3, 0, 5):
        left.remove(gone)
        losses.remove(gone)
        now = plain(criterion, matrix(info, left))
        expected = [now - plain(criterion, matrix(info, [t for t in left if t != s])) for s in left]
        np.testing.assert_allclose(losses.values[left], expected, rtol=1e-5, atol=1e-8)


@given(seeds)
def test_lazy_gains_of_a_compound_are_those_computed_anew(seed):
    info = pool(10, seed=seed, heights=(1, 2, 5, 9), scale=10.0)
    criterion, start = compound(info), Precision.prior(info.d)
    lazy, path = LazyGains(info, Path(criterion, start)), Path(criterion, start)
    for s in (3, 7, 1):
        lazy.add(s, np.ones(10, dtype=bool))
        path.add(info.block(s))
    lazy.update(np.arange(10))
    np.testing.assert_allclose(lazy.values, Gains(info, path).values, rtol=1e-6, atol=1e-7)


@given(seeds, st.booleans())
def test_exchange_of_a_compound_ends_where_no_swap_helps(seed, screen):
    info = pool(8, seed=seed, heights=(1, 3, 9), scale=3.0)
    criterion = compound(info)
    indices = exchange(task(info, criterion, n=3), [0, 1, 2], screen=screen)[0]
    own = plain(criterion, matrix(info, indices))
    assert own >= plain(criterion, matrix(info, [0, 1, 2])) - 1e-9
    if not screen:
        for position in range(3):
            for s in np.setdiff1d(np.arange(8), indices):
                assert plain(criterion, matrix(info, [*np.delete(indices, position), s])) <= own + 1e-6


@given(seeds)
def test_screened_swaps_of_a_compound_know_exact_losses(seed):
    info = pool(8, seed=seed, heights=(1, 3, 9), scale=3.0)
    criterion = compound(info)
    state = ScreenedSwaps(task(info, criterion), [0, 1, 2])
    for s in (0, 1, 2):
        rest = [t for t in (0, 1, 2) if t != s]
        expected = plain(criterion, matrix(info, [0, 1, 2])) - plain(criterion, matrix(info, rest))
        assert state._loss(*state._modes(s)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("kind", "seed"), [("E", 23), ("E", 38), ("G", 31), ("G", 34)])
def test_swaps_stay_within_the_rules_where_others_would_be_better(kind, seed):
    # Once, candidates that no rule allows hid all allowed ones, and a member was taken twice.
    info = pool(9, seed=seed, heights=(1, 3, 9), scale=3.0)
    criterion = E(np.eye(info.d)) if kind == "E" else G(info.rows, info.structure)
    costs = np.random.default_rng(seed).uniform(1.0, 3.0, 9)
    for method in ("exchange", "relaxation"):
        choice = select(info, 4, criterion=criterion, method=method, costs=costs, budget=7.0, quotas={"g0": (1, 2)})
        assert len(set(choice.indices.tolist())) == len(choice)
        assert 1 <= sum(group == "g0" for group in choice.groups) <= 2


@pytest.mark.parametrize("kind", ["E", "G"])
def test_worst_variances_go_through_every_search_and_limit(kind):
    info = pool(9, seed=3, heights=(1, 3, 9), scale=3.0)
    criterion = E(np.eye(info.d)) if kind == "E" else G(info.rows, info.structure)
    costs = np.random.default_rng(0).uniform(1.0, 3.0, 9)
    greedy = select(info, 3, criterion=criterion)
    swapped = select(info, 3, criterion=criterion, method="exchange", restarts=4)
    assert plain(criterion, matrix(info, swapped.indices)) <= plain(criterion, matrix(info, greedy.indices)) + 1e-9
    best = branch_and_bound(info, 3, criterion=criterion)
    assert best.value <= worst(criterion, matrix(info, swapped.indices)) + 1e-9
    for method in ("greedy", "exchange", "relaxation", "stochastic", "kmeans"):
        choice = select(info, 4, criterion=criterion, method=method, costs=costs, budget=7.0, quotas={"g0": (1, 2)})
        assert choice.costs.sum() <= 7.0 + 1e-9
        assert 1 <= sum(group == "g0" for group in choice.groups) <= 2
        shown = certify(info, choice, criterion=criterion, costs=costs, budget=7.0, quotas={"g0": (1, 2)})
        assert 0 < shown.efficiency <= 1
    with pytest.raises(ParameterError, match="closed form"):
        select(info, 3, criterion=criterion, method="pruning")
