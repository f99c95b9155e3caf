"""Choose structures under a size limit, budgets and quotas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.bounds.certificate import efficiency_bound
from kernelpot.design.bounds.relaxation import relax
from kernelpot.design.choice import Choice
from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.limits import Budget, Costs, Numbers, Quotas
from kernelpot.design.problem import Target, make_criterion, make_rules, starting
from kernelpot.design.rivals import RIVALS
from kernelpot.design.search.engines import economy
from kernelpot.design.search.exchange import exchange
from kernelpot.design.search.gains import Path
from kernelpot.design.search.greedy import SAMPLE, follow
from kernelpot.design.search.methods import (
    SEARCHES,
    best_greedy,
    discarded_of,
    first_design,
    ranked,
    restarts_of,
    rounded,
)
from kernelpot.design.search.pruning import prune
from kernelpot.design.task import Rules
from kernelpot.errors import ParameterError
from kernelpot.run import one_blas


@one_blas()
def select(
    info: Information,
    n: int | None,
    *,
    criterion: str | Mapping[str, float] | Criterion = "balanced",
    method: str = "greedy",
    existing: Information | None = None,
    target: Target | None = None,
    costs: Costs | None = None,
    budget: Budget | None = None,
    forced: Numbers | None = None,
    forbidden: Numbers | None = None,
    quotas: Quotas | None = None,
    quota_groups: Sequence[object] | np.ndarray | None = None,
    seed: int = 0,
    restarts: int | None = None,
    start_from: str | Numbers | None = None,
    lazy: bool | None = None,
) -> Choice:
    """Choose which structures of a pool to label. No label is looked at.

    Structures with the same mean descriptor and number of atoms count once, and those that duplicate an
    existing one are left out; a repeat is chosen only where more structures are asked for than are distinct.

    Parameters
    ----------
    info
        The pool.
    n
        Number of structures; with a budget a limit, or None for no limit.
    criterion
        "balanced" (geometric mean of the label kinds' mean variances over the target, energies twice: the best in
        docs/labels.md), "IV" or "I" (mean variance of the target's labels in units of their noise, every label kind
        counting alike), "V" (mean variance of the target's rows), "G" (largest mean variance of a target structure),
        "D" (volume of the weights' confidence ellipsoid), "Ds" (the same of some weights), "A" (mean variance of the
        weights), "E" (largest variance of any direction), "c" and "L" (variance of one or several functionals); a
        mapping of names to weights, such as ``{"D": 0.3, "IV": 0.7}``, for the geometric mean of their efficiencies; or
        an object from `kernelpot.design.criteria`. Rivals ignore it, and carry its curve for comparison.
    method
        "greedy"; "stochastic", greedy that looks at a random sample of the pool in every step; "exchange", which
        improves the greedy choice by swaps; "relaxation", which chooses and swaps among the structures that the best
        fractional design uses, and whose limit of efficiency is tight; "pruning", which drops structures from the
        whole pool one by one (for pools of hundreds); or a rival: a name in
        `kernelpot.design.rivals.RIVALS`, such as "random", "fps" or "kmeans".
    existing
        What is labelled already. Rivals go on from it; "random", "stratified" and "kmeans" only avoid its duplicates.
    target
        What is to be predicted. For balanced, IV, V and G other structures; or V itself for balanced and IV (which are
        then the same), rows (points, d) for V and G.
        None: the pool, duplicates once. For "c" and "L" the rows of the functionals, for "Ds" the numbers of the
        weights that matter; "D", "A" and "E" do not look at it.
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
    seed
        Seed of rivals, of restarts, and of the order that breaks ties.
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

    Returns
    -------
    Choice
        Indices in order of choice, the curve of the criterion, and a limit of its efficiency.

    Raises
    ------
    ParameterError
        If n exceeds the pool, a name is unknown, shapes do not agree, costs are given without a budget, or no choice
        can obey all rules; the message names the rule.
    """
    if not isinstance(method, str) or (method not in SEARCHES and method not in RIVALS):
        raise ParameterError(f"unknown method {method!r}; choose from {', '.join([*SEARCHES, *RIVALS])}")
    if start_from is not None and method != "exchange":
        raise ParameterError(f"`start_from` has no effect on method {method!r}, only on 'exchange'")
    start = starting(info, existing)
    rules = make_rules(
        info,
        n,
        existing,
        costs,
        budget,
        seed,
        forced=forced,
        forbidden=forbidden,
        quotas=quotas,
        quota_groups=quota_groups,
    )
    measure = make_criterion(criterion, info, target)
    again = restarts_of(info, rules.n, restarts)
    name = _named(method, measure, info, lazy=lazy)
    path, relaxed = None, None
    if method in ("greedy", "stochastic"):
        sample = SAMPLE if method == "stochastic" else None
        indices, path = best_greedy(info, measure, rules, start, lazy=lazy, sample=sample)
    elif method == "exchange":
        first = first_design(info, measure, rules, start, existing, start_from, lazy=lazy)
        indices = exchange(info, first, measure, rules, start, restarts=again)[0]
    elif method == "relaxation":
        relaxed = relax(info, measure, rules, start, discarded=discarded_of(existing))
        indices = rounded(info, relaxed.weights, measure, rules, start, restarts=again)
    elif method == "pruning":
        indices = prune(info, measure, rules, start)
    else:
        indices = ranked(info, method, rules, existing)
    path = follow(info, indices, measure, start) if path is None else path
    choice = _report(info, indices, path, measure, name, rules, existing)
    if relaxed is None or not len(choice):
        return choice
    tight = max(measure.efficiency(path.values[-1], relaxed.bound, info.d), choice.efficiency_bound or 0.0)
    return replace(choice, efficiency_bound=tight, efficiency_from="a relaxation")


def _named(method: str, measure: Criterion, info: Information, *, lazy: bool | None) -> str:
    """Say in the method's name where it is not exact."""
    if method != "greedy" or measure.submodular or lazy is False:
        return method
    if measure.roots is None:
        return method if measure.tries is None or len(info) <= measure.tries else "greedy (most promising tried)"
    how = "lazy" if lazy else economy(info, measure)
    return {"lazy": "lazy greedy (heuristic)", "short": "greedy (shortened blocks)"}.get(how, method)


def _report(
    info: Information,
    indices: list[int],
    path: Path,
    measure: Criterion,
    method: str,
    rules: Rules,
    existing: Information | None,
) -> Choice:
    """Put together what is known about a choice."""
    chosen = np.array(indices, dtype=np.int64)
    precision = path.precision
    bound = None
    if len(chosen):
        bound = efficiency_bound(info, chosen, measure, rules, precision, discarded=discarded_of(existing))
    new = len(np.unique(rules.groups[chosen[~rules.taken[chosen]]]))
    costs, limits = _spent(rules, chosen)
    return Choice(
        indices=chosen,
        curve=np.array(path.values),
        criterion=measure.name,
        method=method,
        efficiency_bound=bound,
        description=info.description,
        n_candidates=len(info),
        n_distinct=rules.distinct,
        n_repeated=len(chosen) - new,
        costs=costs,
        budget=limits,
        groups=tuple(info.groups[s] for s in chosen),
        symbol=measure.symbol,
        larger_is_better=measure.larger_is_better,
    )


def _spent(
    rules: Rules, chosen: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"] | dict[str, Float[np.ndarray, " n"]] | None, float | dict[str, float] | None]:
    """Costs of the members and budgets, by name where there are several."""
    if not len(rules.budget):
        return None, None
    if rules.resources == ("",):
        return rules.costs[chosen, 0], float(rules.budget[0])
    columns = zip(rules.resources, rules.costs[chosen].T, strict=True)
    return dict(columns), dict(zip(rules.resources, rules.budget.tolist(), strict=True))
