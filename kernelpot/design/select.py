"""Choose structures under a size limit or a budget."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from kernelpot.design.certificate import efficiency_bound
from kernelpot.design.choice import Choice
from kernelpot.design.criteria import IV, A, Criterion, D
from kernelpot.design.duplicates import duplicates
from kernelpot.design.gains import Path
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.rivals import RIVALS
from kernelpot.design.search import Available, Rules, follow, greedy
from kernelpot.errors import ParameterError
from kernelpot.threads import one_blas

CRITERIA = ("D", "A", "IV")
"""Names of the criteria; "I" is another name of "IV"."""

Costs = Callable[[Information], Float[np.ndarray, " structures"]] | Sequence[float] | Float[np.ndarray, " structures"]


@one_blas()
def select(
    info: Information,
    n: int | None,
    *,
    criterion: str | Criterion = "IV",
    method: str = "greedy",
    existing: Information | None = None,
    target: Information | Float[np.ndarray, "d d"] | None = None,
    costs: Costs | None = None,
    budget: float | None = None,
    seed: int = 0,
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
        "D" (volume of the weights' confidence ellipsoid), "A" (mean variance of the weights), "IV" or "I" (mean
        variance of the target's labels, every label kind counting alike), or an object like those in
        `kernelpot.design.criteria`. Rivals ignore it, and carry its curve for comparison.
    method
        "greedy", or a rival: "random", "fps" or "kmeans" on mean descriptors.
    existing
        What is labelled already. "fps" goes on from it, "random" and "kmeans" only avoid its duplicates.
    target
        What is to be predicted, for IV: other structures, or V itself. None: the pool, duplicates once.
    costs
        Cost of every structure, or a function of `info`; N_atoms³ where only a budget is given.
    budget
        What the chosen structures may cost together. Greedy then returns the better of the choice by gain and
        the choice by gain per cost (Leskovec et al. 2007).
    seed
        Seed of rivals, and of the order that breaks ties.

    Returns
    -------
    Choice
        Indices in order of choice, the curve of the criterion, and a limit of its efficiency.

    Raises
    ------
    ParameterError
        If n exceeds the pool, a name is unknown, shapes do not agree, or costs are given without a budget.
    """
    if method != "greedy" and method not in RIVALS:
        raise ParameterError(f"unknown method {method!r}; choose from greedy, {', '.join(RIVALS)}")
    for name, given in (("info", info), ("existing", existing)):
        if given is not None and not isinstance(given, Information):
            raise ParameterError(
                f"`{name}` must be an Information, got a {type(given).__name__}; space.information(structures) makes one"
            )
    if existing is not None and existing.d != info.d:
        raise ParameterError(
            f"`existing` has {existing.d} weights and the pool {info.d}; make both with the same prepared model"
        )
    if not 0 <= seed < 2**32:
        raise ParameterError(f"`seed` must be a whole number of 32 bits, 0 or more, got {seed!r}")
    rules = _rules(info, n, existing, costs, budget, seed)
    measure = _criterion(criterion, info, target)
    start = Precision.prior(info.d)
    if existing is not None:
        start = start.with_rows(existing.rows)
    if method == "greedy":
        indices, path = _greedy(info, measure, rules, start)
    else:
        indices = _rival(info, method, rules, existing)
        path = follow(info, indices, measure, start)
    return _report(info, indices, path, measure, method, rules, existing)


def _greedy(info: Information, measure: Criterion, rules: Rules, start: Precision) -> tuple[list[int], Path]:
    """Run greedy; under a budget, by gain and by gain per cost, and keep the better."""
    runs = [greedy(info, measure, rules, start)]
    if np.isfinite(rules.budget):
        runs.append(greedy(info, measure, rules, start, per_cost=True))
    sign = 1.0 if measure.larger_is_better else -1.0
    return max(runs, key=lambda run: sign * run[1].values[-1])


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
        lost = 0.0 if existing is None else float(existing.discarded.sum())
        bound = efficiency_bound(info, chosen, measure, rules, precision, discarded=lost)
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
    )


def _criterion(
    criterion: str | Criterion, info: Information, target: Information | Float[np.ndarray, "d d"] | None
) -> Criterion:
    """Make the criterion that a name stands for."""
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


def _rules(
    info: Information,
    n: int | None,
    existing: Information | None,
    costs: Costs | None,
    budget: float | None,
    seed: int,
) -> Rules:
    """Check the limits of a choice."""
    if n is None and budget is None:
        raise ParameterError("`n` may be None only where a `budget` limits the choice")
    try:
        size = len(info) if n is None else operator.index(n)
    except TypeError:
        raise ParameterError(f"`n` must be a whole number, got {n!r}") from None
    if not 0 <= size <= len(info):
        raise ParameterError(f"`n` must be between 0 and the number of candidates, {len(info)}; got {size}")
    groups = duplicates(info)
    taken = np.zeros(len(info), dtype=bool)
    if existing is not None and len(existing):
        joint = duplicates(existing.append(info))
        groups = joint[len(existing) :]
        taken = np.isin(groups, joint[: len(existing)])
    rules = Rules(size, groups, taken, np.ones(len(info)), np.inf, seed)
    if n is None:
        rules = replace(rules, n=rules.distinct)
    return _with_budget(rules, info, costs, budget)


def _with_budget(rules: Rules, info: Information, costs: Costs | None, budget: float | None) -> Rules:
    """Add costs and a budget to rules."""
    if budget is None:
        if costs is not None:
            raise ParameterError("`costs` have no effect without a `budget`: give both")
        return rules
    if not (np.isfinite(budget) and budget >= 0):
        raise ParameterError(f"`budget` must be finite and not negative, got {budget}")
    given: Costs = info.n_atoms.astype(np.float64) ** 3 if costs is None else costs
    values = np.asarray(given(info) if callable(given) else given, dtype=np.float64)
    if values.shape != (len(info),):
        raise ParameterError(f"`costs` must hold one cost for each of {len(info)} structures, got {values.shape}")
    if not (np.isfinite(values) & (values > 0)).all():
        raise ParameterError("`costs` must be positive and finite")
    return replace(rules, costs=values, budget=float(budget))
