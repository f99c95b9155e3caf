"""Read what a user says about costs, budgets, quotas, forced and forbidden structures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Float, Int

from kernelpot import rules as read
from kernelpot.design.information import Information, duplicates
from kernelpot.design.task import Rules
from kernelpot.errors import ParameterError

Cost = Callable[[Information], Float[np.ndarray, " structures"]] | Sequence[float] | Float[np.ndarray, " structures"]
Costs = Cost | Mapping[str, Cost]
Budget = float | Mapping[str, float]
Quotas = Mapping[str, int | tuple[int, int]]
Numbers = Sequence[int] | Int[np.ndarray, " some"]


class Limits(TypedDict, total=False):
    """What a choice may hold, by keyword.

    Parameters
    ----------
    costs
        Cost of every structure, or a function of `info`; N_atoms³ where only a budget is given. For several resources
        a mapping from their names.
    budget
        What the chosen structures may cost together, or a mapping with a limit for each resource. Greedy then returns
        the better of the choice by gain and the choice by gain per cost (Leskovec et al. 2007).
    forced
        Structures that are chosen in any case, and first; they count towards n, budgets and quotas.
    forbidden
        Structures that are never chosen.
    quotas
        How many structures a group may give, ``{"surface": 5}`` for at most 5 or ``{"surface": (2, 5)}`` for 2 to 5.
        Least quotas must be fulfilled by distinct structures; places and money are kept for them.
    quota_groups
        Group of every structure. None: ``info.groups``.
    """

    costs: Costs | None
    budget: Budget | None
    forced: Numbers | None
    forbidden: Numbers | None
    quotas: Quotas | None
    quota_groups: Sequence[object] | np.ndarray | None


class Choosing(Limits, total=False):
    """How `select` searches, beside the limits.

    Parameters
    ----------
    restarts
        How often "exchange" or "relaxation" shakes the best design and swaps again. None: 20 times for single rows
        where that takes seconds, else not at all.
    start_from
        Where "exchange" begins: structure numbers, "greedy" (None), or the name of a rival.
    lazy
        Whether greedy passes over candidates whose old gain no longer wins: exact for a submodular criterion such as
        D, a heuristic for others. False: every gain is exact at every step. None: lazy where that is exact; where
        exact gains of all would take long, those of blocks shortened to 99.7 % of their trace; in very large pools
        lazy again. `Choice.method` says what was done.
    """

    restarts: int | None
    start_from: str | Numbers | None
    lazy: bool | None


def read_rules(info: Information, existing: Information | None, seed: int, given: Limits) -> Rules:
    """Check the limits of a choice of any size."""
    seed = read.whole(seed, "seed", most=read.MOST_SEED)
    never = np.zeros(len(info), dtype=bool)
    never[read_numbers(given.get("forbidden"), len(info), "forbidden")] = True
    groups = duplicates(info)
    taken = np.zeros(len(info), dtype=bool)
    if existing is not None and len(existing):
        joint = duplicates(existing.append(info))
        groups = joint[len(existing) :]
        taken = np.isin(groups, joint[: len(existing)])
    resources, prices, limits = _read_costs(info, given.get("costs"), given.get("budget"))
    classes, labels, least, most = _read_quotas(info, given.get("quotas"), given.get("quota_groups"))
    return Rules(
        int(np.count_nonzero(~never)),
        groups,
        taken,
        prices,
        limits,
        seed,
        forced=read_numbers(given.get("forced"), len(info), "forced"),
        forbidden=never,
        labels=labels,
        least=least,
        most=most,
        resources=resources,
        classes=classes,
    )


def _read_costs(
    info: Information, costs: Costs | None, budget: Budget | None
) -> tuple[tuple[str, ...], Float[np.ndarray, "structures resources"], Float[np.ndarray, " resources"]]:
    """Bring names, costs and budgets of the resources into columns; a single one that has no name is called ""."""
    if budget is None:
        if costs is not None:
            raise ParameterError("`costs` have no effect without a `budget`: give both")
        return (), np.empty((len(info), 0)), np.empty(0)
    if not isinstance(budget, Mapping):
        if isinstance(costs, Mapping):
            raise ParameterError(f"`budget` must give a limit for each of the `costs` {list(costs)}, got {budget!r}")
        return ("",), read_cost(info, costs)[:, None], np.array([read.real(budget, "budget")])
    if not isinstance(costs, Mapping) or set(costs) != set(budget) or not len(budget):
        found = list(costs) if isinstance(costs, Mapping) else type(costs).__name__
        raise ParameterError(
            f"`costs` and `budget` must speak of the same resources: `budget` names {list(budget)}, `costs` {found}"
        )
    columns = [_costs(info, costs[name], f"costs[{name!r}]") for name in budget]
    limits = [read.real(budget[name], f"budget[{name!r}]") for name in budget]
    return tuple(map(str, budget)), np.column_stack(columns), np.array(limits)


def read_cost(info: Information, given: Cost | None) -> Float[np.ndarray, " structures"]:
    """Check costs of one resource, none of which may be zero; N_atoms³ where none are given."""
    values = _costs(info, info.n_atoms.astype(np.float64) ** 3 if given is None else given, "costs")
    if not (values > 0).all():
        raise ParameterError("`costs` must be positive and finite")
    return values


def _costs(info: Information, given: Cost, name: str) -> Float[np.ndarray, " structures"]:
    values = read.reals(given(info) if callable(given) else given, name).astype(np.float64)
    if values.shape != (len(info),):
        raise ParameterError(f"`{name}` must hold one cost for each of {len(info)} structures, got {values.shape}")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ParameterError(f"`{name}` must be positive and finite")
    return values


def read_numbers(given: Numbers | None, size: int, name: str) -> Int[np.ndarray, " some"]:
    """Check structure numbers, of which there may be none."""
    if given is None:
        return np.empty(0, dtype=np.int64)
    array = read.numbers(given, name)
    if len(array) and (array.min() < 0 or array.max() >= size or len(np.unique(array)) < len(array)):
        raise ParameterError(f"`{name}` must hold different numbers in [0, {size}), got {read.shown(array.tolist())}")
    return array


def _read_quotas(
    info: Information, quotas: Quotas | None, quota_groups: Sequence[object] | np.ndarray | None
) -> tuple[tuple[str, ...], Int[np.ndarray, " structures"], Int[np.ndarray, " classes"], Int[np.ndarray, " classes"]]:
    """Name the quota classes, number the class of every candidate (-1 for none), and give the limits of each class."""
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
    limits = []
    for name, value in quotas.items():
        pair = tuple(value) if isinstance(value, (tuple, list)) else (0, value)
        if len(pair) != 2:
            raise ParameterError(
                f"`quotas[{name!r}]` must be a whole number or a pair of them, got {read.shown(value)}"
            )
        few, many = (read.whole(limit, f"quotas[{name!r}]") for limit in pair)
        if few > many:
            raise ParameterError(f"`quotas[{name!r}]` must obey 0 <= least <= most, got {value!r}")
        limits.append((few, many))
    least, most = (np.array([limit[k] for limit in limits], dtype=np.int64) for k in (0, 1))
    return names, np.array([number.get(name, -1) for name in given], dtype=np.int64), least, most
