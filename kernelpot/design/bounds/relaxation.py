"""Designs of fractional structures, which limit what any whole ones can reach.

With weights ``0 <= w_s <= 1`` under the size limit or the budget, ``Λ(w) = Λ_0 + Σ_s w_s B_sᵀ B_s`` makes every
criterion here a concave problem (Pukelsheim 2006, ch. 5-7). Its optimum is at least as good as the best set, and so is
the tangent's bound at any w. Weights move by the multiplicative algorithm (Silvey, Titterington and Torsney 1978; Yu
2010), capped at 1: ``w_s ← min(1, c w_s (g_s/a_s)^p)``, with a the costs and c such that the limit is met. The power p
grows while it improves the criterion and is halved where it does not. In trials on force blocks this was the fastest
for D and A, before plain powers, spectral projected gradients and Frank-Wolfe steps; on plain rows projected gradients
were faster for D.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from jaxtyping import Float
from scipy.linalg import cholesky

from kernelpot.design.bounds.certificate import best_sum, upper_limit
from kernelpot.design.bounds.polytope import Polytope, frank_wolfe
from kernelpot.design.criteria import Criterion
from kernelpot.design.criteria.base import sensitivities
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.task import Rules
from kernelpot.progress import track

_STARTS = 8


@dataclass(frozen=True, eq=False)
class Climbed:
    """Where a climb ended."""

    weights: Float[np.ndarray, " heads"]
    touching: Float[np.ndarray, " heads"]
    steps: int


class Moments(Protocol):
    """Information of fractional designs."""

    def precision(self, w: Float[np.ndarray, " structures"]) -> Precision:
        """Information of some weights."""

    def slopes(self, slope: Float[np.ndarray, "d d"]) -> Float[np.ndarray, " structures"]:
        """Directional derivative of every block."""


def climb(
    moments: Moments, criterion: Criterion, rules: Rules, d: int, steps: int, tolerance: float, goal: float
) -> Climbed:
    """Move weights uphill by Frank-Wolfe steps."""
    sign = criterion.sign
    polytope = Polytope(rules)
    at: list[tuple[Float[np.ndarray, " heads"], Precision]] = []

    def precision(w: Float[np.ndarray, " heads"]) -> Precision:
        if not at or at[0][0] is not w:
            at[:] = [(w, moments.precision(w))]
        return at[0][1]

    def value(w: Float[np.ndarray, " heads"]) -> float:
        return sign * criterion.value(precision(w))

    def slopes(w: Float[np.ndarray, " heads"]) -> Float[np.ndarray, " heads"]:
        return moments.slopes(sign * criterion.gradient(precision(w)))

    try:
        first = _middle(polytope, slopes(np.zeros(len(rules))), rules.seed)
    except ArithmeticError:
        # Limits so tight that the solver sees no room: no weights give a valid bound, if a poor one.
        return Climbed(np.zeros(len(rules)), np.zeros(len(rules)), 0)
    best, tightest = first, np.inf

    def stop(w: Float[np.ndarray, " heads"], now: float, g: Float[np.ndarray, " heads"], gap: float) -> bool:
        nonlocal best, tightest
        if criterion.smooth:
            tangent = criterion.tangent(precision(w))
            h = moments.slopes(tangent.slope)
            reached, gap = criterion.utility(criterion.shown(precision(w)), d), polytope.limit(h) - float(h @ w)
            bound = tangent.utility + float(np.log1p(max(gap, 0.0)))
        else:
            reached = criterion.utility(sign * now, d)
            if not np.isfinite(reached):
                return True
            bound = reached + float(np.log1p(max(abs(criterion.rate(sign * now, d)) * gap, 0.0)))
        if bound < tightest:
            best, tightest = w, bound
        return reached >= tightest + np.log1p(-tolerance) or tightest <= goal or not g.any()

    found = frank_wolfe(value, slopes, polytope.vertex, first, steps=steps, stop=stop)
    return Climbed(found.weights, best, found.steps)


def _middle(polytope: Polytope, g: Float[np.ndarray, " heads"], seed: int) -> Float[np.ndarray, " heads"]:
    """Mean of some vertices, so that the climb begins inside."""
    rng = np.random.default_rng([seed, 3])
    drawn = [polytope.vertex(g * rng.exponential(size=len(g))) for _ in range(_STARTS)]
    result: np.ndarray = np.mean(drawn, axis=0)
    return result


STEPS = 200
TOLERANCE = 1e-3
_LEAST_POWER, _LARGEST_POWER = 1e-3, 16.0
_NEGLIGIBLE = 1e-6
_FLOOR = 1e-12
_CHUNK = 1 << 13
_MOST_MOMENTS = 1 << 27


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A fractional design, and the limit of all whole ones that follows."""

    weights: Float[np.ndarray, " structures"]
    value: float
    bound: float
    bound_as_given: float
    steps: int


def relax(
    info: Information,
    criterion: Criterion,
    rules: Rules,
    start: Precision,
    *,
    discarded: float = 0.0,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
    goal: float = -np.inf,
) -> Relaxation:
    """Find fractional weights that are nearly the best, and the best bound over all of them."""
    heads = rules.heads()
    inner = rules.after_forced().take(heads)
    forced = info.take(rules.forced).rows
    moments = _Moments(info.take(heads), start.with_rows(forced) if len(forced) else start)
    found = Climbed(np.zeros(len(heads)), np.zeros(len(heads)), 0)
    if len(heads) and inner.n:
        found = _climb(moments, criterion, inner, info.d, steps, tolerance, goal)

    def whole(part: Float[np.ndarray, " heads"]) -> Float[np.ndarray, " structures"]:
        weights = np.zeros(len(info))
        # Whatever the weights are, the bound at them holds; negligible ones would only cost time.
        weights[heads] = np.where(part > _NEGLIGIBLE, part, 0.0)
        weights[rules.forced] = 1.0
        return weights

    best = _certified(info, criterion, rules, start, whole(found.weights), found.steps, discarded)
    if np.array_equal(found.touching, found.weights):
        return best
    other = _certified(info, criterion, rules, start, whole(found.touching), found.steps, discarded)
    tighter = min if criterion.larger_is_better else max
    return replace(
        best,
        bound=tighter(best.bound, other.bound),
        bound_as_given=tighter(best.bound_as_given, other.bound_as_given),
    )


def _climb(
    moments: _Moments, criterion: Criterion, rules: Rules, d: int, steps: int, tolerance: float, goal: float
) -> Climbed:
    """Move the weights uphill."""
    single = rules.one_limit()
    if single is None:
        return climb(moments, criterion, rules, d, steps, tolerance, goal)
    prices, limit = single
    w = capped(np.ones(len(prices)), prices, limit)
    precision = moments.precision(w)
    value = criterion.value(precision)
    best, tightest, power, step = w, np.inf, 1.0, 0
    for step in track(range(steps + 1), "relaxing"):
        tangent = criterion.tangent(precision)
        g = moments.slopes(tangent.slope)
        bound = tangent.utility + np.log1p(max(best_sum(g, rules) - float(w @ g), 0.0))
        if bound < tightest:
            best, tightest = w, bound
        reached = criterion.utility(criterion.shown(precision), d)
        if reached >= tightest + np.log1p(-tolerance) or tightest <= goal or step == steps or not g.any():
            break
        ratio = g / prices
        ratio /= ratio.max()
        while power >= _LEAST_POWER:
            moved = w * ratio**power
            # A weight of zero could never grow again.
            trial = capped(np.maximum(moved, _FLOOR * moved.max()), prices, limit)
            precision = moments.precision(trial)
            after = criterion.value(precision)
            if criterion.sign * after >= criterion.sign * value:
                break
            power /= 2.0
        else:
            break
        w, value, power = trial, after, min(1.3 * power, _LARGEST_POWER)
    return Climbed(w, best, step)


def _certified(
    info: Information,
    criterion: Criterion,
    rules: Rules,
    start: Precision,
    weights: Float[np.ndarray, " structures"],
    steps: int,
    discarded: float,
) -> Relaxation:
    """Evaluate the bound at some weights from a triangular factor, for all candidates and with what was discarded."""
    used = np.flatnonzero(weights)
    part = info.take(used)
    precision = start.with_rows(part.rows * np.sqrt(weights[used])[part.structure, None])

    def limit(*, as_given: bool) -> float:
        return upper_limit(info, criterion, rules, precision, weights=weights, discarded=discarded, as_given=as_given)

    return Relaxation(
        weights=weights,
        value=criterion.shown(precision),
        bound=limit(as_given=False),
        bound_as_given=limit(as_given=True),
        steps=steps,
    )


class _Moments:
    """Sums of weighted ``B_sᵀ B_s``, kept as packed triangles where blocks are tall enough for that to pay."""

    def __init__(self, info: Information, start: Precision) -> None:
        self._info, self._start = info, start
        self._prior = start.factor.T @ start.factor
        self._upper = np.triu_indices(info.d)
        size = len(info) * len(self._upper[0])
        self._packed: Float[np.ndarray, "structures packed"] | None = None
        if len(info.rows) >= 4 * len(info) and size <= _MOST_MOMENTS:
            self._packed = np.empty((len(info), len(self._upper[0])))
            for s in range(len(info)):
                self._packed[s] = (info.block(s).T @ info.block(s))[self._upper]

    def precision(self, w: Float[np.ndarray, " structures"]) -> Precision:
        """Information of some weights. Its round-off only misleads the search: `relax` certifies with another."""
        if self._packed is not None:
            Lambda = np.zeros_like(self._prior)
            Lambda[self._upper] = w @ self._packed
        else:
            Lambda = self._summed(w)
        try:
            return Precision(cholesky(Lambda + self._prior, check_finite=False))
        except np.linalg.LinAlgError:
            return self._start.with_rows(self._info.rows * np.sqrt(w)[self._info.structure, None])

    def _summed(self, w: Float[np.ndarray, " structures"]) -> Float[np.ndarray, "d d"]:
        """``Σ_s w_s B_sᵀ B_s`` from the rows."""
        rows, per_row = self._info.rows, w[self._info.structure]
        total = np.zeros_like(self._prior)
        for a in range(0, len(rows), _CHUNK):
            total += (rows[a : a + _CHUNK].T * per_row[a : a + _CHUNK]) @ rows[a : a + _CHUNK]
        return total

    def slopes(self, slope: Float[np.ndarray, "d d"]) -> Float[np.ndarray, " structures"]:
        """Directional derivative of every block."""
        if self._packed is None:
            return sensitivities(self._info, slope)
        doubled = 2.0 * slope - np.diag(np.diag(slope))
        return np.maximum(self._packed @ doubled[self._upper], 0.0)


def capped(
    u: Float[np.ndarray, " some"], prices: Float[np.ndarray, " some"], limit: float
) -> Float[np.ndarray, " some"]:
    """Scale positive weights to ``min(1, c u)`` so that their cost meets a limit, or is that of all."""
    order = np.argsort(-u, kind="stable")
    spent = np.concatenate([[0.0], np.cumsum(prices[order])])
    if spent[-1] <= limit:
        return np.ones_like(u)
    rest = np.cumsum((prices * u)[order][::-1])[::-1]
    # With the k largest at 1, the scale of the others; the first k that leaves all others below 1 is right.
    scale = np.maximum(limit - spent[:-1], 0.0) / rest
    k = int(np.argmax(scale * u[order] <= 1.0))
    w = np.minimum(scale[k] * u, 1.0)
    w[order[:k]] = 1.0
    return w
