"""The criterion "balanced": every label kind's integrated variance counts by its logarithm."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from kernelpot.design import IV, Compound, Information, Precision, certify, select
from kernelpot.design.criteria import make_criterion
from tests.design.pools import matrix, pool


def plain(info, target, chosen):
    """Π tr(V_kind C)^κ by the formula, from the target's own rows, with energies twice."""
    C = np.linalg.inv(matrix(info, chosen))
    total = 1.0
    for kind, weight in ((0, 2 / 3), (1, 1 / 3)):
        rows = target.rows[target.kinds == kind]
        total *= (np.einsum("rd,de,re->", rows, C, rows) / target.counts[:, kind].sum()) ** weight
    return total


def test_curve_is_the_formula():
    info = pool(9, seed=3)
    choice = select(info, 4, criterion="balanced")
    expected = [plain(info, info, choice.indices[:k].tolist()) for k in range(5)]
    np.testing.assert_allclose(choice.curve, expected, rtol=1e-8)


def test_greedy_takes_the_best_first_structure_and_bounds_hold_for_every_set():
    info = pool(8, seed=5)
    values = {s: plain(info, info, [s]) for s in range(len(info))}
    assert values[int(select(info, 1, criterion="balanced").indices[0])] == pytest.approx(min(values.values()))
    choice = select(info, 3, criterion="balanced")
    best = min(plain(info, info, list(some)) for some in combinations(range(len(info)), 3))
    truth = best / choice.curve[-1]
    assert 0 < choice.efficiency_bound <= truth * (1 + 1e-9)
    assert certify(info, choice, criterion="balanced").efficiency <= truth * (1 + 1e-9)


def test_the_unit_of_a_kind_does_not_matter_to_its_target():
    info = pool(10, seed=1)
    one = make_criterion("balanced", info, info)
    parts = [IV.from_root(30.0 * one.parts[0].root), one.parts[1]]
    scaled = Compound(parts, one.kappa, info.d)
    assert select(info, 5, criterion=one).indices.tolist() == select(info, 5, criterion=scaled).indices.tolist()
    louder = [IV.from_root(info.target_root({"energy": weight})) for weight in (1.0, 900.0)]
    assert louder[1].value(Precision.prior(info.d)) > 2 * louder[0].value(Precision.prior(info.d))


@pytest.mark.parametrize("kinds", [("forces",), ("energy",)])
def test_one_kind_alone_is_its_integrated_variance(kinds):
    info = pool(8, seed=2)
    target = info.only(*kinds)
    one, two = (select(info, 4, criterion=name, target=target) for name in ("balanced", "IV"))
    assert one.indices.tolist() == two.indices.tolist()
    assert one.criterion == "IV"


def test_a_matrix_or_silent_rows_have_nothing_to_balance():
    info = pool(6)
    one, two = (select(info, 2, criterion=name, target=info.target()) for name in ("balanced", "IV"))
    np.testing.assert_allclose(one.curve, two.curve)
    silent = Information.from_rows(np.zeros((3, info.d)))
    assert select(silent, 2).curve.tolist() == [0.0, 0.0, 0.0]


def test_it_is_the_default_and_choices_are_certified_by_it():
    info = pool(12, seed=4)
    choice = select(info, 3)
    assert choice.criterion == "balanced"
    assert "criterion balanced" in str(choice)
    assert 0 < certify(info, choice).efficiency <= 1
    assert certify(info, choice.indices).efficiency == pytest.approx(certify(info, choice).efficiency)
