from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.optimize import minimize

from kernelpot.design.bounds.climb import frank_wolfe
from kernelpot.design.bounds.polytope import Polytope
from tests.design.sets import all_sets, request, rules_of

seeds = st.integers(0, 100_000)


@given(seeds, st.booleans())
def test_vertices_obey_the_limits_and_no_set_is_worth_more(seed, twins):
    info, limits = request(seed, 8, twins=twins)
    assume(limits is not None)
    rules = rules_of(info, limits)
    polytope = Polytope(rules)
    g = np.random.default_rng(seed).exponential(size=8)
    w = polytope.vertex(g)
    assert ((w >= 0) & (w <= 1)).all()
    assert w.sum() <= rules.n + 1e-6
    assert (w[rules.forced] == 1).all()
    assert (w[rules.forbidden] == 0).all()
    assert (w @ rules.costs <= rules.budget + 1e-6).all()
    counts = np.array([w[rules.labels == q].sum() for q in range(len(rules.most))])
    assert (counts <= rules.most + 1e-6).all()
    assert (counts >= rules.least - 1e-6).all()
    truth = max(g[list(chosen)].sum() for chosen in all_sets(info, limits))
    assert w @ g >= truth - 1e-6
    assert polytope.limit(g) >= w @ g - 1e-6


@given(seeds)
@example(253)
def test_frank_wolfe_finds_the_nearest_point_that_a_general_solver_finds(seed):
    info, limits = request(seed, 8)
    assume(limits is not None and "forced" not in limits)
    rules = rules_of(info, limits)
    polytope = Polytope(rules)
    target = np.random.default_rng(seed).uniform(0.5, 1.5, 8)
    start = polytope.vertex(np.ones(8))
    found = frank_wolfe(
        lambda w: -float(np.square(w - target).sum()), lambda w: 2.0 * (target - w), polytope.vertex, start, steps=500
    )
    open_ = rules.open
    limited = [{"type": "ineq", "fun": lambda w: rules.n - w[open_].sum()}]
    limited += [
        {"type": "ineq", "fun": lambda w, k=k: rules.budget[k] - rules.costs[open_, k] @ w[open_]}
        for k in range(len(rules.budget))
    ]
    for q in range(len(rules.most)):
        mine = open_ & (rules.labels == q)
        limited.append({"type": "ineq", "fun": lambda w, q=q, mine=mine: rules.most[q] - w[mine].sum()})
        limited.append({"type": "ineq", "fun": lambda w, q=q, mine=mine: w[mine].sum() - rules.least[q]})
    bounds = [(0.0, 1.0 if free else 0.0) for free in open_]
    reference = minimize(lambda w: np.square(w - target).sum(), start, bounds=bounds, constraints=limited)
    assume(reference.success)
    assert -found.value <= reference.fun + 1e-3
    assert found.gap >= -found.value - reference.fun - 1e-6  # the gap bounds what is missing


def test_frank_wolfe_stops_when_told_to_and_where_nothing_is_gained():
    corners = np.eye(3)
    nearest = lambda g: corners[np.argmax(g)]  # noqa: E731
    seen = []
    found = frank_wolfe(
        lambda w: -float(w @ w),
        lambda w: -2.0 * w,
        nearest,
        corners[0],
        stop=lambda w, value, g, gap: seen.append(gap) or len(seen) == 3,
    )
    assert found.steps == 2
    assert seen[0] == pytest.approx(2.0)
    flat = frank_wolfe(lambda w: 1.0, np.zeros_like, nearest, corners[0])
    assert (flat.steps, flat.gap) == (0, 0.0)
    full = frank_wolfe(lambda w: -float(w @ w), lambda w: -2.0 * w, nearest, corners[0], tolerance=1e-10)
    np.testing.assert_allclose(full.weights, np.full(3, 1 / 3), atol=1e-5)
