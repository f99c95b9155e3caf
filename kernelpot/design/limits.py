"""Read what a user says about costs, budgets, quotas, forced and forbidden structures, and refuse contradictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from kernelpot import rules as read
from kernelpot.design.available import completion
from kernelpot.design.information import Information
from kernelpot.design.rules import Rules
from kernelpot.errors import ParameterError

Cost = Callable[[Information], Float[np.ndarray, " structures"]] | Sequence[float] | Float[np.ndarray, " structures"]
Costs = Cost | Mapping[str, Cost]
Budget = float | Mapping[str, float]
Quotas = Mapping[str, int | tuple[int, int]]
Numbers = Sequence[int] | Int[np.ndarray, " some"]


def read_costs(
    info: Information, costs: Costs | None, budget: Budget | None
) -> tuple[tuple[str, ...], Float[np.ndarray, "structures resources"], Float[np.ndarray, " resources"]]:
    """Bring costs and budgets into columns.

    Parameters
    ----------
    info, costs, budget
        As in `select`.

    Returns
    -------
    names, costs, budget
        Of each resource; a single one that was not named is called "".
    """
    if budget is None:
        if costs is not None:
            raise ParameterError("`costs` have no effect without a `budget`: give both")
        return (), np.empty((len(info), 0)), np.empty(0)
    if not isinstance(budget, Mapping):
        if isinstance(costs, Mapping):
            raise ParameterError(f"`budget` must give a limit for each of the `costs` {list(costs)}, got {budget!r}")
        given: Cost = info.n_atoms.astype(np.float64) ** 3 if costs is None else costs
        values = _cost(info, given, "costs")
        if not (values > 0).all():
            raise ParameterError("`costs` must be positive and finite")
        return ("",), values[:, None], np.array([read.real(budget, "budget")])
    if not isinstance(costs, Mapping) or set(costs) != set(budget) or not len(budget):
        found = list(costs) if isinstance(costs, Mapping) else type(costs).__name__
        raise ParameterError(
            f"`costs` and `budget` must speak of the same resources: `budget` names {list(budget)}, `costs` {found}"
        )
    columns = [_cost(info, costs[name], f"costs[{name!r}]") for name in budget]
    limits = [read.real(budget[name], f"budget[{name!r}]") for name in budget]
    return tuple(map(str, budget)), np.column_stack(columns), np.array(limits)


def _cost(info: Information, given: Cost, name: str) -> Float[np.ndarray, " structures"]:
    """Check the costs of one resource."""
    values = read.reals(given(info) if callable(given) else given, name).astype(np.float64)
    if values.shape != (len(info),):
        raise ParameterError(f"`{name}` must hold one cost for each of {len(info)} structures, got {values.shape}")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ParameterError(f"`{name}` must be positive and finite")
    return values


def read_numbers(given: Numbers | None, size: int, name: str) -> Int[np.ndarray, " some"]:
    """Check structure numbers.

    Parameters
    ----------
    given
        Whole numbers, or None; a mask of booleans is refused.
    size
        Number of candidates.
    name
        Of the argument.
    """
    if given is None:
        return np.empty(0, dtype=np.int64)
    array = read.numbers(given, name)
    if len(array) and (array.min() < 0 or array.max() >= size or len(np.unique(array)) < len(array)):
        raise ParameterError(f"`{name}` must hold different numbers in [0, {size}), got {read.shown(array.tolist())}")
    return array


def read_quotas(
    info: Information, quotas: Quotas | None, quota_groups: Sequence[object] | np.ndarray | None
) -> tuple[tuple[str, ...], Int[np.ndarray, " structures"], Int[np.ndarray, " classes"], Int[np.ndarray, " classes"]]:
    """Give the quota classes numbers.

    Parameters
    ----------
    info, quotas, quota_groups
        As in `select`.

    Returns
    -------
    names, labels, least, most
        Names of the classes, the class of every candidate (-1 for none), and the limits of each class.
    """
    if quotas is None:
        if quota_groups is not None:
            raise ParameterError("`quota_groups` have no effect without `quotas`: give both")
        quotas = {}
    if not isinstance(quotas, Mapping):
        raise ParameterError(f"`quotas` must be a mapping such as {{'surface': (2, 5)}}, got {read.shown(quotas)}")
    given = info.groups if quota_groups is None else read.names(quota_groups, "quota_groups")
    if len(given) != len(info):
        raise ParameterError(f"`quota_groups` must hold one label for each of {len(info)} structures, got {len(given)}")
    names = tuple(map(str, quotas))
    unknown = sorted(set(names) - set(given))
    if unknown:
        raise ParameterError(f"`quotas` name unknown groups {unknown}; the groups are {sorted(set(given))}")
    number = {name: q for q, name in enumerate(names)}
    limits = [_quota(name, value) for name, value in quotas.items()]
    least, most = (np.array([limit[k] for limit in limits], dtype=np.int64) for k in (0, 1))
    return names, np.array([number.get(name, -1) for name in given], dtype=np.int64), least, most


def _quota(name: str, value: object) -> tuple[int, int]:
    """Check the limits of one class."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (0, value)
    if len(pair) != 2:
        raise ParameterError(f"`quotas[{name!r}]` must be a whole number or a pair of them, got {read.shown(value)}")
    least, most = (read.whole(limit, f"quotas[{name!r}]") for limit in pair)
    if least > most:
        raise ParameterError(f"`quotas[{name!r}]` must obey 0 <= least <= most, got {value!r}")
    return least, most


def check_feasible(rules: Rules) -> None:
    """Refuse rules that no choice can obey.

    Parameters
    ----------
    rules
        What a choice may hold.

    Raises
    ------
    ParameterError
        The message names the rule that cannot be kept.
    """
    forced = rules.forced
    if rules.forbidden[forced].any():
        both = forced[rules.forbidden[forced]].tolist()
        raise ParameterError(f"`forced` and `forbidden` must not overlap, but both hold {both}")
    if len(forced) > rules.n:
        raise ParameterError(f"`forced` holds {len(forced)} structures, more than `n` = {rules.n}")
    spent = rules.costs[forced].sum(axis=0)
    for name, cost, limit in zip(rules.resources, spent, rules.budget, strict=True):
        if not rules.fits(spent[None], rules.budget)[0] and cost > limit:
            where = f"`budget[{name!r}]`" if name else "`budget`"
            raise ParameterError(f"the `forced` structures cost {cost:.6g}, more than the {where} of {limit:.6g}")
    used = rules.counts(forced)
    for name, count, most in zip(rules.classes, used, rules.most, strict=True):
        if count > most:
            raise ParameterError(f"`forced` holds {count} structures of {name!r}, more than `quotas` allow, {most}")
    _check_least(rules)


def _check_least(rules: Rules) -> None:
    """Refuse least quotas that cannot be fulfilled."""
    need = np.maximum(rules.least - rules.counts(rules.forced), 0)
    if not need.any():
        return
    if len(rules.forced) + need.sum() > rules.n:
        raise ParameterError(
            f"the least `quotas` want {need.sum()} structures beside {len(rules.forced)} forced ones, more than `n` = "
            f"{rules.n} allows"
        )
    for q, name in enumerate(rules.classes):
        there = len(np.unique(rules.groups[rules.fresh & (rules.labels == q)]))
        if need[q] > there:
            raise ParameterError(
                f"`quotas[{name!r}]` wants at least {rules.least[q]}, but only {there} distinct candidates of that "
                "group may be chosen"
            )
    left = rules.budget - rules.costs[rules.forced].sum(axis=0)
    if completion(rules, rules.fresh, need, left) is None:
        what = "the `budget`" if len(rules.budget) else "distinct candidates"
        raise ParameterError(f"the least `quotas` cannot be fulfilled within {what}: raise it or lower them")
