"""The best set of all, by branch and bound on small pools: what of a certificate's gap is integrality.

Every node forces some candidates and forbids others. The relaxation of the rest bounds what its sets can reach (as for
exact designs by Welch 1982); nodes that cannot beat the best set found are dropped, and of the others the most
promising is split at its weight nearest to one half.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.available import check_feasible
from kernelpot.design.bounds.certificate import relax
from kernelpot.design.bounds.climb import Effort
from kernelpot.design.search.exchange import exchange
from kernelpot.design.search.gains import first_of_best
from kernelpot.design.search.greedy import best_greedy
from kernelpot.design.task import Rules, Task
from kernelpot.errors import ParameterError

_STEPS = 12
_TOLERANCE = 3e-3
_SAME = 1e-9
_WHOLE = 1e-3
_ROUNDED_EVERY = 20


@dataclass(frozen=True, eq=False)
class Optimum:
    """What branch and bound found.

    Parameters
    ----------
    criterion
        Name of the criterion.
    indices
        The best set found, forced structures first.
    value
        Raw value of the criterion there.
    bound
        Raw value that no set passes; with `proven` that of the best set, up to `tolerance`.
    efficiency
        The set is at least this efficient against the best one.
    proven
        Whether no set is better by more than the tolerance.
    nodes
        Number of nodes that were bounded.
    seconds
        Wall time.
    """

    criterion: str
    indices: Int[np.ndarray, " n"]
    value: float
    bound: float
    efficiency: float
    proven: bool
    nodes: int
    seconds: float

    def __str__(self) -> str:
        """Return a line for people."""
        end = "proven to be the best" if self.proven else f"at least {self.efficiency:.4f} efficient, not proven"
        return (
            f"{self.criterion} {self.value:.6g} of {len(self.indices)} structures, {end} "
            f"({self.nodes} nodes, {self.seconds:.1f} s)"
        )


def best_set(task: Task, *, seconds: float, nodes: int, tolerance: float) -> Optimum:
    """Search until nothing can be better by more than a tolerance, or time or nodes are used up."""
    began = time.perf_counter()
    search = _Nodes(task, tolerance)
    while search.open and search.looked_at < nodes and time.perf_counter() - began < seconds:
        search.split()
    # Without open nodes nothing is better than the incumbent, but for what was dropped within the tolerance.
    bound = search.bound()
    return Optimum(
        criterion=task.criterion.name,
        indices=np.array(search.indices, dtype=np.int64),
        value=search.value,
        bound=bound,
        efficiency=task.criterion.efficiency(search.value, bound, task.info.d),
        proven=not search.open,
        nodes=search.looked_at,
        seconds=time.perf_counter() - began,
    )


class _Nodes:
    """Nodes still open, the most promising first, and the best set found."""

    def __init__(self, task: Task, tolerance: float) -> None:
        self._task, self._tolerance, self._sign = task, tolerance, task.criterion.sign
        restarts = max(task.restarts(None), 5)
        self.indices = exchange(task, best_greedy(task)[0], restarts=restarts)[0]
        self.value = self._evaluate(self.indices)
        self.open: list[tuple[float, int, Rules, Float[np.ndarray, " structures"]]] = []
        self._dropped = self._sign * self.value
        self._number = itertools.count()
        self.looked_at = 0
        self._look(task.rules)

    def bound(self) -> float:
        """Raw value that no set passes."""
        ahead = [-self.open[0][0]] if self.open else []
        return self._sign * max([self._sign * self.value, self._dropped, *ahead])

    def split(self) -> None:
        """Split the most promising node into two."""
        key, _, rules, weights = heapq.heappop(self.open)
        if self._hopeless(self._sign * -key):
            self._dropped = max(self._dropped, -key)
            return
        middle = np.where(rules.open, np.abs(weights - 0.5), np.inf)
        s = int(np.argmin(middle))
        twins = np.flatnonzero(rules.open & (rules.groups == rules.groups[s]))
        self._look(rules.branched([s], [] if rules.repeats else twins[twins != s]))
        self._look(rules.branched([], [s]))

    def _look(self, rules: Rules) -> None:
        """Bound a node; keep it where it might hold something better."""
        try:
            check_feasible(rules)
        except ParameterError:
            return
        self.looked_at += 1
        inner = rules.after_forced()
        candidates = np.flatnonzero(rules.open & inner.fits(inner.costs, inner.budget))
        if inner.n <= 1 and not inner.least.any():
            self._finish(rules, candidates)
            return
        # A little beyond what is hopeless, as the bound is evaluated anew from a triangular factor.
        goal = self._task.criterion.utility(self.value, self._task.info.d) - np.log1p(-0.9 * self._tolerance)
        found = relax(self._task.under(rules), Effort(_STEPS, _TOLERANCE, goal))
        bound = found.bound_as_given
        if self._hopeless(bound):
            self._dropped = max(self._dropped, self._sign * bound)
            return
        whole = (np.minimum(found.weights, 1.0 - found.weights) <= _WHOLE).all()
        if whole or self.looked_at % _ROUNDED_EVERY == 1:
            node = self._task.under(rules)
            self._offer(exchange(node, best_greedy(node)[0])[0])
        if not len(candidates):
            self._offer(rules.forced.tolist())
            return
        heapq.heappush(self.open, (-self._sign * bound, next(self._number), rules, found.weights))

    def _finish(self, rules: Rules, candidates: Int[np.ndarray, " some"]) -> None:
        """Choose the last member, by the gains of all."""
        indices = rules.forced.tolist()
        allowed = np.zeros(len(rules), dtype=bool)
        allowed[candidates] = True
        allowed &= np.append(rules.counts(indices) < rules.most, True)[rules.labels]
        if rules.n > len(indices) and allowed.any():
            gains = np.full(len(rules), -np.inf)
            one = self._task.criterion.gainer(self._task.known(indices))
            for s in np.flatnonzero(allowed):
                gains[s] = one(self._task.info.block(int(s)))
            indices.append(first_of_best(np.where(allowed, gains, -np.inf), np.arange(len(gains))))
        self._offer(indices)

    def _offer(self, indices: list[int]) -> None:
        """Keep a set that is better than the best so far."""
        value = self._evaluate(indices)
        if self._sign * value > self._sign * self.value + _SAME * abs(self.value):
            self.indices, self.value = indices, value

    def _hopeless(self, bound: float) -> bool:
        """Whether a node cannot beat the best set by more than the tolerance."""
        return self._task.criterion.efficiency(self.value, bound, self._task.info.d) >= 1.0 - self._tolerance

    def _evaluate(self, indices: Sequence[int]) -> float:
        """Value of a set from its blocks."""
        return self._task.criterion.shown(self._task.known(indices))
