"""Advice on a set, against plain formulas."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.design import Information, assess, expected_errors, select
from kernelpot.design.advice.text import Sources, describe
from kernelpot.design.precision import Precision
from kernelpot.errors import DataError, ParameterError
from tests.design.pools import matrix, pool

CASES = st.tuples(st.integers(0, 10_000), st.integers(1, 9), st.integers(2, 7), st.sampled_from([0.3, 1.0, 30.0]))


def value_of(criterion, Lambda, V):
    return np.linalg.slogdet(Lambda)[1] if criterion == "D" else np.trace(V @ np.linalg.inv(Lambda))


@settings(max_examples=40, deadline=None)
@given(CASES, st.sampled_from(["D", "A", "IV"]))
def test_loss_of_a_removal_is_the_difference_of_values(case, criterion):
    seed, n, d, scale = case
    info = pool(n, d, seed=seed, scale=scale)
    target = pool(5, d, seed=seed + 1)
    V = np.eye(d) if criterion == "A" else target.target()
    found = assess(info, target=target, criterion=criterion)
    whole = value_of(criterion, matrix(info), V)
    for s in range(n):
        without = value_of(criterion, matrix(info, [k for k in range(n) if k != s]), V)
        assert found.losses[s] == pytest.approx(abs(whole - without), rel=1e-7, abs=1e-9 * max(1.0, abs(whole)))


@settings(max_examples=40, deadline=None)
@given(CASES)
def test_leverages_add_up_to_the_effective_parameters(case):
    seed, n, d, scale = case
    info = pool(n, d, seed=seed, scale=scale)
    found = assess(info)
    M = matrix(info) - np.eye(d)
    effective = np.trace(M @ np.linalg.inv(matrix(info)))
    assert found.leverage.sum() == pytest.approx(effective, rel=1e-9, abs=1e-12)
    assert found.feasibility.effective == pytest.approx(effective, rel=1e-9, abs=1e-12)
    assert sum(found.effective_by_kind.values()) == pytest.approx(effective, rel=1e-9, abs=1e-12)
    assert (found.leverage >= 0).all()


def test_rank_and_condition():
    d = 5
    rows = np.array([[1.0, 2, 0, 0, 0], [2.0, 4, 0, 0, 0], [0, 0, 3, 0, 0]])
    found = assess(Information.from_rows(rows))
    assert found.feasibility.rank == 2
    eigenvalues = np.linalg.eigvalsh(np.eye(d) + rows.T @ rows)
    assert found.feasibility.condition == pytest.approx(eigenvalues[-1] / eigenvalues[0])


def test_loss_is_exact_where_only_one_structure_knows_a_direction():
    """A downdate of the covariance would be lost in round-off here."""
    big = 1e6
    info = Information.from_rows(np.array([[big, 0.0], [big, 1e-3], [1.0, 1.0]]))
    target = Information.from_rows(np.eye(2))
    found = assess(info, target=target, criterion="A")
    for s in range(3):
        rest = np.delete(info.rows, s, axis=0)
        exact = np.trace(np.linalg.inv(np.eye(2) + rest.T @ rest)) - np.trace(
            np.linalg.inv(np.eye(2) + info.rows.T @ info.rows)
        )
        assert found.losses[s] == pytest.approx(exact, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("criterion", ["D", "IV"])
def test_swaps_are_exact_and_the_best_of_all_pairs(criterion):
    info, candidates = pool(6, 5, seed=3), pool(9, 5, seed=4)
    found = assess(info, pool=candidates, criterion=criterion, swaps=4)
    V = candidates.target()
    now = value_of(criterion, matrix(info), V)
    better = {}
    for out in range(len(info)):
        rest = matrix(info, [k for k in range(len(info)) if k != out])
        for c in range(len(candidates)):
            value = value_of(criterion, rest + candidates.block(c).T @ candidates.block(c), V)
            better[out, c] = value - now if criterion == "D" else now - value
    assert found.swaps[0].gain == pytest.approx(max(better.values()), rel=1e-8)
    for swap in found.swaps:
        assert swap.gain == pytest.approx(better[swap.out, swap.candidate], rel=1e-8)
        sign = 1 if criterion == "D" else -1
        assert swap.value == pytest.approx(now + sign * swap.gain, rel=1e-8)
    assert len({swap.out for swap in found.swaps}) == len({swap.candidate for swap in found.swaps}) == len(found.swaps)


def test_swaps_never_name_a_candidate_and_its_duplicate():
    info, candidates = pool(6, 5, seed=3), pool(3, 5, seed=4, heights=(9,))
    found = assess(info, pool=candidates.take([0, 0, 1, 1, 2, 2]), swaps=5)
    assert 1 <= len(found.swaps) <= 3
    assert len({swap.candidate // 2 for swap in found.swaps}) == len(found.swaps)


def test_additions_continue_greedily_with_cost():
    info, candidates = pool(6, 5, seed=3), pool(9, 5, seed=4)
    found = assess(info, pool=candidates, next=4)
    choice = select(candidates, 4, criterion="IV", existing=info)
    assert found.next_indices.tolist() == choice.indices.tolist()
    assert np.allclose(found.next_gains, -np.diff(choice.curve))
    assert np.array_equal(found.next_costs, candidates.n_atoms[choice.indices] ** 3.0)
    costs = np.arange(1.0, 10.0)
    assert np.array_equal(assess(info, pool=candidates, next=4, costs=costs).next_costs, costs[choice.indices])
    assert found.ahead.n.tolist() == [6, 7, 8, 9, 10]
    with pytest.raises(ParameterError, match="one cost for each"):
        assess(info, pool=candidates, costs=[1.0])


def test_expected_errors_are_posterior_standard_deviations():
    info, target = pool(6, 4, seed=5), pool(7, 4, seed=6)
    curve = expected_errors(info, [4, 1, 0], target=target, existing=info.take([5]))
    for k, chosen in enumerate([[5], [5, 4], [5, 4, 1], [5, 4, 1, 0]]):
        C = np.linalg.inv(matrix(info, chosen))
        for code, kind in enumerate(["energy", "forces"]):
            rows = target.rows[target.kinds == code] * target.sigma[target.kinds == code, None]
            expected = np.sqrt(np.einsum("rd,de,re", rows, C, rows) / target.counts[:, code].sum())
            assert curve.errors[kind][k] == pytest.approx(expected, rel=1e-9)
    assert curve.n.tolist() == [1, 2, 3, 4]
    assert curve.noise == {"energy": pytest.approx(0.002), "forces": pytest.approx(0.1)}
    assert np.isnan(curve.stress).all()
    assert (np.diff(curve.forces) <= 1e-15).all()


def test_history_begins_at_the_prior_and_ends_at_the_set():
    info, target = pool(6, 4, seed=5), pool(7, 4, seed=6)
    found = assess(info, target=target)
    left = found.remaining
    for kind in ("energy", "forces"):
        assert found.history.errors[kind][0] == pytest.approx(left.prior[kind])
        assert found.history.errors[kind][-1] == pytest.approx(left.now[kind])
    forces = target.counts[:, 1].astype(float)
    mean = np.nansum(left.structures["forces"] ** 2 * forces) / forces.sum()
    assert np.sqrt(mean) == pytest.approx(left.now["forces"])
    assert all(0 <= share <= 1 for share in left.shares["forces"][forces > 0])


def test_what_nothing_speaks_about_stays_open():
    info = Information.from_rows(np.array([[100.0, 0, 0], [0, 100.0, 0]]))
    target = Information.from_rows(np.eye(3))
    found = assess(info, target=target)
    assert found.remaining.directions["energy"] == (1, 3)
    assert found.remaining.worst(1).tolist() == [2]
    assert found.remaining.shares["energy"][2] == pytest.approx(1.0)


def test_duplicates_are_flagged_at_their_tolerance_and_are_redundant():
    info = pool(5, 4, seed=1, heights=(4,), scale=300.0)
    info = info.take([0, 1, 2, 3, 4, 2])
    means = info.means.copy()
    means[4] = means[0] * (1 + 1e-4)
    atoms = info.n_atoms.copy()
    atoms[4] = atoms[0]
    info = replace(info, means=means, n_atoms=atoms)
    found = assess(info, redundant=1.0)
    assert found.duplicates[1e-6] == ((2, 5),)
    assert found.duplicates[1e-3] == ((0, 4), (2, 5))
    assert found.losses[2] == pytest.approx(found.losses[5], rel=1e-6)
    assert set(found.redundant) == set(range(6))


def test_structures_without_rows_are_idle():
    info = pool(4, 3, seed=2, heights=(3,))
    empty = Information.from_blocks(
        [(np.empty((0, 3)), np.empty(0, int), np.empty(0))], n_atoms=[3], means=np.ones((1, 4))
    )
    found = assess(info.append(empty), pool=pool(3, 3, seed=9))
    assert found.leverage[4] == found.losses[4] == 0
    assert 4 in found.redundant
    nothing = assess(empty)
    assert nothing.feasibility.rank == 0
    assert nothing.feasibility.effective == 0
    assert "not feasible" in str(nothing)


def test_one_structure_and_an_empty_pool():
    info = pool(1, 4, seed=7, heights=(5,))
    found = assess(info, pool=info.take([]))
    assert found.swaps == ()
    assert len(found.next_indices) == 0
    assert found.losses[0] > 0
    json.dumps(found.as_dict())
    str(found)


def test_text_and_json_hold_the_figures():
    found = assess(pool(12, 5, seed=3), pool=pool(9, 5, seed=4))
    text = str(found)
    assert text.startswith("VERDICT\n  feasible: 12 structures")
    for word in ("effective parameters", "BEST SWAPS", "WHAT TO ADD NEXT", "leverage"):
        assert word in text
    assert "nan" not in text
    assert "meV" not in text.replace("with noise of", "")[len(text.split("FEASIBILITY")[0]) :]
    left = found.remaining
    for kind in ("energy", "forces"):
        assert f"{kind} of the pool: {100 * left.now[kind] / left.prior[kind]:.3g} % of the prior's" in text
    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["feasibility"]["effective"] == pytest.approx(found.feasibility.effective)
    assert plain["next"]["indices"] == found.next_indices.tolist()


def test_long_chains_of_duplicates_are_shortened_and_sources_shown():
    info = pool(12, 5, seed=3)
    found = assess(info.take([0] * 30 + [1, 2]), pool=info, next=2, swaps=1)
    text = describe(found, sources=Sources([f"a@{k}" for k in range(32)], [f"b@{k}" for k in range(12)]))
    assert "(0=1=2=3=4=5 … and 24 more)" in text
    pick, swap = found.next_indices[0], found.swaps[0]
    for number, name in ((pick, f"b@{pick}"), (swap.out, f"a@{swap.out}"), (swap.candidate, f"b@{swap.candidate}")):
        assert f"{number} ({name})" in text
    assert "cost, N_atoms³" in text
    assert "N_atoms" not in str(assess(info, pool=info, costs=np.ones(12)))


def test_the_verdict_quotes_the_labels_before_the_prior():
    found = assess(pool(12, 5, seed=3))
    text = describe(found, by_labels={"energy": 0.101})
    assert "energy of the set itself: expected error by the labels 101 meV/atom; " in text
    assert "forces of the set itself: expected error by the labels" not in text
    assert "by the labels" not in str(found)


def test_the_verdict_names_missing_energies():
    info = pool(6, 5, seed=3)
    assert "no energies" in str(assess(info.only("forces"), target=info))
    assert "no energies" not in str(assess(info))


def test_order_of_the_set_does_not_matter():
    info, order = pool(9, 5, seed=3), np.random.default_rng(0).permutation(9)
    one, other = assess(info), assess(info.take(order), target=info)
    assert np.allclose(one.losses[order], other.losses, rtol=1e-8)
    assert np.allclose(one.leverage[order], other.leverage, rtol=1e-10)


def test_bad_input_is_refused():
    info = pool(3, 4, seed=1)
    with pytest.raises(ParameterError, match="empty"):
        assess(info.take([]))
    with pytest.raises(ParameterError, match="`target` is empty"):
        assess(info, target=info.take([]))
    with pytest.raises(ParameterError, match="has 5 weights and the set 4"):
        assess(info, pool=pool(3, 5, seed=1))
    with pytest.raises(ParameterError, match="must be an Information"):
        assess(info, pool=[1])
    with pytest.raises(ParameterError, match="`next` must be a whole number"):
        assess(info, next=-1)
    with pytest.raises(ParameterError, match="redundant"):
        assess(info, redundant=np.nan)
    with pytest.raises(ParameterError, match="`at` must lie"):
        expected_errors(info, [0, 1], at=[3])
    rows = info.rows.copy()
    rows[0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        replace(info, rows=rows)


def test_precision_without_each_is_that_of_the_others():
    from kernelpot.linalg.factor import without_each

    info = pool(7, 4, seed=8)

    def add(precision, first, last):
        return precision.with_rows(info.rows[info.offsets[first] : info.offsets[last]])

    seen = []
    for s, precision in without_each(Precision.prior(4), 7, add):
        seen.append(s)
        others = matrix(info, [k for k in range(7) if k != s])
        assert np.allclose(precision.factor.T @ precision.factor, others, rtol=1e-10)
    assert sorted(seen) == list(range(7))
    assert list(without_each(0, 0, lambda *_: 0)) == []


def test_every_criterion_can_weigh_a_set():
    info, more = pool(6, seed=2, heights=(1, 3, 9)), pool(5, seed=3, heights=(1, 3, 9))
    for criterion in ("balanced", "A", "V", "G", "E", {"D": 1.0, "E": 1.0}):
        found = assess(info, pool=more, criterion=criterion, next=2)
        assert str(found)
        assert found.as_dict()
