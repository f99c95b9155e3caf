"""The fractional designs that rules allow, the best of them for given worths, and the limit that follows for sets."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

from kernelpot.design.criteria.base import sensitivities, squares
from kernelpot.design.precision import Precision
from kernelpot.design.task import Rules, Task

_LARGEST = 200_000


def efficiency_bound(task: Task, indices: Int[np.ndarray, " n"], precision: Precision) -> float:
    """Lower limit of a design's efficiency, from the criterion's linearisation at the design itself.

    A concave function lies below its tangent (Kiefer and Wolfowitz 1960 for D; Pukelsheim 2006, ch. 7), so no
    feasible set gains more than the gap of the tangent. The limit is valid but loose: a relaxation would
    tighten it. What compression discarded is counted for every rival set, but not for the design.
    """
    weights = np.zeros(len(task.info))
    weights[indices] = 1.0
    criterion = task.criterion
    return criterion.efficiency(criterion.shown(precision), upper_limit(task, precision, weights), task.info.d)


def upper_limit(
    task: Task, precision: Precision, weights: Float[np.ndarray, " structures"], *, as_given: bool = False
) -> float:
    """Raw value that no feasible set passes, from the tangent at a fractional design.

    With Γ of `Criterion.tangent` and ``g_s = tr(Γ B_sᵀB_s)``, a set T has
    ``log ψ(T) <= log ψ + log(1 + Σ_T g_s - Σ_s w_s g_s)``. A block that lost the trace τ to compression gains at most
    ``λ_max(Γ) τ`` more (unless blocks are taken as given), and g_s itself is known to d ε ‖Γ‖ tr(B_sᵀB_s) at best (ε of
    float64): next to nothing unless rows span more than eight orders of magnitude.
    """
    info, criterion = task.info, task.criterion
    tangent = criterion.tangent(precision)
    if not np.isfinite(tangent.utility):
        return criterion.raw(tangent.utility, info.d)
    g = sensitivities(info, tangent.slope)
    # Squares that cancel leave round-off, which must not make the limit tighter than it is.
    error = info.d * np.finfo(float).eps * float(np.linalg.norm(tangent.slope)) * squares(info)
    at = float((g - error) @ weights)
    polytope = Polytope(task.rules)
    if as_given:
        best = polytope.limit(g + error)
    else:
        steepest = float(np.linalg.eigvalsh(tangent.slope)[-1]) if len(tangent.slope) else 0.0
        best = polytope.limit(g + error + steepest * info.discarded.sum(axis=1)) + steepest * task.discarded
    return criterion.raw(tangent.utility + float(np.log1p(max(best - at, 0.0))), info.d)


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
            keys = np.column_stack([self.groups, self.labels, self.costs])
            same = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
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
