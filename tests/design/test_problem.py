"""What a problem is made from, and what a choice says when it is printed."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.design import Problem, branch_and_bound, certify, expected_errors, pose, problem, select
from kernelpot.design.limits import Choosing, Limits
from kernelpot.errors import ParameterError
from tests.design.pools import pool

CALLS = [
    lambda info, **rules: select(info, 3, **rules),
    lambda info, **rules: certify(info, [0, 1, 2], **rules),
    lambda info, **rules: branch_and_bound(info, 3, **rules),
]


# one problem, three questions
def test_a_problem_answers_as_the_functions_do():
    info, known = pool(12, seed=1), pool(3, seed=2)
    limits = {"quotas": {"g0": (1, 2)}, "forbidden": [4]}
    posed = pose(info, criterion="IV", existing=known, seed=3, limits=limits)
    assert isinstance(posed, Problem)
    for n in (2, 4):
        for method in ("greedy", "exchange", "fps"):
            plain = select(info, n, criterion="IV", method=method, existing=known, seed=3, **limits)
            again = posed.select(n, method)
            assert again.indices.tolist() == plain.indices.tolist()
            assert np.array_equal(again.curve, plain.curve)
        plain = certify(info, again, existing=known, **limits)
        assert posed.certify(again).bound == plain.bound
    best = branch_and_bound(info, 2, existing=known, seed=3, **limits)
    assert posed.best(2).indices.tolist() == best.indices.tolist()


def test_a_problem_with_a_budget_is_posed_anew_under_another():
    info = pool(12, seed=4)
    rich = pose(info, criterion="D", limits={"budget": 900.0})
    for budget in (200.0, 500.0):
        plain = select(info, None, criterion="D", budget=budget)
        assert rich.within(budget).select(None).indices.tolist() == plain.indices.tolist()
    with pytest.raises(ParameterError, match="`budget` must be a finite number"):
        rich.within(-1.0)


# keywords that several functions share
@pytest.mark.parametrize("call", CALLS)
def test_rules_may_be_given_to_every_question_and_others_are_refused_by_name(call):
    info = pool(8)
    rules = {
        "costs": np.ones(8),
        "budget": 3.0,
        "forced": [0],
        "forbidden": [3],
        "quotas": {"a": 3},
        "quota_groups": list("aaaabbbb"),
    }
    assert set(rules) == set(Limits.__annotations__)
    assert call(info, **rules)
    with pytest.raises(
        TypeError, match=r"knows no parameter `cost`; it takes info, .*costs, budget, forced, forbidden"
    ):
        call(info, cost=np.ones(8))


@pytest.mark.parametrize("function", [select, certify, branch_and_bound, kp.design.assess, kp.pools.select_chunks])
def test_every_parameter_is_shown_and_explained_once(function):
    if function is select:
        assert {"restarts", "start_from", "lazy"} <= set(Choosing.__annotations__)
    section = inspect.getdoc(function).split("Parameters\n----------\n")[1].split("\n\n")[0]
    entries = [line for line in section.splitlines() if line[:1].isalpha()]
    named = [name for line in entries for name in line.split(", ")]
    for name in inspect.signature(function).parameters:
        assert named.count(name) == 1, name
    assert "**" not in inspect.getdoc(function)


# what is printed
def plain_errors(info, chosen):
    """Expected errors after a choice, by the function that is there for it."""
    curve = expected_errors(info, chosen)
    return {kind: (values[0], values[-1]) for kind, values in curve.errors.items()}


@pytest.mark.parametrize("criterion", ["balanced", "IV", "D", "A", "E", {"D": 1.0, "IV": 1.0}])
def test_a_printed_choice_tells_what_is_left_and_promises_no_errors(criterion):
    info = pool(20, seed=5, heights=(3, 9))
    choice = select(info, 5, criterion=criterion)
    expected = plain_errors(info, choice.indices)
    for kind, (before, after) in choice.facts.errors.items():
        assert (before, after) == pytest.approx(expected[kind])
    assert set(choice.facts.errors) == {"energy", "forces"}
    text = str(choice)
    shares = (f"{kind} {100 * after / before:.3g} %" for kind, (before, after) in choice.facts.errors.items())
    assert f"of that before: {', '.join(shares)} (how large errors are, only labels tell)" in text
    assert "meV/" not in text.split("with noise")[0] + text.split("\n", 2)[2]
    assert ("std / noise" in text) == (criterion in ("balanced", "IV"))
    assert "mean variance:" not in text


def test_variances_in_units_of_the_noise_are_shown_as_standard_deviations():
    info = pool(9, seed=6, heights=(3, 9))
    choice = select(info, 3)
    name, values = choice.column
    assert name == "std / noise"
    np.testing.assert_allclose(values**2, choice.curve)
    rows = kp.design.Information.from_rows(np.random.default_rng(0).standard_normal((30, 4)))
    plain = select(rows, 5, criterion="A")
    assert plain.column[0] == "tr C"
    assert not plain.facts.errors
    assert "tr C:" in str(plain)


def test_a_printed_choice_carries_a_certified_figure_and_keeps_its_quick_bound():
    info = pool(40, d=12, seed=7, heights=(1, 3), scale=3.0)
    sharpened = 0
    for settings in ({}, {"budget": 900.0}, {"quotas": {"g0": 1}}, {"existing": pool(3, d=12, seed=8)}):
        choice = select(info, 6 if "budget" not in settings else None, criterion="D", **settings)
        quick = choice.efficiency_bound
        proven = certify(info, choice, criterion="D", **settings).efficiency
        if quick < 0.95:
            sharpened += 1
            assert choice.facts.efficiency == pytest.approx(proven, abs=2e-3)
            assert f"at least {np.floor(choice.facts.efficiency * 1e3) / 1e3:.3f} (by a relaxation)" in str(choice)
        else:
            assert "(taken at the choice itself)" in str(choice)
        assert choice.efficiency_bound == quick < proven
    assert sharpened >= 2


def test_without_patience_the_figure_is_looser_but_no_less_true(monkeypatch):
    info = pool(40, d=12, seed=7, heights=(1, 3), scale=3.0)
    long = select(info, 6, criterion="D").facts.efficiency
    monkeypatch.setattr(problem, "PATIENCE", 0.0)
    short = select(info, 6, criterion="D")
    assert 0 < short.facts.efficiency < long
    assert short.efficiency_bound <= max(short.facts.efficiency, short.efficiency_bound)


def test_what_would_take_long_is_not_worked_out_and_an_interruption_leaves_all_as_it_was(monkeypatch):
    info = pool(40, d=12, seed=7, heights=(1, 3), scale=3.0)

    def refuse(*_):
        raise KeyboardInterrupt

    choice = select(info, 6)
    with monkeypatch.context() as patch:
        patch.setattr(problem, "relax", refuse)
        with pytest.raises(KeyboardInterrupt):
            str(choice)
    assert "by a relaxation" in str(choice)
    monkeypatch.setattr(problem, "_MANY", 5)
    text = str(select(info, 6))
    assert "a loose limit, taken at the choice itself" in text
    assert "std / noise:" in text


def test_robust_choices_stand_at_the_door():
    code = "import kernelpot as kp; print(kp.design.robust.select.__name__, kp.design.robust.sensitivity.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["select", "sensitivity"]
