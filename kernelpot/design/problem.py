"""What a request for a design means: its criterion, its rules, where it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from kernelpot.design.blocks import KINDS
from kernelpot.design.criteria import IV, A, Compound, Criterion, D, Ds, E, G, L, MeanVariance, V, c
from kernelpot.design.information import Information, duplicates, require
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
from kernelpot.design.task import Rules
from kernelpot.errors import ParameterError
from kernelpot.rules import MOST_SEED, reals, whole

CRITERIA = ("balanced", "IV", "D", "A", "V", "G", "E", "c", "L", "Ds")
"""Names of the criteria; "I" is another name of "IV"."""

BALANCE = {"energy": 2.0, "forces": 1.0, "stress": 1.0}
"""Weights of the label kinds in "balanced", by trial on eight sets (docs/labels.md)."""


def starting(info: Information, existing: Information | None) -> Precision:
    """Information before the choice.

    Parameters
    ----------
    info, existing
        As in `select`.
    """
    require(info, "info")
    start = Precision.prior(info.d)
    if existing is None:
        return start
    require(existing, "existing")
    if existing.d != info.d:
        raise ParameterError(
            f"`existing` has {existing.d} weights and the pool {info.d}; make both with the same prepared model"
        )
    return start.with_rows(existing.rows)


Target = Information | Float[np.ndarray, "..."] | Sequence[int]


def make_criterion(
    criterion: str | Mapping[str, float] | Criterion, info: Information, target: Target | None
) -> Criterion:
    """Make the criterion that a name, or a mapping of names to weights, stands for.

    Parameters
    ----------
    criterion, target
        As in `select`.
    info
        The pool.
    """
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, str):
        return _named(criterion, info, target)
    if not isinstance(criterion, Mapping) or not criterion:
        raise ParameterError(
            "`criterion` must be a name, a mapping of names to weights, or a Criterion; "
            f"got a {type(criterion).__name__}"
        )
    parts = [_named(name, info, target) for name in criterion]
    return Compound(parts, list(criterion.values()), info.d)


def _named(name: str, info: Information, target: Target | None) -> Criterion:
    """Make the criterion of one name."""
    if name not in (*CRITERIA, "I"):
        raise ParameterError(f"unknown criterion {name!r}; choose from {', '.join(CRITERIA)}")
    if name == "D":
        return D()
    if name == "A":
        return A(info.d)
    if name == "E":
        return E(np.eye(info.d))
    if name == "Ds":
        return Ds(reals(_given(name, target, "the numbers of the weights that matter"), "target"), info.d)
    if name in ("c", "L"):
        rows = np.atleast_2d(reals(_given(name, target, "rows of the functionals"), "target"))
        _check_width(rows.shape[-1], info)
        return c(rows[0]) if name == "c" and len(rows) == 1 else L(rows)
    if target is None:
        target = info.take(np.unique(duplicates(info), return_index=True)[1])
    elif isinstance(target, Information) and not len(target.rows):
        raise ParameterError(
            f"`target` must hold at least one row to be predicted, got {len(target)} structures without any; "
            "give other structures, or None for the pool"
        )
    return _predicted(name, info, target)


def _predicted(name: str, info: Information, target: Target) -> Criterion:
    """Make IV, V or G, which are about the predictions of a target."""
    if isinstance(target, Information):
        _check_width(target.d, info)
        if name == "balanced":
            return balanced(target)
        if name == "G":
            return G(target.target_rows(), target.structure)
        return V(target.rows) if name == "V" else IV.from_root(target.target_root())
    array = reals(target, "target")
    _check_width(array.shape[-1] if array.ndim else 0, info)
    if name == "G":
        return G(array, np.arange(len(array)))
    return V(array) if name == "V" else IV(array)  # a matrix has no kinds to balance


def balanced(target: Information) -> Criterion:
    """Make the weighted geometric mean of the integrated variances of the target's label kinds.

    ``-Σ_kind κ log tr(V_kind C)``: a kind's gain is weighed by what is left of its variance, so that neither units nor
    noises set an exchange rate between meV/atom and meV/Å. `noise="cv"` judges noises by such a sum of logarithms, too.
    The weights are `BALANCE`.

    Parameters
    ----------
    target
        What is to be predicted. A kind whose rows are all zero has nothing to learn and is left out; where fewer than
        two are left, this is IV.
    """
    return balanced_of({kind: target.only(kind).target_root() for kind in KINDS})


def balanced_of(roots: Mapping[str, Float[np.ndarray, "d q"]]) -> Criterion:
    """Make the same from the roots of the kinds' second moments.

    Parameters
    ----------
    roots
        L with ``V_kind = L Lᵀ``, by kind.
    """
    told = {kind: root for kind, root in roots.items() if root.any()}
    if len(told) < 2:
        return IV.from_root(next(iter(told.values()), next(iter(roots.values()))))
    parts = [IV.from_root(root, name=f"IV({kind})") for kind, root in told.items()]
    measure = MeanVariance(parts, [BALANCE[kind] for kind in told], len(parts[0].root))
    measure.name = "balanced"
    return measure


def _given(name: str, target: Target | None, what: str) -> Any:
    """Refuse a missing target."""
    if target is None or isinstance(target, Information):
        raise ParameterError(f"criterion {name!r} needs a `target`: {what}")
    return target


def _check_width(width: int, info: Information) -> None:
    """Refuse a target of another feature space."""
    if width != info.d:
        raise ParameterError(f"`target` must speak about {info.d} weights, but does about {width}")


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
    seed = whole(seed, "seed", most=MOST_SEED)
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
    size = candidates - forbidden if n is None else whole(n, "n")
    if size > candidates:
        raise ParameterError(f"`n` must be between 0 and the number of candidates, {candidates}; got {size}")
    if size > candidates - forbidden:
        raise ParameterError(f"`n` is {size}, but only {candidates - forbidden} candidates are not `forbidden`")
    return size
