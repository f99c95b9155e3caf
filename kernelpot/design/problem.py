"""What a request for a design means: its criterion, its rules, where it starts."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from kernelpot.design.criteria import IV, A, Criterion, D
from kernelpot.design.duplicates import duplicates
from kernelpot.design.information import Information
from kernelpot.design.limits import (
    Budget,
    Costs,
    Numbers,
    Quotas,
    check_feasible,
    read_costs,
    read_numbers,
    read_quotas,
)
from kernelpot.design.precision import Precision
from kernelpot.design.rules import Rules
from kernelpot.errors import ParameterError

CRITERIA = ("D", "A", "IV")
"""Names of the criteria; "I" is another name of "IV"."""


def starting(info: Information, existing: Information | None) -> Precision:
    """Information before the choice.

    Parameters
    ----------
    info, existing
        As in `select`.
    """
    for name, given in (("info", info), ("existing", existing)):
        if given is not None and not isinstance(given, Information):
            raise ParameterError(
                f"`{name}` must be an Information, got a {type(given).__name__}; "
                "space.information(structures) makes one"
            )
    start = Precision.prior(info.d)
    if existing is None:
        return start
    if existing.d != info.d:
        raise ParameterError(
            f"`existing` has {existing.d} weights and the pool {info.d}; make both with the same prepared model"
        )
    return start.with_rows(existing.rows)


def make_criterion(
    criterion: str | Criterion, info: Information, target: Information | Float[np.ndarray, "d d"] | None
) -> Criterion:
    """Make the criterion that a name stands for.

    Parameters
    ----------
    criterion, target
        As in `select`.
    info
        The pool.
    """
    if not isinstance(criterion, str):
        return criterion
    if criterion == "D":
        return D()
    if criterion == "A":
        return A(info.d)
    if criterion not in ("IV", "I"):
        raise ParameterError(f"unknown criterion {criterion!r}; choose from {', '.join(CRITERIA)}")
    if target is None:
        target = info.take(np.unique(duplicates(info), return_index=True)[1])
    measure = IV.from_root(target.target_root()) if isinstance(target, Information) else IV(target)
    if len(measure.root) != info.d:
        raise ParameterError(f"`target` must speak about {info.d} weights, but does about {len(measure.root)}")
    return measure


def make_rules(
    info: Information,
    n: int | None,
    existing: Information | None,
    costs: Costs | None,
    budget: Budget | None,
    seed: int,
    *,
    forced: Numbers | None = None,
    forbidden: Numbers | None = None,
    quotas: Quotas | None = None,
    quota_groups: Sequence[object] | np.ndarray | None = None,
) -> Rules:
    """Check the limits of a choice.

    Parameters
    ----------
    info, n, existing, costs, budget, seed, forced, forbidden, quotas, quota_groups
        As in `select`.
    """
    if n is None and budget is None:
        raise ParameterError("`n` may be None only where a `budget` limits the choice")
    never = read_numbers(forbidden, len(info), "forbidden")
    size = _size(n, len(info), len(never))
    groups = duplicates(info)
    taken = np.zeros(len(info), dtype=bool)
    if existing is not None and len(existing):
        joint = duplicates(existing.append(info))
        groups = joint[len(existing) :]
        taken = np.isin(groups, joint[: len(existing)])
    resources, prices, limits = read_costs(info, costs, budget)
    classes, labels, least, most = read_quotas(info, quotas, quota_groups)
    mask = np.zeros(len(info), dtype=bool)
    mask[never] = True
    rules = Rules(
        size,
        groups,
        taken,
        prices,
        limits,
        seed,
        forced=read_numbers(forced, len(info), "forced"),
        forbidden=mask,
        labels=labels,
        least=least,
        most=most,
        resources=resources,
        classes=classes,
    )
    if n is None:
        rules = replace(rules, n=len(rules.forced) + len(np.unique(groups[rules.fresh])))
    check_feasible(rules)
    return rules


def _size(n: int | None, candidates: int, forbidden: int) -> int:
    """Check the number of structures."""
    try:
        size = candidates - forbidden if n is None else operator.index(n)
    except TypeError:
        raise ParameterError(f"`n` must be a whole number, got {n!r}") from None
    if not 0 <= size <= candidates:
        raise ParameterError(f"`n` must be between 0 and the number of candidates, {candidates}; got {size}")
    if size > candidates - forbidden:
        raise ParameterError(f"`n` is {size}, but only {candidates - forbidden} candidates are not `forbidden`")
    return size
