from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.design import IV, A, D, Information, Precision, certify, select
from kernelpot.design.bounds.certificate import relax
from kernelpot.design.bounds.climb import Moments, capped
from kernelpot.design.criteria.base import sensitivities
from kernelpot.design.task import Rules
from kernelpot.errors import ParameterError
from tests.design.pools import matrix, pool, task
from tests.design.test_exchange import value

seeds = st.integers(0, 10_000)
names = st.sampled_from(["D", "A", "IV"])


def criteria(info):
    return [D(), A(info.d), IV(info.target())]


def true_efficiency(name, own, values, d):
    return np.exp((own - max(values)) / d) if name == "D" else min(values) / own


@given(seeds, names, st.sampled_from([0.0, 1e-3, 0.1]), st.sampled_from([0, 3, 50]), st.sampled_from([0.3, 30.0]))
def test_the_certificate_holds_against_every_set_with_truncated_blocks_too(seed, name, share, steps, scale):
    full = pool(7, seed=seed, scale=scale)
    V = full.target()
    short = full.truncated(share)
    choice = select(short, 3, criterion=name, target=V)
    found = certify(short, choice, target=V, steps=steps)
    values = [value(name, matrix(full, T), V) for T in combinations(range(7), 3)]
    own = value(name, matrix(full, choice.indices), V)
    assert 0.0 <= found.efficiency <= true_efficiency(name, own, values, full.d) + 1e-9
    # Round-off of the reference, whose matrices are inverted as they are.
    slack = 1e-7 * abs(found.bound)
    assert found.bound >= max(values) - slack if name == "D" else found.bound <= min(values) + slack
    assert found.truncation_loss >= -1e-12
    assert share > 0 or found.truncation_loss == 0.0


@given(seeds, names)
def test_the_certificate_holds_beside_existing_structures(seed, name):
    full, known = pool(7, seed=seed, scale=2.0), pool(3, seed=seed + 1, scale=2.0)
    V = full.target()
    found = certify(full.truncated(0.01), [0, 1], criterion=name, target=V, existing=known.truncated(0.01))
    before = matrix(known) - np.eye(full.d)
    values = [value(name, before + matrix(full, T), V) for T in combinations(range(7), 2)]
    assert found.efficiency <= true_efficiency(name, value(name, before + matrix(full, [0, 1]), V), values, 6) + 1e-9


@given(seeds, names)
def test_the_certificate_holds_under_a_budget(seed, name):
    info = pool(8, seed=seed, scale=2.0)
    V = info.target()
    costs = np.random.default_rng(seed).uniform(1.0, 10.0, 8)
    choice = select(info, None, criterion=name, costs=costs, budget=15.0, target=V)
    found = certify(info, choice, costs=costs, target=V)
    sets = [T for k in range(9) for T in combinations(range(8), k) if costs[list(T)].sum() <= 15.0]
    values = [value(name, matrix(info, T), V) for T in sets]
    assert found.efficiency <= true_efficiency(name, choice.curve[-1], values, info.d) + 1e-9


@given(seeds)
def test_the_bound_holds_with_duplicates_and_with_repeats(seed):
    info = pool(4, seed=seed, heights=(3, 9)).take([0, 1, 2, 3] * 2)
    for n in (2, 6):
        choice = select(info, n, criterion="D")
        groups = [{s % 4 for s in T} for T in combinations(range(8), n)]
        sets = [T for T, kept in zip(combinations(range(8), n), groups, strict=True) if len(kept) == min(n, 4)]
        values = [value("D", matrix(info, T), None) for T in sets]
        found = certify(info, choice)
        assert found.efficiency <= true_efficiency("D", choice.curve[-1], values, info.d) + 1e-9


@given(seeds, names)
def test_the_relaxation_closes_its_own_gap_and_beats_the_tangent_at_the_choice(seed, name):
    info = pool(40, seed=seed, heights=(1, 3, 9), scale=3.0)
    choice = select(info, 10, criterion=name)
    found = certify(info, choice, steps=400)
    assert found.relaxation_gap < 0.01
    assert found.efficiency >= choice.efficiency_bound - 0.01
    assert f"{name} efficiency against the best possible choice: at least" in str(found)
    assert (found.criterion, found.value) == (name, pytest.approx(choice.curve[-1]))


@given(seeds, st.booleans())
def test_weights_stay_in_the_box_and_meet_the_limit(seed, limited):
    info = pool(20, seed=seed, heights=(1, 3, 9), scale=3.0)
    costs = np.random.default_rng(seed).uniform(1.0, 5.0, 20)
    rules = Rules(18 if limited else 6, np.arange(20), np.arange(20) < 2, costs, 12.0 if limited else np.inf, 0)
    for criterion in criteria(info):
        w = relax(task(info, criterion, rules)).weights
        assert (w >= 0).all()
        assert (w <= 1).all()
        assert not w[:2].any()
        spent, limit = (w @ costs, 12.0) if limited else (w.sum(), 6.0)
        assert limit * 0.99 <= spent <= limit * (1 + 1e-9)


@given(seeds, st.floats(0.0, 30.0))
def test_capped_weights_are_scaled_until_their_cost_meets_the_limit(seed, limit):
    rng = np.random.default_rng(seed)
    u, prices = rng.uniform(1e-9, 1.0, 9) ** 3 + 1e-12, rng.uniform(0.1, 5.0, 9)
    w = capped(u, prices, limit)
    assert w @ prices == pytest.approx(min(limit, prices.sum()), abs=1e-9)
    inside = (w < 1) & (w > 0)
    if inside.any():
        scale = (w / u)[inside]
        np.testing.assert_allclose(scale, scale[0])
        assert (scale[0] * u[w == 1] >= 1 - 1e-9).all()


def test_packed_moments_and_rows_agree():
    info = pool(12, heights=(5, 9), scale=2.0)
    single = Information.from_rows(info.rows)
    w = np.random.default_rng(0).uniform(0.0, 1.0, 12)
    packed, plain = Moments(info, Precision.prior(6)), Moments(single, Precision.prior(6))
    assert packed._packed is not None
    assert plain._packed is None
    one, two = packed.precision(w), plain.precision(w[info.structure])
    np.testing.assert_allclose(one.logdet, two.logdet)
    np.testing.assert_allclose(packed.slopes(one.covariance), sensitivities(info, one.covariance))


def test_the_bound_survives_information_that_no_gram_matrix_holds():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    blocks = [(rng.standard_normal((4, 6)) * np.logspace(9, -2, 6) @ turn, np.ones(4), np.ones(4)) for _ in range(7)]
    info = Information.from_blocks(blocks, n_atoms=[1] * 7)
    for name in ("D", "A"):
        criterion = D() if name == "D" else A(6)
        start = Precision.prior(6)
        values = [criterion.value(start.with_rows(info.take(T).rows)) for T in combinations(range(7), 3)]
        choice = select(info, 3, criterion=name)
        found = certify(info, choice)
        assert found.efficiency <= true_efficiency(name, choice.curve[-1], values, 6) + 1e-6


@given(seeds, names)
def test_rounding_reports_the_tight_limit_and_is_never_better_than_it(seed, name):
    info = pool(12, seed=seed, heights=(1, 3, 9), scale=2.0)
    V = info.target()
    choice = select(info, 4, criterion=name, method="relaxation", target=V)
    values = [value(name, matrix(info, T), V) for T in combinations(range(12), 4)]
    true = true_efficiency(name, choice.curve[-1], values, info.d)
    assert len(set(choice.indices.tolist())) == 4
    assert choice.efficiency_bound <= true + 1e-9
    assert true > 0.7
    assert "by a relaxation" in str(choice)
    assert certify(info, choice, target=V).efficiency == pytest.approx(choice.efficiency_bound, abs=0.01)


def test_nothing_everything_and_empty_information_have_obvious_certificates():
    info = pool(5, heights=(3, 9))
    assert certify(info, []).efficiency == pytest.approx(1.0)
    assert certify(info, range(5), criterion="D").efficiency == pytest.approx(1.0)
    assert certify(pool(5, heights=(0,)), [1, 2], criterion="A").efficiency == pytest.approx(1.0)
    assert "a smaller `truncate`" in str(certify(pool(9, scale=9.0).truncated(0.3), [0, 1], criterion="D"))


def test_wrong_arguments_are_refused():
    info = pool()
    with pytest.raises(ParameterError, match="`choice` must hold different numbers"):
        certify(info, [0, 0])
    with pytest.raises(ParameterError, match="`choice` must hold different numbers"):
        certify(info, [8])
    with pytest.raises(ParameterError, match="more than the budget of 1"):
        certify(info, [0, 1], costs=np.ones(8), budget=1.0)
    with pytest.raises(ParameterError, match="`steps` must be a whole number, at least 0"):
        certify(info, [0], steps=-1)
    limited = select(info, None, costs=np.full(8, 2.0), budget=6.0)
    with pytest.raises(ParameterError, match="give the same costs"):
        certify(info, limited)
    custom = select(info, 2, criterion=IV(info.target(), name="mine"))
    with pytest.raises(ParameterError, match="give that criterion's object"):
        certify(info, custom)
    aimed = select(info, 2, target=info.only("energy"))
    with pytest.raises(ParameterError, match="give the same `existing` and `target`"):
        certify(info, aimed)
    assert certify(info, aimed, target=info.only("energy")).value == pytest.approx(aimed.curve[-1])
    assert certify(info, aimed.indices).value > 0
    assert certify(info, custom, criterion=IV(info.target(), name="mine")).criterion == "mine"
