"""The climb of a fractional design where several limits hold at once: quotas, size and budget, several resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from kernelpot.design.bounds.frankwolfe import frank_wolfe
from kernelpot.design.bounds.polytope import Polytope
from kernelpot.design.criteria import Criterion
from kernelpot.design.precision import Precision
from kernelpot.design.rules import Rules

_STARTS = 8


@dataclass(frozen=True, eq=False)
class Climbed:
    """Where a climb ended.

    Attributes
    ----------
    weights
        The best fractional design.
    touching
        The design whose tangent gives the tightest bound, which may be an earlier one.
    steps
        Number of steps.
    """

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
    """Move weights uphill by Frank-Wolfe steps.

    Parameters
    ----------
    moments
        Information of weights of the candidates.
    criterion
        What is improved.
    rules
        Limits of the weights, nothing forced.
    d
        Number of weights of the model.
    steps
        Largest number of steps.
    tolerance
        Stop where the weights' efficiency against the bound is 1 less this.
    goal
        Stop where the bound of log ψ falls to this.
    """
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
