"""The fractional designs that rules allow, and the best of them for given worths."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

from kernelpot.design.task import Rules

Vector = Float[np.ndarray, " w"]

_SEARCH = 12
_FLAT = 0.1
_GONE = 1e-14


@dataclass(frozen=True, eq=False)
class Found:
    """Where a climb ended."""

    weights: Vector
    value: float
    gap: float
    steps: int


def frank_wolfe(
    value: Callable[[Vector], float],
    slopes: Callable[[Vector], Vector],
    oracle: Callable[[Vector], Vector],
    w0: Vector,
    *,
    steps: int = 200,
    tolerance: float = 0.0,
    stop: Callable[[Vector, float, Vector, float], bool] | None = None,
) -> Found:
    """Climb a concave function over a polytope.

    Every step costs one oracle call and a line search of a few values and slopes.
    """
    w = np.array(w0, dtype=np.float64)
    vertices, shares = [w.copy()], [1.0]
    now, g = value(w), slopes(w)
    taken = 0
    while True:
        best = oracle(g)
        gap = float(g @ (best - w))
        enough = stop is not None and stop(w, now, g, gap)
        if enough or taken == steps or gap <= tolerance:
            return Found(w, now, max(gap, 0.0), taken)
        worst = int(np.argmin([float(g @ v) for v in vertices]))
        moved = _line_search(value, slopes, w, best - vertices[worst], shares[worst], now, g)
        if moved is None:  # the pair cannot climb in floating point; the plain step may
            moved = _line_search(value, slopes, w, best - w, 1.0, now, g)
            if moved is None:
                return Found(w, now, max(gap, 0.0), taken)
            shares = [(1.0 - moved[0]) * share for share in shares]
            worst = -1
        step, w, now, g = moved
        if worst >= 0:
            shares[worst] -= step
        _give(vertices, shares, best, step)
        kept = [k for k, share in enumerate(shares) if share > _GONE]
        vertices, shares = [vertices[k] for k in kept], [shares[k] for k in kept]
        taken += 1


def _give(vertices: list[Vector], shares: list[float], vertex: Vector, share: float) -> None:
    """Add to the share of a vertex, which may be new."""
    for k, known in enumerate(vertices):
        if np.array_equal(known, vertex):
            shares[k] += share
            return
    vertices.append(vertex)
    shares.append(share)


def _line_search(
    value: Callable[[Vector], float],
    slopes: Callable[[Vector], Vector],
    w: Vector,
    direction: Vector,
    longest: float,
    now: float,
    g: Vector,
) -> tuple[float, Vector, float, Vector] | None:
    """Climb along a direction until the slope is a tenth of the first (false position, Illinois form).

    Returns the step with weights, value and slopes there; None where nothing is gained.
    """
    first = float(g @ direction)
    if not (first > 0 and longest > 0):
        return None
    low, rise, high, fall = 0.0, first, longest, 0.0
    best, step, side = None, longest, 0
    for _ in range(_SEARCH):
        trial = np.maximum(w + step * direction, 0.0)
        there, g_there = value(trial), slopes(trial)
        slope = float(g_there @ direction)
        if there > now and (best is None or there > best[2]):
            best = (step, trial, there, g_there)
        if abs(slope) <= _FLAT * first or (step == longest and slope >= 0):
            break
        if slope > 0:
            low, rise = step, slope
            fall = 0.5 * fall if side > 0 else fall
        else:
            high, fall = step, slope
            rise = 0.5 * rise if side < 0 else rise
        side = 1 if slope > 0 else -1
        # A slope that explodes towards the end would hold the search there.
        step = low + (high - low) * min(max(rise / (rise - fall), 0.02), 0.98)
    return best


_LARGEST = 200_000


class Polytope:
    """Weights in [0, 1] of the candidates beside the forced ones, under size, quotas and budgets.

    Members of one duplicate group in one quota class and of equal cost are one candidate; where a group holds several
    candidates, their weights add up to at most 1. Designs that must repeat structures have no such limit.
    """

    def __init__(self, rules: Rules) -> None:
        inner = rules.after_forced()
        self.forced = rules.forced
        self._size = len(rules)
        self.members = np.flatnonzero(inner.open)
        self.n = inner.n
        self.groups = inner.groups[self.members]
        self.labels = inner.labels[self.members]
        self.least, self.most = inner.least, inner.most
        self.costs, self.budget = inner.costs[self.members], inner.budget
        self.repeats = inner.repeats

    def limit(self, g: Float[np.ndarray, " structures"]) -> float:
        """Upper limit of ``g·w``, which round-off and the solver's tolerances cannot bring below the truth.

        Weak duality: any prices of the limits give one.
        """
        own = float(g[self.forced].sum())
        worth = g[self.members]
        if not len(worth) or self.n <= 0:
            return own
        simple, exact = self._simple(worth)
        if exact:
            return own + simple
        solved = self._solve(worth)
        return own + (simple if solved is None else min(simple, solved[1]))

    def vertex(self, g: Float[np.ndarray, " structures"]) -> Float[np.ndarray, " structures"]:
        """Weights that maximise ``g·w``, those of the forced candidates 1 (the oracle of Frank and Wolfe)."""
        w = np.zeros(self._size)
        w[self.forced] = 1.0
        worth = g[self.members]
        if not len(worth) or self.n <= 0:
            return w
        if not len(self.budget) and len(np.unique(self.groups)) == len(self.groups):
            w[self.members[self._laminar(worth, self.labels)]] = 1.0
            return w
        solved = self._solve(worth)
        if solved is None:
            raise ArithmeticError("the linear programme of the rules has no solution")
        w[self.members] = solved[0]
        return w

    def _best(self, worth: Float[np.ndarray, " members"]) -> Int[np.ndarray, " groups"]:
        """Find the worthiest member of every group, or all where repeats are needed."""
        if self.repeats:
            return np.arange(len(worth))
        order = np.lexsort((-worth, self.groups))
        first = np.concatenate([[True], np.diff(self.groups[order]) > 0])
        result: np.ndarray = order[first]
        return result

    def _simple(self, worth: Float[np.ndarray, " members"]) -> tuple[float, bool]:
        """Least of the limits by size and quotas and by each resource alone, and whether it is known to be exact."""
        best = self._best(worth)
        spread = self._spread()
        top = best[self._laminar(worth[best], self.labels[best], least=not spread)]
        limits = [float(worth[top].sum())]
        exact = not spread and bool((self.costs[top].sum(axis=0) <= self.budget).all())
        for cost, budget in zip(self.costs.T, self.budget, strict=True):
            limits.append(self._knapsack(worth, cost, float(budget)))
        if len(self.budget) == 1 and not len(self.most) and len(best) <= self.n:
            exact = True
        return min(limits), exact

    def _spread(self) -> bool:
        """Whether some duplicate group has members in several quota classes."""
        if self.repeats or not len(self.most):
            return False
        pairs = np.unique(np.column_stack([self.groups, self.labels]), axis=0)
        return len(pairs) > len(np.unique(self.groups))

    def _knapsack(
        self, worth: Float[np.ndarray, " members"], cost: Float[np.ndarray, " members"], budget: float
    ) -> float:
        """Fractional knapsack (Dantzig 1957), each group at its best worth and its least cost."""
        g, price = worth, cost
        if not self.repeats:
            names, inverse = np.unique(self.groups, return_inverse=True)
            g, price = np.zeros(len(names)), np.full(len(names), np.inf)
            np.maximum.at(g, inverse, worth)
            np.minimum.at(price, inverse, cost)
        with np.errstate(divide="ignore", invalid="ignore"):
            order = np.argsort(-np.where(price > 0, g / price, np.inf), kind="stable")
        g, price = g[order], price[order]
        spent = np.cumsum(price)
        # The same slack as in `Rules.fits`, so that a set that just fits is never above the limit.
        left = budget * (1.0 + 1e-11) - (spent - price)
        fits = np.where(price > 0, left / np.where(price > 0, price, 1.0), 1.0)
        return float((np.clip(fits, 0.0, 1.0) * g).sum())

    def _laminar(
        self, worth: Float[np.ndarray, " some"], labels: Int[np.ndarray, " some"], *, least: bool = True
    ) -> Int[np.ndarray, " chosen"]:
        """Choose by size and quotas alone: the least of each class first, then the best that the most allow."""
        order = np.argsort(-worth, kind="stable")
        within = np.zeros(len(worth), dtype=np.int64)  # how many of the class are worthier
        for q in range(len(self.most)):
            mine = order[labels[order] == q]
            within[mine] = np.arange(len(mine))
        allowed = within < np.append(self.most, len(worth))[labels]
        needed = within < np.append(self.least if least else 0 * self.least, 0)[labels]
        rest = order[(allowed & ~needed & (worth > 0))[order]]
        return np.concatenate([np.flatnonzero(needed), rest[: max(self.n - int(needed.sum()), 0)]])

    def _solve(self, worth: Float[np.ndarray, " members"]) -> tuple[Float[np.ndarray, " members"], float] | None:
        """Solve the linear programme, and bound it by the prices found; None where that fails."""
        if len(worth) > _LARGEST:
            return None
        largest = float(np.abs(worth).max())
        if not (np.isfinite(largest) and np.isfinite(worth).all()):
            return None
        # Of candidates that are alike only the worthiest matters.
        keep = np.arange(len(worth))
        if not self.repeats:
            same = _alike(self.groups, self.labels, self.costs)
            order = np.lexsort((-worth, same))
            keep = order[np.concatenate([[True], np.diff(same[order]) > 0])]
        matrix, limits = self._limits(keep)
        g = worth[keep] / (largest or 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = linprog(  # type: ignore[call-overload]  # the stubs know no sparse matrices
                -g, A_ub=matrix, b_ub=limits, bounds=(0.0, 1.0), method="highs-ds"
            )
        if found.status != 0:
            return None
        prices = np.maximum(-found.ineqlin.marginals, 0.0)
        slack = 1e-11 * np.abs(limits)
        bound = float(prices @ (limits + slack) + np.maximum(g - matrix.T @ prices, 0.0).sum()) * (largest or 1.0)
        w = np.zeros(len(worth))
        w[keep] = np.clip(found.x, 0.0, 1.0)
        return w, bound

    def _limits(self, keep: Int[np.ndarray, " kept"]) -> tuple[csr_array, Float[np.ndarray, " limits"]]:
        """Rows and right-hand sides of ``A w <= b``, budgets scaled to 1."""
        m = len(keep)
        columns = np.arange(m)
        rows, limits = [csr_array(np.ones((1, m)))], [np.array([float(self.n)])]
        if len(self.budget):
            scale = np.where(self.budget > 0, self.budget, 1.0)
            rows.append(csr_array((self.costs[keep] / scale).T))
            limits.append(self.budget / scale)
        if len(self.most):
            mine = self.labels[keep] >= 0
            classes = csr_array(
                (np.ones(mine.sum()), (self.labels[keep][mine], columns[mine])), shape=(len(self.most), m)
            )
            rows += [classes, -classes]
            limits += [self.most.astype(float), -self.least.astype(float)]
        names, inverse, count = np.unique(self.groups[keep], return_inverse=True, return_counts=True)
        if not self.repeats and len(names) < m:
            several = count[inverse] > 1
            number = np.unique(inverse[several], return_inverse=True)[1]
            rows.append(csr_array((np.ones(several.sum()), (number, columns[several])), shape=(number.max() + 1, m)))
            limits.append(np.ones(number.max() + 1))
        return vstack(rows, format="csr"), np.concatenate(limits)


def _alike(
    groups: Int[np.ndarray, " members"],
    labels: Int[np.ndarray, " members"],
    costs: Float[np.ndarray, "members resources"],
) -> Int[np.ndarray, " members"]:
    """Give candidates that differ only in worth the same number."""
    keys = np.column_stack([groups, labels, costs])
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
