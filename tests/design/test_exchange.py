from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.design import IV, A, D, Information, Precision, select
from kernelpot.design.available import Available, swappable
from kernelpot.design.search.exchange import exchange, fill
from kernelpot.design.search.swaps import BlockSwaps, RowSwaps, ScreenedSwaps
from kernelpot.design.task import Rules
from kernelpot.errors import ParameterError
from tests.design.pools import matrix, pool, task

seeds = st.integers(0, 10_000)
names = st.sampled_from(["D", "A", "IV"])


def rows(seed, n=30, d=4):
    X = np.random.default_rng(seed).standard_normal((n, d)) * np.logspace(0, -2, d)
    return Information.from_rows(X, prior=1e-4)


def criteria(info):
    return [D(), A(info.d), IV(info.target())]


def value(name, Lambda, V):
    if name == "D":
        return np.linalg.slogdet(Lambda)[1]
    return np.trace((V if name == "IV" else np.eye(len(Lambda))) @ np.linalg.inv(Lambda))


@given(seeds, st.booleans())
def test_swap_gains_equal_differences_of_values_before_and_after_swaps(seed, plain):
    info = rows(seed, 12) if plain else pool(seed=seed, heights=(1, 2, 5, 9), scale=3.0)
    start = Precision.prior(info.d).with_rows(np.ones((1, info.d)))
    for criterion in criteria(info):
        sign = 1.0 if criterion.larger_is_better else -1.0
        state = (RowSwaps if plain else BlockSwaps)(task(info, criterion, start=start), [0, 3, 5, 6, 2])
        for position, s in [(1, 7), (4, 1), (1, 4)]:
            rest = [m for k, m in enumerate(state.indices) if k != position]
            without = criterion.value(start.with_rows(info.take(rest).rows))
            expected = [
                sign * (criterion.value(start.with_rows(info.take([*rest, c]).rows)) - without)
                for c in range(len(info))
            ]
            gains = state.without(position, np.ones(len(info), dtype=bool))
            np.testing.assert_allclose(gains, expected, rtol=1e-6, atol=1e-7 * max(expected))
            state.swap(position, s)
            assert state.value == pytest.approx(criterion.value(start.with_rows(info.take(state.indices).rows)))


@given(seeds)
def test_promising_members_are_those_that_a_candidate_could_replace(seed):
    info = rows(seed)
    for criterion in criteria(info):
        state = RowSwaps(task(info, criterion), [3, 7, 1, 22, 15, 9])
        found = []
        for position, member in enumerate(state.indices):
            gains = state.without(position, np.ones(len(info), dtype=bool))
            others = np.delete(np.arange(len(info)), state.indices)
            if gains[others].max() > gains[member] + 1e-6 * abs(state.value):
                found.append(position)
        assert state.promising(1e-6 * abs(state.value)).tolist() == found


def test_a_member_that_alone_knows_a_direction_keeps_its_gain():
    X = np.eye(4) * 1e5
    info = Information.from_rows(np.concatenate([X, 0.5 * X]))
    state = RowSwaps(task(info, A(4)), [0, 1, 2, 3])
    assert state.without(2, np.ones(8, dtype=bool))[2] == pytest.approx(1.0 - 1e-10, rel=1e-9)
    assert len(state.promising(0.0)) == 4  # not told from the formula: to be tried
    state.swap(2, 6)
    assert state.value == pytest.approx(A(4).value(Precision.prior(4).with_rows(info.take([0, 1, 6, 3]).rows)))


@given(seeds, names, st.booleans())
def test_exchange_never_loses_to_greedy_and_no_single_swap_helps_afterwards(seed, name, plain):
    info = rows(seed) if plain else pool(9, seed=seed, scale=3.0)
    V = info.target()
    greedy, choice = (select(info, 4, criterion=name, method=m, restarts=0) for m in ("greedy", "exchange"))
    sign = 1.0 if name == "D" else -1.0
    assert sign * choice.curve[-1] >= sign * greedy.curve[-1] - 1e-8 * abs(greedy.curve[-1])
    own = value(name, matrix(info, choice.indices), V)
    assert choice.curve[-1] == pytest.approx(own, rel=1e-8)
    for position in range(4):
        for s in np.setdiff1d(np.arange(len(info)), choice.indices):
            other = value(name, matrix(info, [*np.delete(choice.indices, position), s]), V)
            assert sign * other <= sign * own + 1e-6 * abs(own)


@pytest.mark.parametrize("name", ["D", "A", "IV"])
def test_restarts_find_the_best_of_all_sets_on_small_pools(name):
    for seed in range(5):
        info = pool(10, seed=seed, heights=(1, 3, 9), scale=2.0)
        V = info.target()
        values = [value(name, matrix(info, T), V) for T in combinations(range(10), 4)]
        choice = select(info, 4, criterion=name, method="exchange", restarts=10, target=V)
        assert choice.curve[-1] == pytest.approx(max(values) if name == "D" else min(values), rel=1e-9)


@given(seeds, names)
def test_existing_information_counts_in_swaps(seed, name):
    info, known = pool(8, seed=seed, heights=(1, 3, 9)), pool(4, seed=seed + 1, heights=(1, 3, 9))
    V = info.target()
    choice = select(info, 2, criterion=name, method="exchange", existing=known, target=info, restarts=6)
    before = matrix(known) - np.eye(info.d)
    values = [value(name, before + matrix(info, T), V) for T in combinations(range(8), 2)]
    best = max(values) if name == "D" else min(values)
    assert choice.curve[-1] == pytest.approx(best, rel=0.02)


@given(seeds, names)
def test_under_a_budget_swaps_stay_within_it_and_never_lose(seed, name):
    info = pool(9, seed=seed, scale=2.0)
    costs = np.random.default_rng(seed).uniform(1.0, 10.0, 9)
    greedy, choice = (
        select(info, None, criterion=name, method=m, costs=costs, budget=15.0, restarts=3)
        for m in ("greedy", "exchange")
    )
    assert choice.costs.sum() <= 15.0 + 1e-9
    assert len(set(choice.indices.tolist())) == len(choice)
    sign = 1.0 if name == "D" else -1.0
    assert sign * choice.curve[-1] >= sign * greedy.curve[-1] - 1e-8 * abs(greedy.curve[-1])


@given(seeds, st.integers(1, 7), st.booleans())
def test_swaps_obey_the_rules_that_picks_obey(seed, n, limited):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 4, 8)
    rules = Rules(n, groups, np.isin(groups, [2]), rng.uniform(1.0, 3.0, 8), 9.0 if limited else np.inf, 0)
    available = Available(rules)
    while (live := available.now()).any():
        available.choose(int(rng.choice(np.flatnonzero(live))))
    chosen = available.indices
    for position in range(len(chosen)):
        again = Available(rules)
        for s in np.delete(chosen, position):
            again.choose(int(s))
        np.testing.assert_array_equal(swappable(rules, chosen, position), again.now())


def test_exchange_starts_from_any_design_and_a_seed_gives_one_answer():
    info = pool(20, heights=(3, 9), scale=2.0)
    asked, start = task(info, D(), n=4, seed=3), Precision.prior(info.d)
    poor = [0, 1, 2, 3]
    one, two = (exchange(asked, poor, restarts=3) for _ in range(2))
    assert one == two
    assert one[1] > 0
    before, after = (D().value(start.with_rows(info.take(s).rows)) for s in (poor, one[0]))
    assert after > before
    assert exchange(task(info, D()), [], restarts=2) == ([], 0)
    assert fill(asked, [5])[0] == 5


def test_empty_blocks_and_whole_pools_are_settled_at_once():
    silent = pool(5, heights=(0,))
    assert len(select(silent, 3, method="exchange", restarts=2)) == 3
    assert sorted(select(pool(5), 5, method="exchange", restarts=2).indices) == [0, 1, 2, 3, 4]
    with pytest.raises(ParameterError, match="`restarts` must be a whole number, at least 0, got -1"):
        select(pool(5), 2, method="exchange", restarts=-1)


@pytest.mark.parametrize(("name", "target"), [("D", 238.345), ("A", 0.5042)])
def test_plain_regression_reaches_what_a_best_swap_exchange_of_five_starts_does(name, target):
    X = np.random.default_rng(1).standard_normal((2000, 50))
    choice = select(Information.from_rows(X, prior=1e-6), 100, criterion=name, method="exchange")
    chosen = X[choice.indices]
    own = value(name, chosen.T @ chosen + 1e-6 * np.eye(50), None)
    assert own >= target if name == "D" else own <= target


@given(seeds, names)
def test_gains_and_losses_of_the_screen_are_exact_but_for_what_it_shortens(seed, name):
    info = pool(10, seed=seed, heights=(1, 2, 5, 9), scale=3.0)
    criterion = {"D": D(), "A": A(info.d), "IV": IV(info.target())}[name]
    indices = [0, 3, 5, 6]
    screened, exact = (swaps(task(info, criterion), indices) for swaps in (ScreenedSwaps, BlockSwaps))
    losses = []
    for position, member in enumerate(indices):
        gains = exact.without(position, np.ones(len(info), dtype=bool)).copy()
        squares, T = screened._modes(member)
        losses.append(screened._loss(squares, T))
        assert losses[-1] == pytest.approx(gains[member], rel=1e-6)
        W = T / np.sqrt(1.0 - squares)[:, None]
        np.testing.assert_allclose(screened._full_gains_beside(W, np.arange(10)), gains, rtol=1e-6, atol=1e-9)
        assert (screened._gains_beside(W) <= gains * (1 + 1e-9) + 1e-9).all()  # shortened blocks know less
    assert screened.promising(0.0).tolist() == np.argsort(losses, kind="stable").tolist()


@given(seeds, names, st.booleans())
def test_screened_exchange_never_loses_to_where_it_starts_and_ends_near_the_exact_one(seed, name, limited):
    info = pool(25, d=8, seed=seed, heights=(1, 3, 9), scale=3.0)
    criterion = {"D": D(), "A": A(info.d), "IV": IV(info.target())}[name]
    rules = Rules.plain(6, 25, seed)
    if limited:
        labels = np.arange(25) % 2
        rules = replace(rules, labels=labels, least=np.array([2, 2]), most=np.array([6, 6]), classes=("0", "1"))
    start, first = Precision.prior(info.d), [0, 1, 2, 3, 4, 5]
    ends = []
    for screen in (True, False):
        indices = exchange(task(info, criterion, rules), first, screen=screen)[0]
        assert rules.breach(indices) is None
        ends.append(criterion.value(start.with_rows(info.take(indices).rows)))
    sign = 1.0 if criterion.larger_is_better else -1.0
    before = criterion.value(start.with_rows(info.take(first).rows))
    assert sign * ends[0] >= sign * before
    assert criterion.efficiency(ends[0], ends[1], info.d) >= 0.85
