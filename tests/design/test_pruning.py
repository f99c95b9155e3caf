from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.design import select
from kernelpot.design.criteria import make_criterion
from kernelpot.design.search.pruning import Losses
from tests.design.pools import matrix, pool, task
from tests.design.sets import value

seeds = st.integers(0, 10_000)
names = st.sampled_from(["D", "A", "IV"])


def plain_pruning(info, n, name, V):
    """Backward elimination by the definition."""
    left = list(range(len(info)))
    while len(left) > n:
        scores = [(1 if name == "D" else -1) * value(name, matrix(info, [t for t in left if t != s]), V) for s in left]
        left.pop(int(np.argmax(scores)))
    return left


@given(seeds, names)
def test_pruning_is_plain_backward_elimination(seed, name):
    info = pool(9, seed=seed, heights=(1, 2, 5, 9, 20), scale=3.0)
    choice = select(info, 4, criterion=name, method="pruning")
    assert sorted(choice.indices) == plain_pruning(info, 4, name, info.target())


@given(seeds, names, st.sampled_from([1.0, 30.0]))
def test_losses_are_differences_of_values_while_members_go(seed, name, scale):
    info = pool(10, seed=seed, heights=(0, 1, 3, 9), scale=scale)
    measure = make_criterion(name, info, info)
    losses = Losses(task(info, measure))
    left = list(range(10))
    for gone in (3, 8, 0, 5):
        left.remove(gone)
        losses.remove(gone)
        sign = 1.0 if name == "D" else -1.0
        now = value(name, matrix(info, left), info.target())
        expected = [sign * (now - value(name, matrix(info, [t for t in left if t != s]), info.target())) for s in left]
        np.testing.assert_allclose(losses.values[left], expected, rtol=1e-5, atol=1e-8 * (1 + abs(now)))


def test_a_long_course_in_information_of_condition_1e11_keeps_its_digits():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    info = pool(60, d=20, heights=(3,), seed=1)

    rows = rng.standard_normal(info.rows.shape) * np.logspace(5, -2, 20)
    turned = replace(info, rows=rows @ rotation)
    straight = replace(info, rows=rows)
    for name in ("D", "IV"):
        one, two = (select(part, 10, criterion=name, method="pruning") for part in (straight, turned))
        assert sorted(one.indices) == sorted(two.indices)
        assert one.curve[-1] == pytest.approx(two.curve[-1], rel=1e-5)


def test_pruning_is_near_greedy_in_larger_pools():
    info = pool(40, d=10, seed=4, heights=(1, 3, 9), scale=3.0)
    for name in ("D", "IV"):
        best = select(info, 8, criterion=name, method="exchange", restarts=5).curve[-1]
        pruned = select(info, 8, criterion=name, method="pruning").curve[-1]
        assert pruned == pytest.approx(best, rel=0.1)
