"""The criterion "balanced": every label kind's integrated variance counts by its logarithm."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from kernelpot.design import IV, Information, Precision, certify, select
from kernelpot.design.problem import balanced
from kernelpot.errors import ParameterError
from tests.design.pools import matrix, pool


def plain(info, target, chosen):
    """-Σ log tr(V_kind C) / kinds by the formula, from the target's own rows."""
    C = np.linalg.inv(matrix(info, chosen))
    logs = []
    for kind in (0, 1):
        rows = target.rows[target.kinds == kind]
        if rows.any():
            logs.append(np.log(np.einsum("rd,de,re->", rows, C, rows) / target.counts[:, kind].sum()))
    return -np.mean(logs)


def test_curve_is_the_formula():
    info = pool(9, seed=3)
    choice = select(info, 4, criterion="balanced")
    expected = [plain(info, info, choice.indices[:k].tolist()) for k in range(5)]
    np.testing.assert_allclose(choice.curve, expected, rtol=1e-8)


def test_greedy_takes_the_best_first_structure_and_bounds_hold_for_every_set():
    info = pool(8, seed=5)
    values = {s: plain(info, info, [s]) for s in range(len(info))}
    assert values[int(select(info, 1, criterion="balanced").indices[0])] == pytest.approx(max(values.values()))
    choice = select(info, 3, criterion="balanced")
    best = max(plain(info, info, list(some)) for some in combinations(range(len(info)), 3))
    truth = np.exp(choice.curve[-1] - best)
    assert 0 < choice.efficiency_bound <= truth * (1 + 1e-9)
    assert certify(info, choice, criterion="balanced").efficiency <= truth * (1 + 1e-9)


def test_the_unit_of_a_kind_does_not_matter_to_its_target():
    info = pool(10, seed=1)
    louder = IV.from_root(3.0 * info.target_root({"energy": 0.0}))
    assert louder.value(Precision.prior(info.d)) > IV.from_root(info.target_root({"energy": 0.0})).value(
        Precision.prior(info.d)
    )
    one = balanced(info)
    parts = [IV.from_root(3.0 * one.parts[0].root), one.parts[1]]
    scaled = type(one)(parts, [1, 1], info.d)
    assert select(info, 5, criterion=one).indices.tolist() == select(info, 5, criterion=scaled).indices.tolist()


def test_one_kind_alone_is_its_integrated_variance():
    info = pool(8, seed=2)
    forces = info.only("forces")
    assert (
        select(info, 4, criterion="balanced", target=forces).indices.tolist()
        == select(info, 4, criterion="IV", target=forces).indices.tolist()
    )


def test_targets_that_say_nothing_are_refused():
    info = pool(6)
    with pytest.raises(ParameterError, match="label kinds"):
        select(info, 2, criterion="balanced", target=info.target())
    silent = Information.from_rows(np.zeros((3, info.d)))
    with pytest.raises(ParameterError, match="depend on the weights"):
        balanced(silent)
