"""Choose structures under a size limit or a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from kernelpot.design.certificate import efficiency_bound
from kernelpot.design.choice import Choice
from kernelpot.design.criteria import Criterion
from kernelpot.design.exchange import exchange, fill, single_rows
from kernelpot.design.gains import Path
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.problem import Costs, Target, make_criterion, make_rules, starting
from kernelpot.design.relaxation import relax
from kernelpot.design.rivals import RIVALS
from kernelpot.design.search import Available, Rules, follow, greedy
from kernelpot.errors import ParameterError
from kernelpot.threads import one_blas

METHODS = ("greedy", "exchange", "relaxation")
"""Methods that look at the criterion."""

_ROW_RESTARTS = 20
_CHEAP = 5e7
_SUPPORT = 1e-3


@one_blas()
def select(
    info: Information,
    n: int | None,
    *,
    criterion: str | Mapping[str, float] | Criterion = "IV",
    method: str = "greedy",
    existing: Information | None = None,
    target: Target | None = None,
    costs: Costs | None = None,
    budget: float | None = None,
    seed: int = 0,
    restarts: int | None = None,
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
        "IV" or "I" (mean variance of the target's labels, every label kind counting alike), "V" (mean variance of
        the target's rows), "G" (largest mean variance of a target structure), "D" (volume of the weights' confidence
        ellipsoid), "Ds" (the same of some weights), "A" (mean variance of the weights), "E" (largest variance of any
        direction), "c" and "L" (variance of one or several functionals); a mapping of names to weights, such as
        ``{"D": 0.3, "IV": 0.7}``, for the geometric mean of their efficiencies; or an object from
        `kernelpot.design.criteria`. Rivals ignore it, and carry its curve for comparison.
    method
        "greedy"; "exchange", which improves the greedy choice by swaps; "relaxation", which chooses and swaps among
        the structures that the best fractional design uses, and whose limit of efficiency is tight; or a rival:
        "random", "fps" or "kmeans" on mean descriptors.
    existing
        What is labelled already. "fps" goes on from it, "random" and "kmeans" only avoid its duplicates.
    target
        What is to be predicted. For IV, V and G other structures; or V itself for IV, rows (points, d) for V and G.
        None: the pool, duplicates once. For "c" and "L" the rows of the functionals, for "Ds" the numbers of the
        weights that matter; "D", "A" and "E" do not look at it.
    costs
        Cost of every structure, or a function of `info`; N_atoms³ where only a budget is given.
    budget
        What the chosen structures may cost together. Greedy then returns the better of the choice by gain and
        the choice by gain per cost (Leskovec et al. 2007).
    seed
        Seed of rivals, of restarts, and of the order that breaks ties.
    restarts
        How often "exchange" or "relaxation" shakes the best design and swaps again. None: 20 times for single rows
        where that takes seconds, else not at all.

    Returns
    -------
    Choice
        Indices in order of choice, the curve of the criterion, and a limit of its efficiency.

    Raises
    ------
    ParameterError
        If n exceeds the pool, a name is unknown, shapes do not agree, or costs are given without a budget.
    """
    if method not in METHODS and method not in RIVALS:
        raise ParameterError(f"unknown method {method!r}; choose from {', '.join([*METHODS, *RIVALS])}")
    start = starting(info, existing)
    if not 0 <= seed < 2**32:
        raise ParameterError(f"`seed` must be a whole number of 32 bits, 0 or more, got {seed!r}")
    rules = make_rules(info, n, existing, costs, budget, seed)
    measure = make_criterion(criterion, info, target)
    again = _restarts(info, rules.n, restarts)
    relaxed = None
    if method == "greedy":
        indices, path = _greedy(info, measure, rules, start)
    else:
        if method == "exchange":
            indices = exchange(info, _greedy(info, measure, rules, start)[0], measure, rules, start, restarts=again)[0]
        elif method == "relaxation":
            relaxed = relax(info, measure, rules, start, discarded=_discarded(existing))
            indices = _rounded(info, relaxed.weights, measure, rules, start, again)
        else:
            indices = _rival(info, method, rules, existing)
        path = follow(info, indices, measure, start)
    choice = _report(info, indices, path, measure, method, rules, existing)
    if relaxed is None or not len(choice):
        return choice
    tight = max(measure.efficiency(path.values[-1], relaxed.bound, info.d), choice.efficiency_bound or 0.0)
    return replace(choice, efficiency_bound=tight, efficiency_from="a relaxation")


def _rounded(
    info: Information,
    weights: Float[np.ndarray, " structures"],
    measure: Criterion,
    rules: Rules,
    start: Precision,
    restarts: int,
) -> list[int]:
    """Choose among the structures of positive weight; the rest of the pool only fills up.

    The largest weights alone would be a poor design, as several structures may share one task.
    """
    support = np.flatnonzero(weights > _SUPPORT)
    inner = replace(rules, groups=rules.groups[support], taken=rules.taken[support], costs=rules.costs[support])
    inner = replace(inner, n=min(rules.n, inner.distinct))
    few = info.take(support)
    indices = exchange(few, _greedy(few, measure, inner, start)[0], measure, inner, start, restarts=restarts)[0]
    return fill(info, support[indices].tolist(), measure, rules, start)


def _discarded(existing: Information | None) -> float:
    """Trace that compression took from what existed before."""
    return 0.0 if existing is None else float(existing.discarded.sum())


def _restarts(info: Information, n: int, restarts: int | None) -> int:
    """Check how often exchange starts again."""
    if restarts is None:
        return _ROW_RESTARTS if single_rows(info) and len(info) * n * info.d <= _CHEAP else 0
    if not isinstance(restarts, int) or restarts < 0:
        raise ParameterError(f"`restarts` must be a whole number, 0 or more, got {restarts!r}")
    return restarts


def _greedy(info: Information, measure: Criterion, rules: Rules, start: Precision) -> tuple[list[int], Path]:
    """Run greedy; under a budget, by gain and by gain per cost, and keep the better."""
    runs = [greedy(info, measure, rules, start)]
    if np.isfinite(rules.budget):
        runs.append(greedy(info, measure, rules, start, per_cost=True))
    return max(runs, key=lambda run: measure.sign * run[1].values[-1])


def _rival(info: Information, method: str, rules: Rules, existing: Information | None) -> list[int]:
    """Take a rival's ranking as far as the rules allow; repeats fill up in random order."""
    free = np.flatnonzero(~rules.taken)
    heads = free[np.unique(rules.groups[free], return_index=True)[1]]
    rng = np.random.default_rng(rules.seed)
    ranked = np.empty(0, dtype=np.int64)
    wanted = min(rules.n, len(heads))
    if np.isfinite(rules.budget) and wanted:
        # About as many as the budget can pay: k-means clusters of which half are unaffordable tell nothing.
        wanted = min(wanted, max(int(rules.budget / max(rules.costs[heads].mean(), 1e-300)), 1))
    if wanted:
        ranked = RIVALS[method](info, heads, wanted, existing, rules.seed)
    others = np.setdiff1d(np.arange(len(info)), ranked)
    available = Available(rules)
    for s in [*ranked, *rng.permutation(np.setdiff1d(heads, ranked)), *rng.permutation(others)]:
        if available.now()[s]:
            available.choose(s)
    return available.indices


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
        bound = efficiency_bound(info, chosen, measure, rules, precision, discarded=_discarded(existing))
    new = len(np.unique(rules.groups[chosen[~rules.taken[chosen]]]))
    limited = np.isfinite(rules.budget)
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
        costs=rules.costs[chosen] if limited else None,
        budget=rules.budget if limited else None,
        groups=tuple(info.groups[s] for s in chosen),
        symbol=measure.symbol,
        larger_is_better=measure.larger_is_better,
    )
