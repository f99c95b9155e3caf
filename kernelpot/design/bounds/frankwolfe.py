"""Maxima of concave functions over polytopes of which only the best vertex for given slopes is known.

Frank and Wolfe (1956) with pairwise steps (Lacoste-Julien and Jaggi 2015): weight moves from the worst vertex in use to
the best one there is, which converges linearly on polytopes where plain steps towards vertices zigzag.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Vector = Float[np.ndarray, " w"]

_SEARCH = 12
_FLAT = 0.1
_GONE = 1e-14


@dataclass(frozen=True, eq=False)
class Found:
    """Where a climb ended.

    Parameters
    ----------
    weights
        The best point found.
    value
        The function there.
    gap
        ``slopes·(vertex - weights)`` there: no point of the polytope is better than value + gap.
    steps
        Number of steps taken.
    """

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

    Parameters
    ----------
    value, slopes
        The function and its gradient.
    oracle
        Vertex that maximises ``g·w`` for slopes g.
    w0
        Where to begin, in the polytope.
    steps
        Largest number of steps.
    tolerance
        Stop where the gap is this small.
    stop
        ``stop(weights, value, slopes, gap)`` may end the climb earlier.

    Returns
    -------
    Found
        The last point, which is the best, as no step goes down.
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
