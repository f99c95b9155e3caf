"""The cheapest structures whose labels fix a goal to the accuracy wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.information import Information
from kernelpot.design.limits import Cost, Limits
from kernelpot.design.problem import Problem, pose
from kernelpot.errors import ParameterError
from kernelpot.goals.goal import Goal
from kernelpot.progress import track

ROUNDS = 8
"""Halvings of the bracket of the budget, on a logarithmic scale."""

_WIDTH = 100


@dataclass(frozen=True, eq=False)
class Plan:
    """Structures to label so that every quantity of a goal is known well enough.

    Attributes
    ----------
    goal
        With the accuracies wanted as its scales.
    indices
        Structure numbers.
    cost
        Of all of them together.
    std, prior_std
        Predicted standard deviation of every quantity once they are labelled, and before.
    best_std
        The same once the whole pool is labelled: no plan does better.
    pool_cost
        Cost of the whole pool.
    cost_unit
        What costs are, for people; empty where they were given.
    """

    goal: Goal
    indices: Int[np.ndarray, " n"]
    cost: float
    std: Float[np.ndarray, " q"]
    prior_std: Float[np.ndarray, " q"]
    best_std: Float[np.ndarray, " q"]
    pool_cost: float
    cost_unit: str = ""

    def __len__(self) -> int:
        """Count the structures."""
        return len(self.indices)

    def __str__(self) -> str:
        """Return a table for people."""
        head = (
            f"{len(self)} structures at a cost of {self._cost}, {100 * self.cost / self.pool_cost:.2g} % of the "
            "pool's; standard deviations:"
        )
        chosen = ", ".join(map(str, self.indices.tolist())) or "none is needed"
        listed = fill(f"structures: {chosen}", width=_WIDTH, subsequent_indent="  ")
        return f"{head}\n{self.goal.table(before=self.prior_std, after=self.std, whole_pool=self.best_std)}\n{listed}"

    def __repr__(self) -> str:
        """Return one line."""
        return f"Plan({len(self)} structures at a cost of {self._cost} for {self.goal!r})"

    @property
    def _cost(self) -> str:
        return f"{self.cost:.6g} {self.cost_unit}".rstrip()


def cheapest(
    info: Information,
    goal: Goal,
    *,
    target_std: float | Sequence[float] | Float[np.ndarray, " q"] | None = None,
    costs: Cost | None = None,
    existing: Information | None = None,
    seed: int = 0,
) -> Plan:
    """Find a cheap set whose labels bring every quantity's standard deviation down to a target.

    The budget is bracketed by doubling and bisection; under each budget `design.select` chooses by the goal's
    criterion, the choice is cut where the targets are reached, and what it can do without is taken out, the dearest
    first. A heuristic: no bound tells how far the cheapest of all sets is.

    Parameters
    ----------
    info
        The pool, made with the prepared model that made the goal.
    goal
        The quantities.
    target_std
        Largest standard deviation allowed, in the quantities' units; None takes the goal's scales.
    costs
        As in `design.select`: one for each structure or a function of `info`; N_atoms³ where none are given.
    existing
        What is labelled already.
    seed
        Seed of the order that breaks ties.

    Returns
    -------
    Plan
        No structure where the targets are met already.

    Raises
    ------
    ParameterError
        Even the whole pool does not reach the targets; the message says what it reaches.
    """
    if target_std is not None:
        goal = goal.with_scales(np.asarray(target_std, dtype=np.float64))
    limits = Limits(costs=costs, budget=0.0)  # the budget is what is looked for
    problem = pose(info, criterion=goal.criterion(), existing=existing, seed=seed, limits=limits)
    prices = problem.rules.costs[:, 0]
    search = _Bisection(problem, goal, prices)
    prior, best = goal.std(problem.start), search.std(np.arange(len(info)))
    if (best > goal.scales).any():
        worst = int(np.argmax(best / goal.scales))
        raise ParameterError(
            f"`target_std` of {goal.names[worst]} is {goal.scales[worst]:.3g} {goal.units[worst]}, but labels of all "
            f"{len(info)} structures reach {best[worst]:.3g}: allow more, or add structures that speak about it"
        )
    chosen = search.run() if (prior > goal.scales).any() else np.empty(0, dtype=np.int64)
    return Plan(
        goal, chosen, float(prices[chosen].sum()), search.std(chosen), prior, best, float(prices.sum()),
        "(Σ N_atoms³)" if costs is None else "",
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Bisection:
    """The search for the least budget whose choice reaches every target."""

    problem: Problem
    goal: Goal
    costs: Float[np.ndarray, " structures"]

    def std(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, " q"]:
        """Return the standard deviations once these are labelled."""
        return self.goal.std(self.problem.known(indices) if len(indices) else self.problem.start)

    def good(self, indices: Int[np.ndarray, " n"]) -> bool:
        """Whether every target is reached."""
        return bool((self.std(indices) <= self.goal.scales).all())

    def run(self) -> Int[np.ndarray, " n"]:
        """Return the cheapest set found."""
        low, total = float(self.costs.min()), float(self.costs.sum())
        budget = 4.0 * low
        while (found := self._within(budget)) is None and budget < total:
            low, budget = budget, 4.0 * budget
        best = self._pruned(np.arange(len(self.costs))) if found is None else found
        for _ in track(range(ROUNDS), "bisecting the budget"):
            high = float(self.costs[best].sum())
            if high <= 1.02 * low:
                break
            middle = float(np.sqrt(low * high))
            found = self._within(middle)
            if found is None:
                low = middle
            else:
                best = found
        return best

    def _within(self, budget: float) -> Int[np.ndarray, " n"] | None:
        """Choose under a budget; None where that misses a target."""
        budget = min(budget, float(self.costs.sum()))
        choice = self.problem.within(budget).select(None)
        if not self.good(choice.indices):
            return None
        few, many = 0, len(choice)
        while few < many:  # labels never hurt, so that the first prefix that will do can be bisected
            middle = (few + many) // 2
            few, many = (few, middle) if self.good(choice.indices[:middle]) else (middle + 1, many)
        return self._pruned(choice.indices[:few])

    def _pruned(self, indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Take out what is not needed, the dearest first."""
        kept = indices
        for s in sorted(indices.tolist(), key=lambda s: (-self.costs[s], s)):
            rest = kept[kept != s]
            if self.good(rest):
                kept = rest
        return kept
