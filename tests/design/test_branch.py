from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kernelpot.design import branch_and_bound, select
from kernelpot.errors import ParameterError
from tests.design.pools import pool
from tests.design.sets import all_sets, matrix, obeys, request, value

seeds = st.integers(0, 100_000)
names = st.sampled_from(["D", "A", "IV"])


@given(seeds, names, st.booleans())
def test_branch_and_bound_finds_the_best_of_all_sets(seed, name, twins):
    info, limits = request(seed, twins=twins)
    assume(limits is not None)
    V = info.target()
    values = [value(name, matrix(info, chosen), V) for chosen in all_sets(info, limits)]
    best = max(values) if name == "D" else min(values)
    rest = dict(limits)
    found = branch_and_bound(info, rest.pop("n"), name, target=V, **rest)
    assert found.proven
    assert obeys(info, limits, found.indices)
    assert found.value == pytest.approx(best, rel=1e-5, abs=1e-5)
    sign = 1.0 if name == "D" else -1.0
    assert sign * found.bound >= sign * best - 1e-9 * abs(best)
    assert found.efficiency >= 1.0 - 1.1e-6


@pytest.mark.parametrize("name", ["D", "IV"])
def test_an_early_end_leaves_a_bound_that_holds(name):
    info = pool(24, d=10, seed=1, heights=(3, 5, 9), scale=3.0)
    sign = 1.0 if name == "D" else -1.0
    full = branch_and_bound(info, 5, name)
    assert full.proven
    assert full.nodes > 1
    short = branch_and_bound(info, 5, name, nodes=1)
    assert not short.proven
    assert sign * short.bound >= sign * full.value
    assert sign * full.value >= sign * short.value
    assert short.efficiency < full.efficiency
    assert "not proven" in str(short)
    assert "proven to be the best" in str(full)
    choice = select(info, 5, criterion=name, method="relaxation")
    assert sign * choice.curve[-1] <= sign * full.value + 1e-9


def test_obvious_cases_and_wrong_limits():
    info = pool(6, heights=(3, 9))
    everything = branch_and_bound(info, 6)
    assert (everything.proven, sorted(everything.indices)) == (True, list(range(6)))
    nothing = branch_and_bound(info, 0)
    assert (nothing.proven, len(nothing.indices)) == (True, 0)
    forced = branch_and_bound(info, 2, forced=[3, 1])
    assert forced.indices.tolist() == [3, 1]
    silent = branch_and_bound(pool(6, heights=(0,)), 2, "D")
    np.testing.assert_allclose([silent.value, silent.efficiency], [0.0, 1.0])
    with pytest.raises(ParameterError, match="`seconds` must be a finite number above 0"):
        branch_and_bound(info, 2, seconds=0.0)
