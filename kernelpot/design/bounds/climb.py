"""The climb of a fractional design: by multiplication of weights under one limit, by Frank and Wolfe under several.

The multiplicative algorithm (Silvey, Titterington and Torsney 1978; Yu 2010), capped at 1:
``w_s ← min(1, c w_s (g_s/a_s)^p)``, with a the costs and c such that the limit is met. The power p grows while it
improves the criterion and is halved where it does not. In trials on force blocks this was the fastest for D and A,
before plain powers, spectral projected gradients and Frank-Wolfe steps; on plain rows projected gradients were faster
for D.

Frank and Wolfe (1956) with pairwise steps (Lacoste-Julien and Jaggi 2015): weight moves from the worst vertex in use to
the best one there is, which converges linearly on polytopes where plain steps towards vertices zigzag.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import cholesky

from kernelpot.design.bounds.polytope import Polytope
from kernelpot.design.criteria import Criterion
from kernelpot.design.criteria.base import sensitivities
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.task import Rules
from kernelpot.progress import track

Vector = Float[np.ndarray, " w"]

STEPS = 200
TOLERANCE = 1e-3
_STARTS = 8
_LEAST_POWER, _LARGEST_POWER = 1e-3, 16.0
_FLOOR = 1e-12
_CHUNK = 1 << 13
_MOST_MOMENTS = 1 << 27
_SEARCH = 12
_FLAT = 0.1
_GONE = 1e-14


@dataclass(frozen=True)
class Effort:
    """How far to climb."""

    steps: int = STEPS
    tolerance: float = TOLERANCE  # enough where the weights' efficiency against the bound is 1 less this
    goal: float = -np.inf  # enough where the bound of log ψ falls to this
    until: float = np.inf  # stop at this time of `time.perf_counter`

    def enough(self, reached: float, bound: float) -> bool:
        """Whether to stop, with log ψ at the weights and its bound."""
        if reached >= bound + np.log1p(-self.tolerance) or bound <= self.goal:
            return True
        return self.until < np.inf and time.perf_counter() >= self.until


@dataclass(frozen=True, eq=False)
class Climbed:
    """Where a climb ended: the best design, and the one, maybe earlier, whose tangent gives the tightest bound."""

    weights: Vector
    touching: Vector
    steps: int


class Moments:
    """Sums of weighted ``B_sᵀ B_s``, kept as packed triangles where blocks are tall enough for that to pay."""

    def __init__(self, info: Information, start: Precision) -> None:
        self._info, self._start, self.d = info, start, info.d
        self._prior = start.factor.T @ start.factor
        self._upper = np.triu_indices(info.d)
        size = len(info) * len(self._upper[0])
        self._packed: Float[np.ndarray, "structures packed"] | None = None
        if len(info.rows) >= 4 * len(info) and size <= _MOST_MOMENTS:
            self._packed = np.empty((len(info), len(self._upper[0])))
            for s in range(len(info)):
                self._packed[s] = (info.block(s).T @ info.block(s))[self._upper]

    def precision(self, w: Float[np.ndarray, " structures"]) -> Precision:
        """Information of some weights; its round-off only misleads the search, as `relax` certifies with another."""
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


def climb(hill: Moments, criterion: Criterion, rules: Rules, effort: Effort) -> Climbed:
    """Move weights uphill under rules that force nothing."""
    single = rules.one_limit()
    if single is None:
        return _between_vertices(hill, criterion, rules, effort)
    return _multiply(hill, criterion, rules, effort, *single)


def _multiply(
    hill: Moments, criterion: Criterion, rules: Rules, effort: Effort, prices: Vector, limit: float
) -> Climbed:
    """Climb under a single limit."""
    w = capped(np.ones(len(prices)), prices, limit)
    precision = hill.precision(w)
    value = criterion.value(precision)
    polytope = Polytope(rules)
    best, tightest, power, step = w, np.inf, 1.0, 0
    for step in track(range(effort.steps + 1), "relaxing"):
        tangent = criterion.tangent(precision)
        g = hill.slopes(tangent.slope)
        bound = tangent.utility + np.log1p(max(polytope.limit(g) - float(w @ g), 0.0))
        if bound < tightest:
            best, tightest = w, bound
        reached = criterion.utility(criterion.shown(precision), hill.d)
        if effort.enough(reached, tightest) or step == effort.steps or not g.any():
            break
        ratio = g / prices
        ratio /= ratio.max()
        while power >= _LEAST_POWER:
            moved = w * ratio**power
            # A weight of zero could never grow again.
            trial = capped(np.maximum(moved, _FLOOR * moved.max()), prices, limit)
            precision = hill.precision(trial)
            after = criterion.value(precision)
            if criterion.sign * after >= criterion.sign * value:
                break
            power /= 2.0
        else:
            break
        w, value, power = trial, after, min(1.3 * power, _LARGEST_POWER)
    return Climbed(w, best, step)


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


def _between_vertices(hill: Moments, criterion: Criterion, rules: Rules, effort: Effort) -> Climbed:
    """Climb under several limits at once: quotas, size and budget, several resources."""
    d, sign = hill.d, criterion.sign
    polytope = Polytope(rules)
    at: list[tuple[Vector, Precision]] = []

    def precision(w: Vector) -> Precision:
        if not at or at[0][0] is not w:
            at[:] = [(w, hill.precision(w))]
        return at[0][1]

    def value(w: Vector) -> float:
        return sign * criterion.value(precision(w))

    def slopes(w: Vector) -> Vector:
        return hill.slopes(sign * criterion.gradient(precision(w)))

    try:  # begin inside, at the mean of some vertices
        g = slopes(np.zeros(len(rules)))
        rng = np.random.default_rng([rules.seed, 3])
        first = np.mean([polytope.vertex(g * rng.exponential(size=len(g))) for _ in range(_STARTS)], axis=0)
    except ArithmeticError:
        # Limits so tight that the solver sees no room: no weights give a valid bound, if a poor one.
        return Climbed(np.zeros(len(rules)), np.zeros(len(rules)), 0)
    best, tightest = first, np.inf

    def stop(w: Vector, now: float, g: Vector, gap: float) -> bool:
        nonlocal best, tightest
        if criterion.smooth:
            tangent = criterion.tangent(precision(w))
            h = hill.slopes(tangent.slope)
            reached, gap = criterion.utility(criterion.shown(precision(w)), d), polytope.limit(h) - float(h @ w)
            bound = tangent.utility + float(np.log1p(max(gap, 0.0)))
        else:
            reached = criterion.utility(sign * now, d)
            if not np.isfinite(reached):
                return True
            bound = reached + float(np.log1p(max(abs(criterion.rate(sign * now, d)) * gap, 0.0)))
        if bound < tightest:
            best, tightest = w, bound
        return effort.enough(reached, tightest) or not g.any()

    found = frank_wolfe(value, slopes, polytope.vertex, first, steps=effort.steps, stop=stop)
    return Climbed(found.weights, best, found.steps)


@dataclass(frozen=True, eq=False)
class Summit:
    """Where Frank and Wolfe's climb ended; no point of the polytope is better than value + gap."""

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
) -> Summit:
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
            return Summit(w, now, max(gap, 0.0), taken)
        worst = int(np.argmin([float(g @ v) for v in vertices]))
        moved = _line_search(value, slopes, w, best - vertices[worst], shares[worst], now, g)
        if moved is None:  # the pair cannot climb in floating point; the plain step may
            moved = _line_search(value, slopes, w, best - w, 1.0, now, g)
            if moved is None:
                return Summit(w, now, max(gap, 0.0), taken)
            shares = [(1.0 - moved[0]) * share for share in shares]
            worst = -1
        step, w, now, g = moved
        if worst >= 0:
            shares[worst] -= step
        known = next((k for k, vertex in enumerate(vertices) if np.array_equal(vertex, best)), None)
        if known is None:
            vertices, shares = [*vertices, best], [*shares, step]
        else:
            shares[known] += step
        kept = [k for k, share in enumerate(shares) if share > _GONE]
        vertices, shares = [vertices[k] for k in kept], [shares[k] for k in kept]
        taken += 1


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
