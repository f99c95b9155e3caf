"""Choices for several settings against brute force on dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.design import A, Information, robust, select
from kernelpot.design.robust import sensitivity
from kernelpot.errors import ParameterError
from tests.design.pools import matrix, pool


def three(n=9, seed=0):
    """The same structures in three feature spaces of different size and scale."""
    return {
        "small": pool(n, d=4, seed=seed),
        "large": pool(n, d=7, seed=seed + 50, scale=3.0),
        "loud": pool(n, d=4, seed=seed + 90, scale=30.0),
    }


def dense(info, criterion, chosen):
    """Log-efficiency of a choice from dense matrices, against nothing chosen."""
    precision, start = matrix(info, chosen), matrix(info, [])
    if criterion == "D":
        return (np.linalg.slogdet(precision)[1] - np.linalg.slogdet(start)[1]) / info.d
    V = np.eye(info.d) if criterion == "A" else info.target()
    return np.log(np.trace(V @ np.linalg.inv(start)) / np.trace(V @ np.linalg.inv(precision)))


@pytest.mark.parametrize("criterion", ["D", "IV", "A", "E", "G"])
def test_one_setting_is_plain_greedy(criterion):
    info = pool(12, seed=4)
    choice = robust.select({"only": info}, 5, criterion=criterion)
    plain = select(info, 5, criterion=criterion)
    np.testing.assert_array_equal(choice.indices, plain.indices)
    np.testing.assert_allclose(choice.curves["only"], plain.curve, rtol=1e-9)
    assert choice.worst == pytest.approx(1.0)


@pytest.mark.parametrize("criterion", ["D", "IV", "A"])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000))
def test_every_pick_is_the_best_on_average(criterion, seed):
    infos = three(seed=seed)
    weights = {"small": 1.0, "large": 2.0, "loud": 0.5}
    choice = robust.select(infos, 4, criterion=criterion, weights=weights, seed=seed)
    total = sum(weights.values())

    def mean(chosen):
        return sum(w / total * dense(infos[name], criterion, chosen) for name, w in weights.items())

    for step in range(4):
        before = choice.indices[:step].tolist()
        best = max(mean([*before, s]) for s in range(9) if s not in before)
        assert mean([*before, choice.indices[step]]) == pytest.approx(best, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("criterion", ["D", "IV"])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_worst_case_never_serves_its_worst_setting_less_than_the_mean_does(criterion, seed):
    infos = three(seed=seed)
    mean, worst = (robust.select(infos, 4, criterion=criterion, combine=way, seed=seed) for way in robust.COMBINE)
    assert worst.worst >= mean.worst
    for choice in (mean, worst):
        for name, info in infos.items():
            own = select(info, 4, criterion=criterion, seed=seed).indices
            gap = dense(info, criterion, choice.indices) - dense(info, criterion, own)
            assert choice.efficiencies[name] == pytest.approx(np.exp(gap), rel=1e-6)


def test_the_worst_case_balances_two_settings_that_want_different_structures():
    strong, weak = np.array([[5.0], [4.9], [4.8]]), np.array([[0.1], [0.11], [0.12]])
    nothing = np.zeros((3, 1))
    left = Information.from_rows(np.block([[strong, nothing], [nothing, weak]]))
    right = Information.from_rows(np.block([[weak, nothing], [nothing, strong]]))
    choice = robust.select(
        {"left": left, "right": right}, 2, criterion="D", combine="worst", weights={"left": 9.0, "right": 1.0}
    )
    assert sorted(k // 3 for k in choice.indices) == [0, 1]
    leaning = robust.select({"left": left, "right": right}, 2, criterion="D", weights={"left": 9.0, "right": 1.0})
    assert choice.worst > leaning.worst


def test_all_weight_on_one_setting_is_its_own_choice():
    infos = three(seed=7)
    choice = robust.select(infos, 4, weights={"small": 0.0, "large": 1.0, "loud": 0.0})
    np.testing.assert_array_equal(choice.indices, select(infos["large"], 4, criterion="IV").indices)
    assert choice.efficiencies["large"] == pytest.approx(1.0)


def test_existing_labels_count_under_each_setting():
    infos = three(seed=2)
    existing = {name: info.take([0, 1]) for name, info in infos.items()}
    choice = robust.select(infos, 3, existing=existing)
    assert not {0, 1} & set(choice.indices.tolist())
    for name, info in infos.items():
        value = np.trace(info.target() @ np.linalg.inv(matrix(info, [0, 1, *choice.indices])))
        assert choice.curves[name][-1] == pytest.approx(value, rel=1e-8)


def test_criteria_of_ones_own_go_by_setting():
    infos = three(seed=1)
    choice = robust.select(infos, 3, criterion={name: A(info.d) for name, info in infos.items()})
    np.testing.assert_array_equal(choice.indices, robust.select(infos, 3, criterion="A").indices)


def test_the_tables_name_every_setting():
    infos = three()
    text = str(robust.select(infos, 2, combine="worst"))
    assert [line.split()[0] for line in text.splitlines()[2:]] == list(infos)
    table = str(sensitivity(infos, 2))
    assert sum(line.startswith("loud") for line in table.splitlines()) == 2


@pytest.mark.parametrize("criterion", ["D", "IV"])
def test_sensitivity_judges_every_choice_under_every_setting(criterion):
    infos = three(seed=11)
    found = sensitivity(infos, 3, criterion=criterion)
    choices = [select(info, 3, criterion=criterion).indices for info in infos.values()]
    for i, chosen in enumerate(choices):
        np.testing.assert_array_equal(found.choices[i], chosen)
        for j, (name, info) in enumerate(infos.items()):
            gap = dense(info, criterion, chosen) - dense(info, criterion, choices[j])
            assert found.efficiency[i, j] == pytest.approx(np.exp(gap), rel=1e-6), name
            assert found.overlap[i, j] == pytest.approx(len(set(chosen) & set(choices[j])) / 3)
    np.testing.assert_allclose(np.diag(found.efficiency), 1.0)
    np.testing.assert_allclose(np.diag(found.overlap), 1.0)
    assert found.by_chance == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: robust.select({}, 2), "`infos` must hold"),
        (lambda: robust.select({"a": 3}, 2), "got a int for 'a'"),
        (lambda: robust.select({"a": pool(3), "b": pool(4)}, 2), "same pool"),
        (lambda: robust.select(three(), 99), "`n` must be between 0"),
        (lambda: robust.select(three(), 2, combine="best"), "`combine`"),
        (lambda: robust.select(three(), 2, weights={"small": 1.0}), "`weights`"),
        (lambda: robust.select(three(), 2, weights=dict.fromkeys(three(), 0.0)), "`weights`"),
        (lambda: robust.select(three(), 2, criterion={"small": A(4)}), "none for 'large'"),
        (lambda: robust.select(three(), 2, existing={"small": pool(2, d=4)}), "`existing` must name"),
        (lambda: sensitivity(three(), 2, criterion="Z"), "unknown criterion"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


def test_nothing_asked_is_nothing_chosen():
    choice = robust.select(three(), 0, combine="worst")
    assert len(choice) == 0
    assert choice.worst == pytest.approx(1.0)
