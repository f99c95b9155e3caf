"""Factor, floor and shape of a kind's standard deviations, from errors that the model did not see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from kernelpot.potentials.residuals import Residuals
from kernelpot.potentials.shape import NORMAL, ONE, Shape, conformal_quantiles

METHODS = ("conformal", "floor", "scale")

DEGREES = 4.0
"""Degrees of freedom of the Student t that "conformal" fits the standard deviations by, so that no tail rules them."""

MOST = 40_000
"""Labels that the likelihood is taken over; quantiles take all."""

FLOOR = 1e-3
"""Smallest floor, as a share of the median error."""

TINY = 1e-300
"""Keeps a logarithm finite."""

ROUNDING = 1e-10
"""Round-off of a label, in its unit."""

PRIOR = (0.5, 1.0, 1.0, 0.5)
"""Widths of the normal priors of the powers, about 1, 0 and 0, and of the logarithms of the elements' factors."""

POWERS = ((0.5, 2.0), (0.0, 2.0), (0.0, 0.5))
"""Ranges of the powers: strange atoms must look strange, whatever little the errors among usual ones say, and mostly by
themselves, not by the company they keep."""

KEPT = 0.5
"""Least share of the factor without floor that is left beside one, for the same reason."""


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
        bent = self.shape.bend(residuals.latent, residuals.scarcity, residuals.strangeness, residuals.element)
        return np.hypot(self.factor * bent, self.floor)


def fit_spreading(residuals: Residuals, *, method: str, witnesses: int) -> Spreading:
    """Fit the standard deviations to errors; labels that are zero by symmetry only bound the floor.

    "scale" finds the likeliest factor, "floor" factor and floor, both of normal errors. "conformal" finds factor, floor
    and, for energies and forces, powers and the elements' factors, for Student's t with four degrees of freedom, and
    then takes quantiles as they are: 68.27 % of the errors lie within one standard deviation.

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


@dataclass(frozen=True, eq=False)
class _Likelihood:
    """Negative log likelihood by [log floor, log factor, α, β, δ, log γ of each element], with its gradient.

    Attributes
    ----------
    squared
        Errors.
    design
        Derivatives of the log multiplied latent standard deviation by the parameters; 0 for the floor's.
    log_latent
        Log typical latent standard deviation.
    witnesses
        That the likelihood counts for, against the priors.
    student
        Student's t in place of a normal distribution.
    """

    squared: Float[np.ndarray, " n"]
    design: Float[np.ndarray, "n parameters"]
    log_latent: float
    witnesses: int
    student: bool

    def __call__(self, x: Float[np.ndarray, " parameters"]) -> tuple[float, Float[np.ndarray, " parameters"]]:
        multiplied = np.exp(2.0 * (self.log_latent + self.design @ x))
        variance = multiplied + np.exp(2.0 * x[0])
        ratio, log_std = self.squared / variance, 0.5 * np.log(variance)
        if self.student:
            value = log_std + 0.5 * (DEGREES + 1.0) * np.log1p(ratio / DEGREES)
            slope = 1.0 - (DEGREES + 1.0) * ratio / (DEGREES + ratio)
        else:
            value, slope = log_std + 0.5 * ratio, 1.0 - ratio
        share = slope * multiplied / variance
        gradient = self.design.T @ share / len(share)
        gradient[0] = np.mean(slope - share)
        width = np.array([np.inf, np.inf, *PRIOR[:3], *np.full(len(x) - 5, PRIOR[3])])
        centre = np.array([0.0, 0.0, 1.0, *np.zeros(len(x) - 3)])
        away = (x - centre) / width
        return float(np.mean(value) + away @ away / (2 * self.witnesses)), gradient + away / width / self.witnesses


def _likeliest(residuals: Residuals, method: str, lowest: float, witnesses: int) -> Spreading:
    step = -(-len(residuals.error) // MOST)
    some = residuals.take(np.arange(0, len(residuals.error), step))
    root = float(np.sqrt(np.mean(some.error**2))) + lowest
    latent = np.log(np.maximum(some.latent, TINY))
    centre = float(latent.mean())
    still = np.zeros(len(latent))
    columns = [still, np.ones(len(latent)), latent - centre, still, still]
    bounds = [(float(np.log(lowest)), float(np.log(10.0 * root))), (-60.0, 60.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)]
    typical, elements = [float(np.exp(centre)), 1.0, 1.0], list[int]()
    if method == "conformal" and some.scarcity is not None:
        bounds[2] = POWERS[0]
        for k, values in enumerate((some.scarcity, some.strangeness)):
            if values is not None:
                logarithm = np.log(np.maximum(values, TINY))
                typical[1 + k] = float(np.exp(logarithm.mean()))
                columns[3 + k], bounds[3 + k] = logarithm - logarithm.mean(), POWERS[1 + k]
        element = np.zeros(len(latent), np.int64) if some.element is None else some.element
        elements = np.unique(element).tolist() if np.ptp(element) > 0 else []
        columns += [np.where(element == z, 1.0, 0.0) for z in elements]
        bounds += [(-3.0, 3.0)] * len(elements)
    loss = _Likelihood(some.error**2, np.stack(columns, axis=1), centre, witnesses, method == "conformal")
    start = np.array([bounds[0][0], np.log(root) - centre, 1.0, 0.0, 0.0, *np.zeros(len(elements))])
    value, best = _descend(loss, start, [(bounds[0][0], bounds[0][0]), *bounds[1:]])
    if method != "scale":
        start = best.copy()
        start[0] = np.clip(np.log(0.5 * root), *bounds[0])
        bounds[1] = (float(best[1] + np.log(KEPT)), bounds[1][1])
        floored = _descend(loss, start, bounds)
        best = floored[1] if floored[0] < value else best
    floor, factor = (float(np.exp(best[k])) for k in (0, 1))
    if bounds[2] == (1.0, 1.0):
        return Spreading(factor, floor, NORMAL)
    factors = dict(zip(elements, np.exp(best[5:]).tolist(), strict=True))
    alpha, beta, delta = (float(best[k]) for k in (2, 3, 4))
    shape = Shape(alpha, beta, delta, typical[0], typical[1], typical[2], elements=factors)
    return Spreading(factor, floor, shape)


def _descend(
    loss: Callable[[Float[np.ndarray, " parameters"]], tuple[float, Float[np.ndarray, " parameters"]]],
    start: Float[np.ndarray, " parameters"],
    bounds: list[tuple[float, float]],
) -> tuple[float, Float[np.ndarray, " parameters"]]:
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return float(found.fun), np.asarray(found.x)
