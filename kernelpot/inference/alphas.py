"""The choice among several alphas by left-out errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from kernelpot.errors import ParameterError
from kernelpot.inference.least_squares_inducing import Inducing
from kernelpot.inference.solvers import Exact
from kernelpot.rules import real

Fit = Callable[[Float[np.ndarray, " n"], Float[np.ndarray, "n outputs"]], Exact | Inducing]
"""Fits y under the noise of each item."""


def best_alpha(
    fitted: Fit, alphas: Sequence[float], weights: Float[np.ndarray, " n"], y: Float[np.ndarray, "n outputs"]
) -> tuple[float, Exact | Inducing]:
    """Return the alpha whose leave-one-out errors have the smallest weighted mean square, with its fit."""
    if len(alphas) == 1:
        return alphas[0], fitted(_noise(alphas[0], weights), y)
    scale = np.maximum(weights @ y**2, 1e-300)
    best: tuple[float, float, Exact | Inducing] | None = None
    for alpha in alphas:
        try:
            state = fitted(_noise(alpha, weights), y)
        except ParameterError as error:
            refusal = error
            continue
        score = float((weights @ state.left_out().squared / scale).sum())
        if best is None or score < best[0]:
            best = score, alpha, state
    if best is None:
        raise refusal
    return best[1], best[2]


def checked_alphas(alpha: Any) -> list[float]:
    """Return the alphas to choose among as positive numbers."""
    many = isinstance(alpha, np.ndarray) and alpha.ndim > 0
    if not many and (isinstance(alpha, str | bytes) or not isinstance(alpha, Sequence)):
        return [real(alpha, "alpha", above=True)]
    values = [real(value, "alpha", above=True) for value in alpha]
    if not values:
        raise ParameterError("`alpha` must hold at least one number, got none; 1e-6 is usual.")
    return values


def _noise(alpha: float, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the variance of each item's noise, infinite where it overflows."""
    with np.errstate(over="ignore"):
        return alpha / weights
