"""A design problem, made once from what a user asks, and the three questions that can be put to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Unpack

import numpy as np
from jaxtyping import Int

from kernelpot.design.available import check_feasible
from kernelpot.design.bounds.branch import Optimum, best_set
from kernelpot.design.bounds.certificate import Certificate, certificate, relax
from kernelpot.design.bounds.climb import STEPS, TOLERANCE, Effort
from kernelpot.design.bounds.polytope import efficiency_bound
from kernelpot.design.choice import SHARP, Choice, Facts
from kernelpot.design.criteria import CRITERIA, Target, Wanted, distinct, make_criterion
from kernelpot.design.information import Information, require
from kernelpot.design.limits import Choosing, Limits, Numbers, read_numbers, read_rules
from kernelpot.design.precision import Aim, Precision
from kernelpot.design.rivals import RIVALS, ranked
from kernelpot.design.search.engines import greedy_name
from kernelpot.design.search.exchange import exchange, first_design, rounded
from kernelpot.design.search.gains import Path
from kernelpot.design.search.greedy import SAMPLE, best_greedy, follow
from kernelpot.design.search.pruning import prune
from kernelpot.design.task import Task
from kernelpot.errors import ParameterError
from kernelpot.rules import keywords, real, whole
from kernelpot.run import one_blas
from kernelpot.units import MILLI

SEARCHES = ("greedy", "stochastic", "exchange", "relaxation", "pruning")
"""Methods that look at the criterion."""

PATIENCE = 5.0
"""Seconds that a printed choice may take to find a sharper bound of its efficiency."""
_MANY, _LONG = 5000, 2e11
"""Structures, and operations of one step (rows times d²), up to which it tries."""


@dataclass(frozen=True, eq=False)
class Problem(Task):
    """What is to be chosen, whatever the number: candidates, a criterion, what exists, what is to be predicted, rules.

    Made by `pose`. Its rules allow every candidate that is not forbidden; a question says how many are wanted.

    Parameters
    ----------
    info, criterion, existing
        Candidates, what is improved, what is labelled already.
    rules
        What a choice may hold.
    start
        Information before the choice, that of `existing` included.
    target
        What is to be predicted, as it was given.
    again
        Makes the same problem again from what was given, so that a choice need not hold the problem itself.
    """

    target: Target | None = None
    again: Callable[[], Problem] | None = None

    def within(self, budget: float) -> Problem:
        """Pose the same problem under another budget of its single resource."""
        limits = np.array([real(budget, "budget")])
        return replace(self, rules=replace(self.rules, budget=limits), again=None)

    def sized(self, n: int | None) -> Task:
        """Check a number of structures, and that some choice of it can obey the rules."""
        if n is None and not len(self.rules.resources):
            raise ParameterError("`n` may be None only where a `budget` limits the choice")
        size = self.rules.n if n is None else whole(n, "n")
        if size > len(self.rules):
            raise ParameterError(f"`n` must be between 0 and the number of candidates, {len(self.rules)}; got {size}")
        if size > self.rules.n:
            raise ParameterError(f"`n` is {size}, but only {self.rules.n} candidates are not `forbidden`")
        rules = replace(self.rules, n=size)
        if n is None:
            rules = replace(rules, n=len(rules.forced) + len(np.unique(rules.groups[rules.fresh])))
        check_feasible(rules)
        return self.under(rules)

    @one_blas()
    def select(
        self,
        n: int | None,
        method: str = "greedy",
        *,
        restarts: int | None = None,
        start_from: str | Numbers | None = None,
        lazy: bool | None = None,
    ) -> Choice:
        """Choose n structures by a method; parameters as in `select`."""
        check_method(method, start_from)
        task = self.sized(n)
        often = task.restarts(restarts)
        path: Path | None = None
        relaxed = None
        if method in ("greedy", "stochastic"):
            indices, path = best_greedy(task, lazy=lazy, sample=SAMPLE if method == "stochastic" else None)
        elif method == "exchange":
            indices = exchange(task, first_design(task, start_from, lazy=lazy), restarts=often)[0]
        elif method == "relaxation":
            relaxed = relax(task)
            indices = rounded(task, relaxed.weights, restarts=often)
        elif method == "pruning":
            indices = prune(task)
        else:
            indices = ranked(task, method)
        path = follow(task, indices) if path is None else path
        again, chosen = self.again, tuple(indices)
        choice = _described(
            task,
            np.array(indices, dtype=np.int64),
            path,
            method if method != "greedy" else greedy_name(task, lazy=lazy),
            None if again is None else lambda sharpen: again().facts(n, chosen, sharpen=sharpen),
        )
        if relaxed is None or not len(choice):
            return choice
        tight = task.criterion.efficiency(path.values[-1], relaxed.bound, task.info.d)
        return replace(
            choice, efficiency_bound=max(tight, choice.efficiency_bound or 0.0), efficiency_from="a relaxation"
        )

    @one_blas()
    def certify(
        self,
        choice: Choice | Sequence[int] | Int[np.ndarray, " n"],
        *,
        steps: int = STEPS,
        tolerance: float = TOLERANCE,
    ) -> Certificate:
        """Prove how efficient a choice is against all of its size, or within the budget; parameters as in `certify`."""
        effort = Effort(whole(steps, "steps"), real(tolerance, "tolerance", most=1.0))
        if choice is None:
            raise ParameterError("`choice` must be a Choice or a list of structure numbers, got None")
        indices = read_numbers(choice.indices if isinstance(choice, Choice) else choice, len(self.info), "choice")
        task = self.sized(None if len(self.rules.resources) else len(indices))
        paid = choice.costs if isinstance(choice, Choice) else None
        for name, cost in (paid if isinstance(paid, Mapping) else {} if paid is None else {"": paid}).items():
            now = task.rules.spent(indices).get(name)
            if now is not None and not np.isclose(now.sum(), np.sum(cost)):
                raise ParameterError(
                    f"the choice cost {np.sum(cost):.6g}, but by these `costs` {now.sum():.6g}: give the same costs"
                )
        breach = task.rules.breach(indices)
        if breach is not None:
            raise ParameterError(f"the choice breaks its rules: {breach}")
        value = task.criterion.shown(task.known(indices))
        if isinstance(choice, Choice) and choice.criterion == task.criterion.name:
            ended = float(choice.curve[-1])
            if not np.isclose(value, ended, rtol=1e-4, atol=1e-12):
                raise ParameterError(
                    f"the choice ended at {ended:.6g}, but here has {value:.6g}: give the same `existing` and "
                    "`target`, or `choice.indices` to judge it by others"
                )
        return certificate(task, value, effort)

    @one_blas()
    def facts(self, n: int | None, indices: Sequence[int], *, sharpen: bool) -> Facts:
        """Work out what a printed choice says beside its curve, where that takes seconds."""
        info = self.info
        if not len(indices) or len(info) > _MANY or len(info.rows) * info.d**2 > _LONG:
            return Facts()
        task = self.sized(n)
        precision = task.known(indices)
        efficiency = None
        if sharpen and efficiency_bound(task, np.array(indices, dtype=np.int64), precision) < SHARP:
            found = relax(task, Effort(until=time.perf_counter() + PATIENCE))
            efficiency = task.criterion.efficiency(task.criterion.shown(precision), found.bound, info.d)
        given = self.target if isinstance(self.target, Information) else None
        aim = Aim.of(distinct(info) if given is None else given)
        before, after = aim.errors(self.start), aim.errors(precision)
        # Of what has no noise by name, such as a property, nothing is known in meV.
        kinds = [kind for kind in aim.roots if kind in info.description and kind in MILLI]
        errors = {kind: (before[kind], after[kind]) for kind in kinds}
        return Facts(efficiency, errors, "pool" if given is None else "target")

    @one_blas()
    def best(self, n: int | None, *, seconds: float = 60.0, nodes: int = 100_000, tolerance: float = 1e-6) -> Optimum:
        """Find the best set, or how good it can be; parameters as in `branch_and_bound`."""
        return best_set(
            self.sized(n),
            seconds=seconds if seconds == float("inf") else real(seconds, "seconds", above=True),
            nodes=whole(nodes, "nodes", least=1),
            tolerance=real(tolerance, "tolerance", most=1.0),
        )


@one_blas()
def pose(
    info: Information,
    *,
    criterion: Wanted = "balanced",
    existing: Information | None = None,
    target: Target | None = None,
    seed: int = 0,
    limits: Limits | None = None,
) -> Problem:
    """Read and check once what a choice is to be made from, so that several questions can be put to it.

    Parameters
    ----------
    info, criterion, existing, target, seed
        As in `select`.
    limits
        The other keywords that `select`, `certify` and `branch_and_bound` share, such as ``{"budget": 500.0}``.

    Returns
    -------
    Problem
        To be asked by ``.select(n, method)``, ``.certify(choice)`` and ``.best(n)``.

    Raises
    ------
    ParameterError
        As `select`, but for what depends on the number of structures.
    """
    start = starting(info, existing)
    rules = read_rules(info, existing, seed, limits or {})
    measure = make_criterion(criterion, info, target)
    again = partial(pose, info, criterion=criterion, existing=existing, target=target, seed=seed, limits=limits)
    return Problem(info, measure, rules, start, existing, target, again)


def starting(info: Information, existing: Information | None) -> Precision:
    """Information before the choice."""
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


def check_method(method: object, start_from: object) -> None:
    """Refuse unknown methods, and what has no effect on a method."""
    if not isinstance(method, str) or (method not in SEARCHES and method not in RIVALS):
        raise ParameterError(f"unknown method {method!r}; choose from {', '.join([*SEARCHES, *RIVALS])}")
    if start_from is not None and method != "exchange":
        raise ParameterError(f"`start_from` has no effect on method {method!r}, only on 'exchange'")


def _described(
    task: Task, chosen: Int[np.ndarray, " n"], path: Path, method: str, work_out: Callable[[bool], Facts] | None
) -> Choice:
    """Put together what is known about a choice."""
    rules, measure = task.rules, task.criterion
    new = len(np.unique(rules.groups[chosen[~rules.taken[chosen]]]))
    costs = rules.spent(chosen)
    limits = dict(zip(rules.resources, rules.budget.tolist(), strict=True))
    return Choice(
        indices=chosen,
        curve=np.array(path.values),
        criterion=measure.name,
        method=method,
        efficiency_bound=efficiency_bound(task, chosen, path.precision) if len(chosen) else None,
        description=task.info.description,
        n_candidates=len(task.info),
        n_distinct=rules.distinct,
        n_repeated=len(chosen) - new,
        costs=costs.get("", costs or None),  # a resource without a name is the only one
        budget=limits.get("", limits or None),
        groups=tuple(task.info.groups[s] for s in chosen),
        symbol=measure.symbol,
        larger_is_better=measure.larger_is_better,
        unit=measure.unit,
        work_out=work_out,
    )


@keywords(Limits, Choosing)
def select(
    info: Information,
    n: int | None,
    *,
    criterion: Wanted = "balanced",
    method: str = "greedy",
    existing: Information | None = None,
    target: Target | None = None,
    seed: int = 0,
    **rules: Unpack[Choosing],
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
    seed
        Seed of rivals, of restarts, and of the order that breaks ties.
    **rules

    Returns
    -------
    Choice
        Indices in order of choice, the curve of the criterion, and a limit of its efficiency.

    Raises
    ------
    ParameterError
        If n exceeds the pool, a name is unknown, shapes do not agree, costs are given without a budget, or no choice
        can obey all rules; the message names the rule.
    TypeError
        If a keyword is unknown; the message lists those that are known.
    """
    restarts, start_from, lazy = (rules.pop("restarts", None), rules.pop("start_from", None), rules.pop("lazy", None))
    check_method(method, start_from)  # before what takes time
    problem = pose(info, criterion=criterion, existing=existing, target=target, seed=seed, limits=rules)
    return problem.select(n, method, restarts=restarts, start_from=start_from, lazy=lazy)


@keywords(Limits)
def certify(
    info: Information,
    choice: Choice | Sequence[int] | Int[np.ndarray, " n"],
    *,
    criterion: Wanted | None = None,
    existing: Information | None = None,
    target: Target | None = None,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
    **rules: Unpack[Limits],
) -> Certificate:
    """Prove how efficient a choice is, made by any method or by hand.

    The best choice is bounded by the tangent of the criterion at a nearly optimal fractional design (see
    `kernelpot.design.bounds.certificate`). Give `existing`, `target` and the rules as to `select`: rivals are all sets
    within the budget, without one all sets of the same size, and obey the other rules too. The budget of a `Choice`,
    at N_atoms³, is that of its own where none is given.

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
    steps
        Largest number of steps of the relaxation.
    tolerance
        Relaxation gap at which to stop.
    **rules

    Returns
    -------
    Certificate
        The limit, and how it came about.

    Raises
    ------
    ParameterError
        If structure numbers are unknown or repeated, the choice breaks its budget, it was made with another
        `existing` or `target`, or a setting is wrong.
    TypeError
        If a keyword is unknown; the message lists those that are known.
    """
    if isinstance(choice, Choice):
        rules["budget"] = choice.budget if rules.get("budget") is None else rules["budget"]
        if criterion is None and choice.criterion not in CRITERIA:
            raise ParameterError(f"the choice was made by {choice.criterion!r}: give that criterion's object")
    if criterion is None:
        criterion = choice.criterion if isinstance(choice, Choice) else "balanced"
    problem = pose(info, criterion=criterion, existing=existing, target=target, limits=rules)
    return problem.certify(choice, steps=steps, tolerance=tolerance)


@keywords(Limits)
def branch_and_bound(
    info: Information,
    n: int | None,
    criterion: Wanted = "IV",
    *,
    existing: Information | None = None,
    target: Target | None = None,
    seed: int = 0,
    seconds: float = 60.0,
    nodes: int = 100_000,
    tolerance: float = 1e-6,
    **rules: Unpack[Limits],
) -> Optimum:
    """Find the best set under the rules of `select`, or how good the best can be.

    The number of nodes grows exponentially with what the relaxation leaves open: pools of tens of structures, of which
    a few are chosen. The blocks count as they are; what compression discarded is not looked at.

    Parameters
    ----------
    info, n, criterion, existing, target, seed
        As in `select`.
    seconds, nodes
        Where to stop.
    tolerance
        Efficiency that the best set may lack.
    **rules

    Returns
    -------
    Optimum
        The best set found, and a bound of all sets.

    Raises
    ------
    ParameterError
        As `select`, or where a limit is not positive.
    TypeError
        If a keyword is unknown; the message lists those that are known.
    """
    problem = pose(info, criterion=criterion, existing=existing, target=target, seed=seed, limits=rules)
    return problem.best(n, seconds=seconds, nodes=nodes, tolerance=tolerance)
