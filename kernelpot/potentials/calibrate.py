"""Standard deviations from errors on labels that a posterior did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq, minimize

from kernelpot.errors import ParameterError
from kernelpot.inference.left_out import LeftOut
from kernelpot.potentials.prediction import Residuals
from kernelpot.potentials.shape import NORMAL, ONE, Calibration, Shape, conformal_quantiles

METHODS = ("conformal", "floor", "scale")

FEWEST = 2
"""Structures with labels of a kind below which its calibration is left as it is."""

SMALLEST, LARGEST = 1e-12, 1e12
"""Smallest and largest squared factor: labels that a model meets exactly, or denies altogether."""

DEGREES = 4.0
"""Degrees of freedom of the Student t that "conformal" fits the standard deviations by, so that no tail rules them."""

MOST = 40_000
"""Labels that the likelihood is taken over; quantiles take all."""

FLOOR = 1e-3
"""Smallest floor, as a share of the median error."""

TINY = 1e-300
"""Keeps a division or a logarithm finite."""

ROUNDING = 1e-10
"""Round-off of a label, in its unit."""

PRIOR = (0.5, 1.0, 1.0, 0.5)
"""Widths of the normal priors of the powers, about 1, 0 and 0, and of the logarithms of the elements' factors."""

POWERS = ((0.5, 2.0), (0.0, 2.0), (0.0, 0.5))
"""Ranges of the powers: strange atoms must look strange, whatever little the errors among usual ones say, and mostly by
themselves, not by the company they keep."""

KEPT = 0.5
"""Least share of the factor without floor that is left beside one, for the same reason."""


def check_method(method: str) -> None:
    """Refuse a method that does not exist."""
    if method not in METHODS:
        raise ParameterError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")


def calibrate(old: Calibration, errors: Mapping[str, LeftOut], method: str) -> Calibration:
    """Return the calibration with the kinds that these errors tell of measured anew.

    "factor" keeps the noise of each kind and finds the factor beside it; one of `METHODS` finds a floor in its place
    too, and a shape. They stay two estimators: "factor" also takes means over folds, which no likelihood of single
    labels fits, and with a likelihood the stds of a fit would differ (by 5 to 30 %) from what its docs say.
    """
    if method == "factor":
        found = {kind: quick_factor(left, old.noise[kind]) for kind, left in errors.items()}
        return replace(old, factor={**old.factor, **found})
    spreads = {
        kind: fit_spreading(left, method=method)
        for kind, left in errors.items()
        if isinstance(left, Residuals) and len(np.unique(left.witness)) >= FEWEST
    }
    return Calibration(
        {**old.factor, **{kind: s.factor for kind, s in spreads.items()}},
        {**old.noise, **{kind: s.floor for kind, s in spreads.items()}},
        {**old.shape, **{kind: s.shape for kind, s in spreads.items()}},
    )


def quick_factor(left: LeftOut, noise: float) -> float:
    """Return the factor at which the mean over entries of error² / (factor² latent + noise²) is one.

    Where the noise alone exceeds the errors, the factor shrinks by that mean at factor 1 instead, so that strange atoms
    still look strange.
    """

    def excess(scale: float) -> float:
        return float(np.mean(left.squared / np.maximum(scale * left.variance + noise**2, TINY))) - 1.0

    if excess(0.0) <= 0.0:
        return float(np.sqrt(max(SMALLEST, excess(1.0) + 1.0)))
    high = 1.0
    while excess(high) > 0.0 and high < LARGEST:
        high *= 10.0
    return float(np.sqrt(brentq(excess, 0.0, high) if high < LARGEST else high))


def common_scale(ratio: Mapping[str, float], left: Mapping[str, LeftOut], telling: Sequence[str]) -> float:
    """Return the amplitude, eV: the one scale that a search over ratios leaves open.

    The geometric mean over the telling kinds of the observed over the predicted spread of left-out labels.
    """
    squared = [
        max(SMALLEST, float(replace(left[kind], variance=left[kind].variance + ratio[kind] ** 2).ratio))
        for kind in telling
    ]
    return float(np.exp(0.5 * np.mean(np.log(squared))))


@dataclass(frozen=True)
class Spreading:
    """Label variance = factor² · (bent latent variance) + floor², floor in eV/atom, eV/Å or eV/Å³."""

    factor: float
    floor: float
    shape: Shape

    def std(self, residuals: Residuals) -> Float[np.ndarray, " n"]:
        """Return the standard deviations of labels."""
        bent = self.shape.bend(residuals.latent, residuals.scarcity, residuals.strangeness, residuals.element)
        return np.hypot(self.factor * bent, self.floor)


def fit_spreading(residuals: Residuals, *, method: str) -> Spreading:
    """Fit the standard deviations to errors; labels that are zero by symmetry only bound the floor.

    "scale" finds the likeliest factor, "floor" factor and floor, both of normal errors. "conformal" finds factor, floor
    and, for energies and forces, powers and the elements' factors, for Student's t with four degrees of freedom, and
    then takes quantiles as they are: 68.27 % of the errors lie within one standard deviation.
    """
    silent = residuals.silent
    told = residuals if silent.all() else residuals.take(~silent)
    quiet = residuals.take(silent)
    lowest = max(ROUNDING, FLOOR * float(np.median(np.abs(told.error))))
    if len(quiet):
        lowest = max(lowest, float(np.sqrt(np.mean(quiet.error**2))))
    if silent.all():
        return Spreading(1.0, lowest, NORMAL)
    witnesses = len(np.unique(residuals.witness))
    found = _likeliest(told, method, lowest, witnesses)
    if method != "conformal":
        return found
    quantiles = np.array(conformal_quantiles(np.abs(told.error) / found.std(told), witnesses))
    one = max(float(replace(found.shape, quantiles=tuple(quantiles)).quantile(ONE)), 1e-12)
    shape = replace(found.shape, quantiles=tuple((quantiles / one).tolist()))
    return Spreading(found.factor * one, found.floor * one, shape)


Parameters = Float[np.ndarray, " parameters"]


@dataclass(frozen=True, eq=False)
class _Likelihood:
    """Negative log likelihood by [log floor, log factor, α, β, δ, log γ of each element], with its gradient.

    `design` holds the derivatives of the log multiplied latent standard deviation by the parameters, 0 for the floor's;
    `log_latent` is the log typical latent one. The likelihood counts for `witnesses` labels against the priors.
    """

    squared: Float[np.ndarray, " n"]
    design: Float[np.ndarray, "n parameters"]
    log_latent: float
    witnesses: int
    student: bool

    def __call__(self, x: Parameters) -> tuple[float, Parameters]:
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

    def descend(self, start: Parameters, bounds: list[tuple[float, float]]) -> tuple[float, Parameters]:
        """Return the least value between bounds, and where it is."""
        found = minimize(self, start, jac=True, method="L-BFGS-B", bounds=bounds)
        return float(found.fun), np.asarray(found.x)


def _likeliest(residuals: Residuals, method: str, lowest: float, witnesses: int) -> Spreading:
    step = -(-len(residuals) // MOST)
    some = residuals.take(np.arange(0, len(residuals), step))
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
    loss = _Likelihood(some.squared, np.stack(columns, axis=1), centre, witnesses, method == "conformal")
    start = np.array([bounds[0][0], np.log(root) - centre, 1.0, 0.0, 0.0, *np.zeros(len(elements))])
    value, best = loss.descend(start, [(bounds[0][0], bounds[0][0]), *bounds[1:]])
    if method != "scale":
        start = best.copy()
        start[0] = np.clip(np.log(0.5 * root), *bounds[0])
        bounds[1] = (float(best[1] + np.log(KEPT)), bounds[1][1])
        floored = loss.descend(start, bounds)
        best = floored[1] if floored[0] < value else best
    floor, factor = (float(np.exp(best[k])) for k in (0, 1))
    if bounds[2] == (1.0, 1.0):
        return Spreading(factor, floor, NORMAL)
    factors = dict(zip(elements, np.exp(best[5:]).tolist(), strict=True))
    alpha, beta, delta = (float(best[k]) for k in (2, 3, 4))
    shape = Shape(alpha, beta, delta, typical[0], typical[1], typical[2], elements=factors)
    return Spreading(factor, floor, shape)
