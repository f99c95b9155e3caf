"""Factor, floor and shape of a kind's standard deviations, from errors that the model did not see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from kernelpot.models.residuals import Residuals
from kernelpot.models.shape import NORMAL, ONE, Shape, conformal_quantiles

METHODS = ("conformal", "floor", "scale")

DEGREES = 4.0
"""Degrees of freedom of the Student t that "conformal" fits the standard deviations by, so that no tail rules them."""

MOST = 40_000
"""Labels that the likelihood is taken over; quantiles take all."""

FLOOR = 1e-3
"""Smallest floor, as a share of the median error."""

ROUNDING = 1e-10
"""Round-off of a label, in its unit."""

PRIOR = (0.5, 1.0)
"""Width of the normal priors of the two powers, about 1 and 0: what few structures leave open."""

POWERS = ((0.2, 2.0), (0.0, 2.0))
"""Ranges of the two powers."""


@dataclass(frozen=True)
class Spreading:
    """Label variance = factor² · (bent latent variance) + floor².

    Attributes
    ----------
    factor
        Of the bent latent standard deviation.
    floor
        eV/atom, eV/Å, eV/Å³.
    shape
        How the latent standard deviation is bent, and the tails.
    """

    factor: float
    floor: float
    shape: Shape

    def std(self, residuals: Residuals) -> Float[np.ndarray, " n"]:
        """Return the standard deviations of labels."""
        return np.hypot(self.factor * self.shape.bend(residuals.latent, residuals.scarcity), self.floor)


def fit_spreading(residuals: Residuals, *, method: str, witnesses: int) -> Spreading:
    """Fit the standard deviations to errors; labels that are zero by symmetry only bound the floor.

    "scale" finds the likeliest factor, "floor" factor and floor, both of normal errors. "conformal" finds factor, floor
    and, where there is a scarcity, the powers, for Student's t with four degrees of freedom, and then takes quantiles
    as they are: 68.27 % of the errors lie within one standard deviation.

    Parameters
    ----------
    residuals
        Of one kind, unseen.
    method
        One of `METHODS`.
    witnesses
        Independent structures behind the residuals.
    """
    silent = residuals.silent
    told = residuals if silent.all() else residuals.take(~silent)
    quiet = residuals.take(silent)
    lowest = max(ROUNDING, FLOOR * float(np.median(np.abs(told.error))))
    if len(quiet.error):
        lowest = max(lowest, float(np.sqrt(np.mean(quiet.error**2))))
    if silent.all():
        return Spreading(1.0, lowest, NORMAL)
    found = _likeliest(told, method, lowest, witnesses)
    if method != "conformal":
        return found
    quantiles = np.array(conformal_quantiles(np.abs(told.error) / found.std(told), witnesses))
    one = max(float(replace(found.shape, quantiles=tuple(quantiles)).quantile(ONE)), 1e-12)
    shape = replace(found.shape, quantiles=tuple((quantiles / one).tolist()))
    return Spreading(found.factor * one, found.floor * one, shape)


def _likeliest(residuals: Residuals, method: str, lowest: float, witnesses: int) -> Spreading:
    step = -(-len(residuals.error) // MOST)
    some = residuals.take(np.arange(len(residuals.error)) % step == 0)
    bending = method == "conformal" and some.scarcity is not None
    typical = (_typical(some.latent), _typical(some.scarcity) if some.scarcity is not None else 1.0)
    log_l = np.log(np.maximum(some.latent, 1e-300) / typical[0])
    log_u = np.log(np.maximum(some.scarcity, 1e-300) / typical[1]) if some.scarcity is not None else 0.0 * log_l
    root = float(np.sqrt(np.mean(some.error**2))) + lowest
    start = np.log(root / typical[0])
    student = method == "conformal"

    def loss(x: Float[np.ndarray, " 4"]) -> tuple[float, Float[np.ndarray, " 4"]]:
        log_f, alpha, beta, log_floor = x
        multiplied = np.exp(2.0 * (log_f + np.log(typical[0]) + alpha * log_l + beta * log_u))
        variance = multiplied + np.exp(2.0 * log_floor)
        value, slope = _cost(some.error**2 / variance, 0.5 * np.log(variance), student=student)
        by_log = slope * multiplied / variance
        prior = np.array([0.0, (alpha - 1.0) / PRIOR[0], beta / PRIOR[1], 0.0])
        gradient = (
            np.array([by_log.mean(), np.mean(by_log * log_l), np.mean(by_log * log_u), np.mean(slope - by_log)])
            + prior / np.array([1.0, PRIOR[0], PRIOR[1], 1.0]) / witnesses
        )
        return value + float(prior @ prior) / (2 * witnesses), gradient

    free = [(start - 12.0, start + 12.0), *(POWERS if bending else ((1.0, 1.0), (0.0, 0.0)))]
    ends = (float(np.log(lowest)), float(np.log(max(10.0 * root, 2.0 * lowest))))
    multiplied = _descend(loss, np.array([start, 1.0, 0.0, ends[0]]), [*free, (ends[0], ends[0])])
    best = multiplied
    if method != "scale":
        from_half = multiplied[1] * [1, 1, 1, 0] + np.array([0, 0, 0, min(max(np.log(0.5 * root), ends[0]), ends[1])])
        floored = _descend(loss, from_half, [*free, ends])
        best = min(multiplied, floored, key=lambda result: result[0])
    log_f, alpha, beta, log_floor = best[1]
    shape = Shape(float(alpha), float(beta), *typical) if bending else NORMAL
    return Spreading(float(np.exp(log_f)), float(np.exp(log_floor)), shape)


def _cost(
    ratio: Float[np.ndarray, " n"], log_std: Float[np.ndarray, " n"], *, student: bool
) -> tuple[float, Float[np.ndarray, " n"]]:
    """Mean negative log likelihood of error²/std², with each label's slope by log std."""
    if student:
        value = float(np.mean(log_std + 0.5 * (DEGREES + 1.0) * np.log1p(ratio / DEGREES)))
        return value, 1.0 - (DEGREES + 1.0) * ratio / (DEGREES + ratio)
    return float(np.mean(log_std + 0.5 * ratio)), 1.0 - ratio


def _descend(
    loss: Callable[[Float[np.ndarray, " 4"]], tuple[float, Float[np.ndarray, " 4"]]],
    start: Float[np.ndarray, " 4"],
    bounds: list[tuple[float, float]],
) -> tuple[float, Float[np.ndarray, " 4"]]:
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return float(found.fun), np.asarray(found.x)


def _typical(values: Float[np.ndarray, " n"]) -> float:
    """Geometric mean, so that powers and factor are fitted almost independently."""
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-300)))))
