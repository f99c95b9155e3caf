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

from kernelpot.design.bounds.relaxation import relax
from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.limits import Budget, Costs, Numbers, Quotas, check_feasible
from kernelpot.design.precision import Precision
from kernelpot.design.problem import make_criterion, make_rules, starting
from kernelpot.design.search.exchange import exchange
from kernelpot.design.search.gains import Path, first_of_best
from kernelpot.design.search.methods import best_greedy, restarts_of
from kernelpot.design.task import Rules
from kernelpot.errors import ParameterError
from kernelpot.rules import real, whole
from kernelpot.run import one_blas

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


@one_blas()
def branch_and_bound(
    info: Information,
    n: int | None,
    criterion: str | Criterion = "IV",
    *,
    existing: Information | None = None,
    target: Information | Float[np.ndarray, "d d"] | None = None,
    costs: Costs | None = None,
    budget: Budget | None = None,
    forced: Numbers | None = None,
    forbidden: Numbers | None = None,
    quotas: Quotas | None = None,
    quota_groups: Sequence[object] | np.ndarray | None = None,
    seed: int = 0,
    seconds: float = 60.0,
    nodes: int = 100_000,
    tolerance: float = 1e-6,
) -> Optimum:
    """Find the best set under the rules of `select`, or how good the best can be.

    The number of nodes grows exponentially with what the relaxation leaves open: pools of tens of structures, of which
    a few are chosen. The blocks count as they are; what compression discarded is not looked at.

    Parameters
    ----------
    info, n, criterion, existing, target, costs, budget, forced, forbidden, quotas, quota_groups, seed
        As in `select`.
    seconds, nodes
        Where to stop.
    tolerance
        Efficiency that the best set may lack.

    Returns
    -------
    Optimum
        The best set found, and a bound of all sets.

    Raises
    ------
    ParameterError
        As `select`, or where a limit is not positive.
    """
    seconds = seconds if seconds == float("inf") else real(seconds, "seconds", above=True)
    nodes, tolerance = whole(nodes, "nodes", least=1), real(tolerance, "tolerance", most=1.0)
    began = time.perf_counter()
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
    search = _Search(info, make_criterion(criterion, info, target), rules, start, tolerance)
    while search.open and search.nodes < nodes and time.perf_counter() - began < seconds:
        search.split()
    measure, value = search.criterion, search.value
    # Without open nodes nothing is better than the incumbent, but for what was dropped within the tolerance.
    bound = search.bound()
    efficiency = measure.efficiency(value, bound, info.d)
    return Optimum(
        criterion=measure.name,
        indices=np.array(search.indices, dtype=np.int64),
        value=value,
        bound=bound,
        efficiency=efficiency,
        proven=not search.open,
        nodes=search.nodes,
        seconds=time.perf_counter() - began,
    )


class _Search:
    """Nodes still open, the most promising first, and the best set found."""

    def __init__(
        self, info: Information, criterion: Criterion, rules: Rules, start: Precision, tolerance: float
    ) -> None:
        self.info, self.criterion, self._start, self._tolerance = info, criterion, start, tolerance
        self._sign = criterion.sign
        first = best_greedy(info, criterion, rules, start)[0]
        restarts = max(restarts_of(info, rules.n, None), 5)
        self.indices = exchange(info, first, criterion, rules, start, restarts=restarts)[0]
        self.value = self._evaluate(self.indices)
        self.open: list[tuple[float, int, Rules, Float[np.ndarray, " structures"]]] = []
        self._dropped = self._sign * self.value
        self._number = itertools.count()
        self.nodes = 0
        self._look(rules)

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
        self.nodes += 1
        inner = rules.after_forced()
        candidates = np.flatnonzero(rules.open & inner.fits(inner.costs, inner.budget))
        if inner.n <= 1 and not inner.least.any():
            self._finish(rules, candidates)
            return
        # A little beyond what is hopeless, as the bound is evaluated anew from a triangular factor.
        goal = self.criterion.utility(self.value, self.info.d) - np.log1p(-0.9 * self._tolerance)
        found = relax(self.info, self.criterion, rules, self._start, steps=_STEPS, tolerance=_TOLERANCE, goal=goal)
        bound = found.bound_as_given
        if self._hopeless(bound):
            self._dropped = max(self._dropped, self._sign * bound)
            return
        whole = (np.minimum(found.weights, 1.0 - found.weights) <= _WHOLE).all()
        if whole or self.nodes % _ROUNDED_EVERY == 1:
            indices = best_greedy(self.info, self.criterion, rules, self._start)[0]
            self._offer(exchange(self.info, indices, self.criterion, rules, self._start)[0])
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
            path = Path(self.criterion, self._start.with_rows(self.info.take(indices).rows))
            gains = np.array([-np.inf] * len(self.info))
            one = self.criterion.gainer(path.precision)
            for s in np.flatnonzero(allowed):
                gains[s] = one(self.info.block(int(s)))
            indices.append(first_of_best(np.where(allowed, gains, -np.inf), np.arange(len(gains))))
        self._offer(indices)

    def _offer(self, indices: list[int]) -> None:
        """Keep a set that is better than the best so far."""
        value = self._evaluate(indices)
        if self._sign * value > self._sign * self.value + _SAME * abs(self.value):
            self.indices, self.value = indices, value

    def _hopeless(self, bound: float) -> bool:
        """Whether a node cannot beat the best set by more than the tolerance."""
        return self.criterion.efficiency(self.value, bound, self.info.d) >= 1.0 - self._tolerance

    def _evaluate(self, indices: Sequence[int]) -> float:
        """Value of a set from its blocks."""
        return self.criterion.shown(self._start.with_rows(self.info.take(indices).rows))
