from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.design import IV, A, D, Information, Precision, duplicates, select
from kernelpot.design.search.greedy import greedy
from kernelpot.errors import ParameterError
from tests.design.pools import matrix, pool, task

seeds = st.integers(0, 10_000)
names = st.sampled_from(["D", "A", "IV"])
METHODS = ["greedy", "exchange", "relaxation", "random", "fps", "kmeans"]


def value(name, Lambda, V):
    if name == "D":
        return np.linalg.slogdet(Lambda)[1]
    return np.trace((V if name == "IV" else np.eye(len(Lambda))) @ np.linalg.inv(Lambda))


def plain_greedy(info, n, name, V, start):
    chosen, Lambda = [], start
    for _ in range(n):
        scores = [
            (1 if name == "D" else -1) * value(name, Lambda + info.block(s).T @ info.block(s), V)
            if s not in chosen
            else -np.inf
            for s in range(len(info))
        ]
        chosen.append(int(np.argmax(scores)))
        Lambda = Lambda + info.block(chosen[-1]).T @ info.block(chosen[-1])
    return chosen


@given(seeds, names)
def test_greedy_is_the_plain_greedy_and_the_curve_its_values(seed, name):
    info = pool(9, seed=seed, heights=(1, 2, 3, 5, 9, 20), scale=3.0)
    V = info.target()
    choice = select(info, 4, criterion=name)
    assert choice.indices.tolist() == plain_greedy(info, 4, name, V, np.eye(info.d))
    expected = [value(name, matrix(info, choice.indices[:k]), V) for k in range(5)]
    np.testing.assert_allclose(choice.curve, expected, rtol=1e-8, atol=1e-9)


@given(seeds, st.sampled_from([1.0, 100.0]), st.booleans())
def test_lazy_greedy_chooses_what_exact_greedy_chooses(seed, scale, single):
    heights = (1,) if single else (0, 1, 2, 3, 5, 9, 20)
    info = pool(40, seed=seed, heights=heights, scale=scale)
    runs = [greedy(task(info, D(), n=20, seed=seed), lazy=lazy) for lazy in (True, False)]
    assert runs[0][0] == runs[1][0]
    np.testing.assert_allclose(runs[0][1].values, runs[1][1].values, rtol=1e-9, atol=1e-9)


@given(seeds, names, st.sampled_from(METHODS), st.sampled_from([0.0, 1e-3, 0.1]))
def test_the_efficiency_bound_holds_against_every_set(seed, name, method, share):
    full = pool(7, seed=seed, scale=2.0)
    V = full.target()
    choice = select(full.truncated(share), 3, criterion=name, method=method, target=V)
    sets = [value(name, matrix(full, T), V) for T in combinations(range(7), 3)]
    own = value(name, matrix(full, choice.indices), V)
    true = np.exp((own - max(sets)) / full.d) if name == "D" else min(sets) / own
    assert 0 <= choice.efficiency_bound <= true + 1e-9


@given(seeds, names)
def test_existing_equals_conditioning(seed, name):
    info, known = pool(8, seed=seed, heights=(1, 3, 9)), pool(4, seed=seed + 1, heights=(1, 3, 9))
    V = info.target()
    choice = select(info, 3, criterion=name, existing=known, target=info)
    assert choice.indices.tolist() == plain_greedy(info, 3, name, V, matrix(known))
    both = matrix(known) + matrix(info, choice.indices) - np.eye(info.d)
    assert choice.curve[-1] == pytest.approx(value(name, both, V), rel=1e-8)


@given(seeds, names)
def test_the_choice_follows_a_permutation_of_the_pool(seed, name):
    info = pool(9, seed=seed, heights=(1, 2, 5, 9))
    order = np.random.default_rng(seed).permutation(9)
    one, two = select(info, 4, criterion=name), select(info.take(order), 4, criterion=name)
    assert order[two.indices].tolist() == one.indices.tolist()


@pytest.mark.parametrize("name", ["D", "A", "IV"])
def test_gains_survive_information_of_condition_1e11(name):
    rng = np.random.default_rng(0)
    d = 40
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    scale = np.logspace(5, -2, d)
    blocks = []
    for _ in range(40):
        rows = rng.standard_normal((12, d)) * scale * rng.uniform(0.2, 1.0)
        blocks.append((rows, np.array([0] + [1] * 11), np.ones(12)))
    # In the first pool every weight has one scale, where even plain formulas keep their digits.
    aligned = Information.from_blocks(blocks, n_atoms=[2] * 40)
    turned = Information.from_blocks([(r @ rotation, k, s) for r, k, s in blocks], n_atoms=[2] * 40)
    one, two = (select(info, 30, criterion=name) for info in (aligned, turned))
    assert one.indices.tolist()[:10] == two.indices.tolist()[:10]
    np.testing.assert_allclose(one.curve[1:], two.curve[1:], rtol=1e-4)
    C = Precision.prior(d).with_rows(aligned.take(one.indices).rows)
    expected = {"D": D(), "A": A(d), "IV": IV(aligned.target())}[name].value(C)
    assert one.curve[-1] == pytest.approx(expected, rel=1e-9)


def with_copies(seed=0):
    """Five structures, each three times."""
    return pool(5, seed=seed, heights=(3, 9)).take([0, 1, 2, 3, 4] * 3)


@pytest.mark.parametrize("method", METHODS)
def test_duplicates_are_chosen_only_when_nothing_else_is_left(method):
    info = with_copies()
    np.testing.assert_array_equal(duplicates(info), [0, 1, 2, 3, 4] * 3)
    choice = select(info, 5, method=method)
    assert len(set(choice.indices % 5)) == 5
    assert (choice.n_repeated, choice.n_distinct) == (0, 5)
    more = select(info, 7, method=method)
    assert len(set(more.indices.tolist())) == 7
    assert len(set(more.indices[:5] % 5)) == 5
    assert more.n_repeated == 2
    assert "2 of them repeat another structure" in str(more)


@pytest.mark.parametrize("method", METHODS)
def test_duplicates_of_existing_structures_are_left_out(method):
    info = with_copies()
    choice = select(info, 3, method=method, existing=info.take([0, 6]))
    assert set(choice.indices % 5) == {2, 3, 4}


def test_near_copies_count_as_duplicates_within_the_tolerance_and_sizes_separate():
    info = pool(6)
    means = info.means.copy()
    means[4] = means[1] * (1 + 1e-10)
    means[5] = means[2]
    n_atoms = np.array([4, 4, 4, 4, 4, 8])
    groups = duplicates(replace(info, means=means, n_atoms=n_atoms))
    np.testing.assert_array_equal(groups, [0, 1, 2, 3, 1, 4])
    assert len(set(duplicates(info, tolerance=1e3))) <= len(set(info.n_atoms))
    np.testing.assert_array_equal(duplicates(replace(info, means=np.empty((6, 0)))), np.arange(6))
    with pytest.raises(ParameterError, match="`tolerance`"):
        duplicates(info, tolerance=-1.0)


def test_the_target_counts_duplicates_once():
    info = pool(5, heights=(3, 9))
    uneven = info.take([0, 1, 2, 3, 4, 4, 4, 4])
    one, two = select(info, 3), select(uneven, 3)
    np.testing.assert_allclose(one.curve, two.curve)


@given(seeds, names, st.sampled_from(METHODS))
def test_a_budget_is_never_exceeded_and_its_bound_holds(seed, name, method):
    info = pool(8, seed=seed, scale=2.0)
    costs = np.random.default_rng(seed).uniform(1.0, 10.0, 8)
    choice = select(info, None, criterion=name, method=method, costs=costs, budget=15.0, target=info)
    assert choice.costs.sum() <= 15.0 + 1e-9
    left = np.setdiff1d(np.arange(8), choice.indices)
    assert (costs[left] > 15.0 - choice.costs.sum() - 1e-9).all()
    V = info.target()
    sets = [T for k in range(9) for T in combinations(range(8), k) if costs[list(T)].sum() <= 15.0]
    values = [value(name, matrix(info, T), V) for T in sets]
    own = choice.curve[-1]
    true = np.exp((own - max(values)) / info.d) if name == "D" else min(values) / own
    assert len(choice.curve) == len(choice) + 1
    assert choice.efficiency_bound <= true + 1e-9


def test_costs_default_to_the_cube_of_the_number_of_atoms():
    info = pool(8)
    choice = select(info, None, budget=600.0)
    np.testing.assert_array_equal(choice.costs, info.n_atoms[choice.indices] ** 3.0)
    same = select(info, None, costs=lambda i: i.n_atoms**3.0, budget=600.0)
    np.testing.assert_array_equal(choice.indices, same.indices)
    assert "of a budget of 600" in str(choice)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_gives_one_answer_and_every_method_carries_the_curve(method):
    info = pool(30, heights=(3, 9))
    choice = select(info, 6, criterion="IV", method=method, seed=5)
    again = select(info, 6, criterion="IV", method=method, seed=5)
    np.testing.assert_array_equal(choice.indices, again.indices)
    assert len(set(choice.indices.tolist())) == 6
    V = info.target()
    np.testing.assert_allclose(choice.curve[-1], value("IV", matrix(info, choice.indices), V))
    assert (choice.criterion, choice.method) == ("IV", method)


def test_ties_are_broken_by_the_seed():
    info = Information.from_rows(np.ones((20, 1)))
    info = replace(info, means=np.empty((20, 0)))
    assert len({select(info, 1, criterion="D", seed=seed).indices[0] for seed in range(10)}) > 1


def test_plain_regression_rows_need_no_structures():
    X = np.random.default_rng(0).standard_normal((40, 5))
    choice = select(Information.from_rows(X, prior=1e-6), 10, criterion="D")
    chosen = X[choice.indices]
    expected = np.linalg.slogdet(chosen.T @ chosen + 1e-6 * np.eye(5))[1]
    assert choice.curve[-1] + 5 * np.log(1e-6) == pytest.approx(expected)


def test_nothing_everything_and_empty_information_have_obvious_answers():
    info = pool(5)
    none = select(info, 0)
    assert (len(none), len(none.curve), none.efficiency_bound) == (0, 1, None)
    assert sorted(select(info, 5).indices) == [0, 1, 2, 3, 4]
    silent = pool(5, heights=(0,))
    for name in ("D", "A", "IV"):
        choice = select(silent, 3, criterion=name)
        assert len(choice) == 3
        assert choice.curve[0] == choice.curve[-1]
        assert choice.efficiency_bound == pytest.approx(1.0)
    assert select(pool(1, heights=(3,)), 1).indices.tolist() == [0]


def test_a_choice_prints_settings_and_a_short_table():
    info = pool(30, heights=(3, 9))
    text = str(select(info, 20, criterion="IV"))
    assert "20 of 30 structures (30 distinct), method greedy, criterion IV = tr(VC), smaller is better" in text
    assert "with noise of energy 0.002 eV/atom, noise of forces 0.1 eV/Å" in text
    assert "at least 0." in str(select(info, 5))
    assert len(text.splitlines()) < 20
    assert "larger is better" in str(select(info, 2, criterion="D"))


def test_i_is_another_name_of_iv():
    info = pool(9)
    one, two = select(info, 3, criterion="I"), select(info, 3, criterion="IV")
    np.testing.assert_array_equal(one.indices, two.indices)
    assert one.criterion == "IV"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 9}, "`n` must be between 0 and the number of candidates, 8; got 9"),
        ({"n": -1}, "`n` must be a whole number, at least 0"),
        ({"n": 2.5}, "`n` must be a whole number, at least 0, got 2.5"),
        ({"n": None}, "`n` may be None only where a `budget`"),
        ({"criterion": "X"}, "unknown criterion 'X'; choose from balanced, IV, D, A"),
        ({"method": "magic"}, "unknown method 'magic'; choose from greedy, stochastic, exchange"),
        ({"existing": pool(d=5)}, "`existing` has 5 weights and the pool 6"),
        ({"target": np.eye(4)}, "`target` must speak about 6 weights"),
        ({"costs": np.ones(8)}, "`costs` have no effect without a `budget`"),
        ({"costs": np.ones(3), "budget": 1.0}, "`costs` must hold one cost for each of 8"),
        ({"costs": np.zeros(8), "budget": 1.0}, "`costs` must be positive"),
        ({"budget": np.nan}, "`budget` must be a finite number"),
    ],
)
def test_wrong_arguments_are_refused(settings, message):
    with pytest.raises(ParameterError, match=message):
        select(pool(), **{"n": 2, **settings})


def test_rivals_that_need_means_say_so():
    info = replace(pool(), means=np.empty((8, 0)))
    with pytest.raises(ParameterError, match="method 'fps' compares mean descriptors"):
        select(info, 2, method="fps")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_named(seed):
    info = Information.from_rows(np.eye(3))
    with pytest.raises(ParameterError, match="seed"):
        select(info, 2, method="kmeans", seed=seed)


def test_structures_instead_of_information_are_named():
    with pytest.raises(ParameterError, match="Information"):
        select(["no", "information"], 1)
