"""What is to be chosen, as every search and every bound takes it: candidates, a criterion, rules, what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.rules import whole

_ROW_RESTARTS = 20
_CHEAP = 5e7
_SLACK = 1e-12
"""Costs that add up to a budget exactly must not fail by round-off, relative to the budget."""


def _none() -> Int[np.ndarray, " none"]:
    """No numbers at all."""
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Rules:
    """What a choice may hold."""

    n: int  # Largest number of structures
    # Duplicate group of every candidate; a second member is chosen only where no other group is left
    groups: Int[np.ndarray, " structures"]
    taken: Bool[np.ndarray, " structures"]  # Candidates whose group counts as chosen from the start
    # costs, budget: Cost of every candidate, one column for each resource, and what may be spent of each. A
    # single resource may be given as a vector and a number; resources with an infinite budget are left out.
    costs: Float[np.ndarray, "structures resources"]
    budget: Float[np.ndarray, " resources"]
    seed: int  # Seed of the order that breaks ties
    # Candidates that are always chosen, and first, in this order. They count towards every limit.
    forced: Int[np.ndarray, " forced"] = field(default_factory=_none)
    # Candidates that are never chosen
    forbidden: Bool[np.ndarray, " structures"] = field(default_factory=lambda: np.empty(0, dtype=bool))
    # Quota class of every candidate; -1 where no quota speaks of it
    labels: Int[np.ndarray, " structures"] = field(default_factory=_none)
    # least, most: How many candidates of each class a choice must and may hold
    least: Int[np.ndarray, " classes"] = field(default_factory=_none)
    most: Int[np.ndarray, " classes"] = field(default_factory=_none)
    resources: tuple[str, ...] = ("",)  # resources, classes: Names for messages
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Bring costs to columns, and fill in what was not given."""
        size = len(self.groups)
        costs, budget = np.asarray(self.costs, dtype=np.float64), np.atleast_1d(np.asarray(self.budget, dtype=float))
        costs = costs.reshape(size, len(budget))
        limited = np.isfinite(budget)
        names = tuple(name for name, kept in zip(self.resources, limited, strict=True) if kept)
        values = {"costs": costs[:, limited], "budget": budget[limited], "resources": names}
        if not len(self.forbidden):
            values["forbidden"] = np.zeros(size, dtype=bool)
        if not len(self.labels):
            values["labels"] = np.full(size, -1)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def plain(cls, n: int, size: int, seed: int) -> Rules:
        """Choose n of so many different candidates, no more is asked."""
        return cls(n, np.arange(size), np.zeros(size, dtype=bool), np.empty((size, 0)), np.empty(0), seed, resources=())

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.groups)

    @property
    def distinct(self) -> int:
        """Number of groups that are free at the start and not forbidden."""
        return len(np.unique(self.groups[~self.taken & ~self.forbidden]))

    @cached_property
    def fresh(self) -> Bool[np.ndarray, " structures"]:
        """Candidates that repeat nothing that is chosen from the start."""
        marked = np.zeros(int(self.groups.max(initial=-1)) + 1, dtype=bool)
        marked[self.groups[self.forced]] = True
        result: np.ndarray = ~(self.taken | self.forbidden | marked[self.groups])
        return result

    @cached_property
    def rank(self) -> Int[np.ndarray, " structures"]:
        """Order of the candidates that breaks ties."""
        return np.random.default_rng(self.seed).permutation(len(self))

    @property
    def repeats(self) -> bool:
        """Whether more is asked for than there are distinct candidates, so that some must repeat others."""
        return bool(self.n - len(self.forced) > len(np.unique(self.groups[self.fresh])))

    @property
    def open(self) -> Bool[np.ndarray, " structures"]:
        """Candidates that may be chosen beside the forced ones at all."""
        result = self.fresh if not self.repeats else ~self.forbidden
        result = result.copy()
        result[self.forced] = False
        return result

    @property
    def shares(self) -> Float[np.ndarray, " structures"]:
        """Cost of every candidate as a share of what may be spent, summed over resources."""
        result: np.ndarray = (self.costs / np.maximum(self.budget, 1e-300)).sum(axis=1)
        return result

    def fits(
        self, costs: Float[np.ndarray, "some resources"], left: Float[np.ndarray, " resources"]
    ) -> Bool[np.ndarray, " some"]:
        """Mark costs that what is left of the budgets can pay."""
        result: np.ndarray = (costs <= left + _SLACK * np.abs(self.budget)).all(axis=1)
        return result

    def counts(self, indices: Sequence[int] | Int[np.ndarray, " some"]) -> Int[np.ndarray, " classes"]:
        """Count the members of each quota class in a set."""
        labels = self.labels[np.asarray(indices, dtype=np.int64)]
        return np.bincount(labels[labels >= 0], minlength=len(self.most))

    def spent(self, indices: Int[np.ndarray, " some"]) -> dict[str, Float[np.ndarray, " some"]]:
        """Costs of the members of a set, by resource."""
        return dict(zip(self.resources, self.costs[indices].T, strict=True))

    def take(self, which: Int[np.ndarray, " some"]) -> Rules:
        """Rules for some of the candidates, the forced ones among them, by their new numbers."""
        position = np.full(len(self), -1)
        position[which] = np.arange(len(which))
        return replace(
            self,
            groups=self.groups[which],
            taken=self.taken[which],
            costs=self.costs[which],
            forced=position[self.forced],
            forbidden=self.forbidden[which],
            labels=self.labels[which],
        )

    def after_forced(self) -> Rules:
        """Rules for what is chosen beside the forced candidates."""
        if not len(self.forced):
            return self
        used = self.counts(self.forced)
        forbidden = self.forbidden.copy()
        forbidden[self.forced] = True
        return replace(
            self,
            n=self.n - len(self.forced),
            taken=~(self.fresh | self.forbidden),
            budget=np.maximum(self.budget - self.costs[self.forced].sum(axis=0), 0.0),
            forced=_none(),
            forbidden=forbidden,
            least=np.maximum(self.least - used, 0),
            most=self.most - used,
        )

    def branched(self, forced: Sequence[int], forbidden: Sequence[int]) -> Rules:
        """Force and forbid more candidates, by their numbers."""
        joined = np.concatenate([self.forced, np.asarray(forced, dtype=np.int64)])
        never = self.forbidden.copy() if self.repeats else ~self.open
        never[np.asarray(forbidden, dtype=np.int64)] = True
        never[joined] = False
        result = replace(self, forced=joined, forbidden=never)
        if self.repeats:
            return result
        # What is forbidden now must not make room for repeats.
        return replace(result, n=min(self.n, len(joined) + len(np.unique(self.groups[result.fresh]))))

    def heads(self) -> Int[np.ndarray, " heads"]:
        """One candidate beside the forced of every group and class, the cheapest; all where some must repeat others."""
        others = np.flatnonzero(self.open)
        if self.repeats:
            return others
        others = others[np.argsort(self.shares[others], kind="stable")]
        pairs = np.column_stack([self.groups[others], self.labels[others]])
        return np.sort(others[np.unique(pairs, axis=0, return_index=True)[1]])

    def one_limit(self) -> tuple[Float[np.ndarray, " structures"], float] | None:
        """Prices and limit where a single linear limit holds for fractional designs; None where several may bind.

        Forced candidates are not looked at: these are rules for what is chosen beside them.
        """
        if len(self.most) or len(self.budget) > 1:
            return None
        sizes = np.ones(len(self)), float(self.n)
        if not len(self.budget):
            return sizes
        costs, budget = self.costs[:, 0], float(self.budget[0])
        ordered = np.sort(costs[self.open])
        if ordered[::-1][: self.n].sum() <= budget:
            return sizes
        spent = np.cumsum(ordered)
        affordable = np.searchsorted(spent, budget, side="right")
        return (costs, budget) if affordable < self.n and (costs > 0).all() else None

    def breach(self, indices: Sequence[int] | Int[np.ndarray, " some"]) -> str | None:
        """Name the first limit that a set breaks; None where it keeps all."""
        chosen = np.asarray(indices, dtype=np.int64)
        if len(chosen) > self.n:
            return f"it holds {len(chosen)} structures, more than {self.n}"
        missing = np.setdiff1d(self.forced, chosen)
        if len(missing):
            return f"it lacks the forced structures {missing.tolist()}"
        if self.forbidden[chosen].any():
            return f"it holds the forbidden structures {chosen[self.forbidden[chosen]].tolist()}"
        for name, count, least, most in zip(self.classes, self.counts(chosen), self.least, self.most, strict=True):
            if not least <= count <= most:
                return f"it holds {count} of {name!r}, not between {least} and {most}"
        spent = self.costs[chosen].sum(axis=0)
        for name, cost, limit in zip(self.resources, spent, self.budget, strict=True):
            if cost > limit * (1.0 + 1e-9):
                what = f" of {name}" if name else ""
                return f"it costs {cost:.6g}{what}, more than the budget of {limit:.6g}"
        return None


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be chosen."""

    info: Information  # Candidates
    criterion: Criterion  # What is improved
    rules: Rules  # What a choice may hold
    start: Precision  # Information before the choice, that of `existing` included
    # What is labelled already, for those who compare structures; None where nothing is
    existing: Information | None = None

    @property
    def single_rows(self) -> bool:
        """Whether every candidate is one row, as in plain regression."""
        return bool((np.diff(self.info.offsets) == 1).all())

    def restarts(self, wanted: int | None) -> int:
        """Check how often exchange starts again, or say how often is cheap."""
        if wanted is None:
            cheap = len(self.info) * self.rules.n * self.info.d <= _CHEAP
            return _ROW_RESTARTS if self.single_rows and cheap else 0
        return whole(wanted, "restarts")

    @property
    def discarded(self) -> float:
        """Trace that compression took from what exists."""
        return 0.0 if self.existing is None else float(self.existing.discarded.sum())

    def known(self, indices: Sequence[int] | Int[np.ndarray, " n"]) -> Precision:
        """Information once these are labelled, from their blocks."""
        return self.start.with_rows(self.info.take(indices).rows)

    def among(self, which: Int[np.ndarray, " some"]) -> Task:
        """Return the same among some of the candidates, the forced ones included, by their new numbers."""
        return replace(self, info=self.info.take(which), rules=self.rules.take(which))

    def under(self, rules: Rules) -> Task:
        """Return the same under other rules."""
        return replace(self, rules=rules)
