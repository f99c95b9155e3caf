"""A certificate: how far a choice can be from the best one at all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from kernelpot.design.bounds.relaxation import STEPS, TOLERANCE, relax
from kernelpot.design.choice import SILENCE, SILENT, Choice
from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.limits import Budget, Costs, Numbers, Quotas, read_numbers
from kernelpot.design.problem import CRITERIA, Target, make_criterion, make_rules, starting
from kernelpot.design.task import Rules
from kernelpot.errors import ParameterError
from kernelpot.rules import real, whole
from kernelpot.run import one_blas

_WORTH_SAYING = 5e-3
"""Loss of efficiency to truncation that a printed certificate mentions."""


@dataclass(frozen=True)
class Certificate:
    """A proven limit of what any choice under the same size or budget could reach.

    Parameters
    ----------
    criterion
        Name of the criterion.
    value
        Raw value of the choice.
    bound
        Raw value that no choice passes, labels' full rows included that compression dropped.
    efficiency
        The choice is at least this efficient against the best one: for D the ratio of geometric mean eigenvalues,
        ``exp((value - bound)/d)``, else ``bound/value``.
    relaxed
        Raw value of the best fractional choice found.
    relaxation_gap
        One less the efficiency of that fractional choice against the bound. What is missing to 1 in `efficiency`
        beyond this gap is the choice's own distance from the fractional one: swaps not made, or whole structures
        being worse than parts of them.
    truncation_loss
        How much more efficiency could be certified if compression had dropped nothing; see `Information.truncated`.
    steps
        Steps of the relaxation.
    seconds
        Wall time.
    larger_is_better
        Direction of the values.
    """

    criterion: str
    value: float
    bound: float
    efficiency: float
    relaxed: float
    relaxation_gap: float
    truncation_loss: float
    steps: int
    seconds: float
    larger_is_better: bool = False

    def __str__(self) -> str:
        """Return a few lines for people."""
        floor = np.floor(self.efficiency * 1e4) / 1e4
        beyond = "passes" if self.larger_is_better else "gets below"
        lines = [
            f"{self.criterion} efficiency against the best possible choice: at least {floor:.4f}",
            f"value {self.value:.6g}; no choice {beyond} {self.bound:.6g}; best fractional choice {self.relaxed:.6g}",
            f"relaxation gap {self.relaxation_gap:.1e} after {self.steps} steps, {self.seconds:.1f} s",
        ]
        if floor < SILENT:
            lines.append(SILENCE)
        if self.truncation_loss > _WORTH_SAYING:
            lines.append(
                f"{self.truncation_loss:.3f} of the certificate is lost to shortened blocks: "
                "make the information with a smaller `truncate`"
            )
        return "\n".join(lines)


@one_blas()
def certify(
    info: Information,
    choice: Choice | Sequence[int] | Int[np.ndarray, " n"],
    *,
    criterion: str | Mapping[str, float] | Criterion | None = None,
    existing: Information | None = None,
    target: Target | None = None,
    costs: Costs | None = None,
    budget: Budget | None = None,
    forced: Numbers | None = None,
    forbidden: Numbers | None = None,
    quotas: Quotas | None = None,
    quota_groups: Sequence[object] | np.ndarray | None = None,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
) -> Certificate:
    """Prove how efficient a choice is, made by any method or by hand.

    The best choice is bounded by the tangent of the criterion at a nearly optimal fractional design (see
    `kernelpot.design.bounds.relaxation`). Give `existing`, `target`, `costs` and `budget` as to `select`.

    Parameters
    ----------
    info
        The pool.
    choice
        What `select` returned, or structure numbers.
    criterion
        A name or an object, as in `select`; None: that of the choice, or "balanced" for plain numbers.
    existing
        What is labelled already.
    target
        What is to be predicted, for IV.
    costs, budget
        Rivals are all sets within the budget; without one, all sets of the same size. None: the choice's own budget,
        at N_atoms³.
    forced, forbidden, quotas, quota_groups
        Rivals obey these too, as in `select`.
    steps
        Largest number of steps of the relaxation.
    tolerance
        Relaxation gap at which to stop.

    Returns
    -------
    Certificate
        The limit, and how it came about.

    Raises
    ------
    ParameterError
        If structure numbers are unknown or repeated, the choice breaks its budget, it was made with another
        `existing` or `target`, or a setting is wrong.
    """
    began = time.perf_counter()
    steps, tolerance = whole(steps, "steps"), real(tolerance, "tolerance", most=1.0)
    start = starting(info, existing)
    if choice is None:
        raise ParameterError("`choice` must be a Choice or a list of structure numbers, got None")
    indices = read_numbers(choice.indices if isinstance(choice, Choice) else choice, len(info), "choice")
    if isinstance(choice, Choice):
        budget = choice.budget if budget is None else budget
    rules = make_rules(
        info,
        len(indices) if budget is None else None,
        existing,
        costs,
        budget,
        0,
        forced=forced,
        forbidden=forbidden,
        quotas=quotas,
        quota_groups=quota_groups,
    )
    _check_paid(choice, rules, indices)
    breach = rules.breach(indices)
    if breach is not None:
        raise ParameterError(f"the choice breaks its rules: {breach}")
    measure = make_criterion(_wanted(choice, criterion), info, target)
    lost = 0.0 if existing is None else float(existing.discarded.sum())
    value = measure.shown(start.with_rows(info.take(indices).rows))
    _check_same(choice, measure, value)
    found = relax(info, measure, rules, start, discarded=lost, steps=steps, tolerance=tolerance)
    efficiency = measure.efficiency(value, found.bound, info.d)
    return Certificate(
        criterion=measure.name,
        value=value,
        bound=found.bound,
        efficiency=efficiency,
        relaxed=found.value,
        relaxation_gap=1.0 - measure.efficiency(found.value, found.bound, info.d),
        truncation_loss=measure.efficiency(value, found.bound_as_given, info.d) - efficiency,
        steps=found.steps,
        seconds=time.perf_counter() - began,
        larger_is_better=measure.larger_is_better,
    )


def _check_paid(choice: object, rules: Rules, indices: Int[np.ndarray, " n"]) -> None:
    """Refuse costs that are not those the choice was made with."""
    if not isinstance(choice, Choice) or choice.costs is None:
        return
    named = choice.costs if isinstance(choice.costs, Mapping) else {"": choice.costs}
    spent = rules.costs[indices].sum(axis=0)
    for name, cost in zip(rules.resources, spent, strict=True):
        if name in named and not np.isclose(cost, np.sum(named[name])):
            raise ParameterError(
                f"the choice cost {np.sum(named[name]):.6g}, but by these `costs` {cost:.6g}: give the same costs"
            )


def _check_same(choice: object, measure: Criterion, value: float) -> None:
    """Refuse a choice that was made under other circumstances than those given."""
    if not isinstance(choice, Choice) or choice.criterion != measure.name:
        return
    if not np.isclose(value, choice.curve[-1], rtol=1e-4, atol=1e-12):
        raise ParameterError(
            f"the choice ended at {choice.curve[-1]:.6g}, but here has {value:.6g}: give the same `existing` and "
            "`target`, or `choice.indices` to judge it by others"
        )


def _wanted(
    choice: Choice | object, criterion: str | Mapping[str, float] | Criterion | None
) -> str | Mapping[str, float] | Criterion:
    """Settle the criterion."""
    if criterion is not None:
        return criterion
    if not isinstance(choice, Choice):
        return "balanced"
    if choice.criterion not in CRITERIA:
        raise ParameterError(f"the choice was made by {choice.criterion!r}: give that criterion's object")
    return choice.criterion
