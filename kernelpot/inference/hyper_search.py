"""Search for hyper-parameters: from several starts on a subset, then a few preconditioned steps on all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from kernelpot.inference.evidence import Objective, prior

STEPS = 200
"""Most steps on a subset, or on all where they are few."""


@dataclass(frozen=True)
class Found:
    """What a search ended with."""

    theta: Float[np.ndarray, " p"]  # Parameters
    value: float  # Of the objective
    inverse_hessian: Float[np.ndarray, "p p"]  # As the search has learned it
    evaluations: int  # Count of calls


def climb(objective: Objective, start: Float[np.ndarray, " p"], *, evaluations: int = STEPS) -> Found:
    """Minimise from one point by L-BFGS (Byrd, Lu, Nocedal and Zhu (1995))."""
    call: Callable[[np.ndarray], tuple[float, np.ndarray]] = objective
    options: Any = {"maxfun": evaluations, "maxiter": evaluations, "maxcor": 20}
    done: Any = minimize(call, start, jac=True, method="L-BFGS-B", options=options)
    return Found(done.x, float(done.fun), done.hess_inv.todense(), int(done.nfev))


def best_of(objective: Objective, starts: int, rng: np.random.Generator) -> Found:
    """Minimise from the parameters as they are, then from the prior's centre, then from draws of the prior."""
    centre, width = prior(objective)
    now = objective.parameters.values()
    first = np.append(now, centre[len(now) :])
    points = [first] if np.array_equal(first, centre) else [first, centre]
    while len(points) < starts:
        # Lengths and amplitudes of one kind move together: a point far from all others is no start.
        points.append(centre + 0.5 * width * rng.standard_normal(len(centre)))
    found = [climb(objective, point) for point in points[:starts]]
    return min(found, key=lambda one: one.value)


def polish(objective: Objective, found: Found, *, scale: float, evaluations: int) -> Found:
    """Take a few steps on all items, in coordinates where the subset's curvature, times `scale`, is one.

    Without them the first evaluations would only find the length of a step.
    """
    values, vectors = np.linalg.eigh(found.inverse_hessian / scale)
    root = vectors * np.sqrt(np.clip(values, 1e-12, None))

    def turned(u: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        value, gradient = objective(found.theta + root @ u)
        return value, root.T @ gradient

    best = _Best(turned)
    done = minimize(
        best, np.zeros(len(found.theta)), jac=True, method="L-BFGS-B",
        options={"maxfun": evaluations, "ftol": 1e-7},
    )  # fmt: skip
    return Found(found.theta + root @ best.point, best.value, found.inverse_hessian, int(done.nfev))


class _Best:
    """Keep the best point, since a search that is cut short may end on a worse one."""

    def __init__(self, call: Callable[[np.ndarray], tuple[float, np.ndarray]]) -> None:
        self.call, self.value, self.point = call, np.inf, np.zeros(0)

    def __call__(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self.call(u)
        if value < self.value or not self.point.size:
            self.value, self.point = value, u.copy()
        return value, gradient
