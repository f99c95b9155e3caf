"""The cheapest set against brute force, and its promises on random pools."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.design import Information
from kernelpot.errors import ParameterError
from kernelpot.goals import Goal, cheapest
from tests.design.pools import pool


def goal_of(info, q=2, seed=0):
    rows = np.random.default_rng(seed).standard_normal((q, info.d))
    return Goal(tuple(f"q{k}" for k in range(q)), ("eV",) * q, rows, np.ones(q))


def brute(info, goal, costs):
    best = np.inf
    for size in range(len(info) + 1):
        for chosen in combinations(range(len(info)), size):
            if costs[list(chosen)].sum() < best and (goal.std(info.take(list(chosen))) <= goal.scales).all():
                best = costs[list(chosen)].sum()
    return best


@pytest.mark.parametrize("seed", range(4))
def test_close_to_the_cheapest_of_all_sets(seed):
    info = pool(9, d=5, seed=seed, heights=(1, 2, 3), scale=3.0)
    goal = goal_of(info, seed=seed)
    reach, before = goal.std(info), goal.std()
    target = reach + 0.3 * (before - reach)
    costs = np.random.default_rng(seed).uniform(1, 5, len(info))
    plan = cheapest(info, goal, target_std=target, costs=costs)
    assert (plan.std <= target * (1 + 1e-12)).all()
    truth = brute(info, goal.with_scales(target), costs)
    assert truth <= plan.cost + 1e-9
    assert plan.cost <= 1.35 * truth


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95), q=st.integers(1, 3))
def test_targets_are_met_and_nothing_can_be_left_out(seed, share, q):
    info = pool(10, d=5, seed=seed, scale=2.0)
    goal = goal_of(info, q, seed)
    reach, before = goal.std(info), goal.std()
    target = reach + share * (before - reach) + 1e-9
    plan = cheapest(info, goal, target_std=target)
    assert (plan.std <= target).all()
    assert plan.cost == pytest.approx((info.n_atoms[plan.indices].astype(float) ** 3).sum())
    assert plan.cost <= plan.pool_cost
    for s in plan.indices:
        rest = plan.indices[plan.indices != s]
        assert (goal.std(info.take(rest)) > target).any()
    again = cheapest(info, goal, target_std=target)
    np.testing.assert_array_equal(plan.indices, again.indices)


def test_nothing_is_chosen_where_nothing_is_needed():
    info = pool(5, seed=3)
    goal = goal_of(info)
    plan = cheapest(info, goal, target_std=10 * goal.std())
    assert len(plan) == 0
    assert plan.cost == 0.0


def test_what_is_labelled_already_counts():
    info = pool(8, d=4, seed=5, heights=(2, 3))
    goal = goal_of(info)
    target = 1.001 * goal.std(info)
    plan = cheapest(info.take(range(4, 8)), goal, target_std=target, existing=info.take(range(4)))
    assert 0 < len(plan) <= 4
    assert (plan.std <= target).all()
    assert len(cheapest(info, goal, target_std=target, existing=info)) == 0


def test_what_no_label_can_reach_is_said():
    info = Information.from_rows(np.array([[1.0, 0.0], [2.0, 0.0]]))
    blind = Goal(("seen", "unseen"), ("eV", "GPa"), np.eye(2), np.array([0.9, 0.5]))
    with pytest.raises(ParameterError, match=r"of unseen is 0\.5 GPa, but labels of all 2 structures reach 1"):
        cheapest(info, blind)


def test_wrong_costs_are_refused():
    info = pool(4)
    with pytest.raises(ParameterError, match="`costs`"):
        cheapest(info, goal_of(info), costs=[1.0, 2.0])


def test_the_table_names_every_quantity():
    info = pool(6, seed=1)
    goal = goal_of(info)
    plan = cheapest(info, goal, target_std=1.01 * goal.std(info))
    text = str(plan)
    assert "% of the pool's" in text
    assert f"{plan.cost:.6g} (Σ N_atoms³)" in text
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["quantity", "q0", "q1", "structures:"]
    assert text.splitlines()[-1] == "structures: " + ", ".join(map(str, plan.indices))
    assert repr(plan).startswith(f"Plan({len(plan)} structures at a cost of")
    assert "\n" not in repr(plan)
