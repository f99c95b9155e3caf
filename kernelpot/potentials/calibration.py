"""Calibration: how errors on labels that a posterior did not see spread about what it expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import brentq, minimize
from scipy.special import gammaln, ndtr, ndtri, stdtrit

from kernelpot.data.check import HEAVIEST
from kernelpot.errors import ParameterError
from kernelpot.inference.left_out import LeftOut

ONE = float(ndtr(1.0) - ndtr(-1.0))
"""68.27 %: the share of a normal distribution within one standard deviation."""

LEVELS = tuple(sorted([*(round(0.02 * k, 2) for k in range(1, 50)), ONE, 0.95, 0.99, 0.995, 0.999]))
"""Shares of labels at which the size of the error is kept, in standard deviations."""

FEWEST_DEGREES, NORMAL_DEGREES = 1.5, 1e4
"""Degrees of freedom of Student's t: fewest, and those beyond which it is taken for a normal distribution."""

SILENT = 1e-6
"""Latent standard deviation, as a share of the median, below which a label is zero by symmetry."""

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


@dataclass(frozen=True, eq=False)
class Residuals(LeftOut):
    """Errors of one kind of label, energies per atom, forces and stresses one by one.

    `variance` is the bare posterior's, `witness` the place of the structure that a label belongs to, unless others were
    given. Scarcity and strangeness (`Around`, eV) and element are those of the atom that a force acts on; an energy has
    the scarcity of its structure; None where the standard deviation does not depend on them.
    `std` is that of the label, NaN where it was not asked for.
    """

    std: Float[np.ndarray, " n"] = field(kw_only=True)
    scarcity: Float[np.ndarray, " n"] | None = field(default=None, kw_only=True)
    strangeness: Float[np.ndarray, " n"] | None = field(default=None, kw_only=True)
    element: Int[np.ndarray, " n"] | None = field(default=None, kw_only=True)

    @property
    def latent(self) -> Float[np.ndarray, " n"]:
        """Standard deviation of the bare posterior; NaN where it was not asked for."""
        return np.sqrt(self.variance)

    @property
    def silent(self) -> Bool[np.ndarray, " n"]:
        """Tell which labels are zero by symmetry: the model knows them for certain, whatever its weights are."""
        latent = self.latent
        known = latent[latent > 0.0]
        return latent <= (SILENT * np.median(known) if len(known) else 0.0)


@dataclass(frozen=True)
class Shape:
    """Spread of one kind's errors, measured on labels that the model did not see.

    The latent standard deviation l of a label is bent before it is multiplied: l (l/l₀)^(α-1) (u/u₀)^β (v/v₀)^δ γ_Z.
    The scarcity u is the root mean square standard deviation of the local energies around the atom (for an energy, of
    all atoms), the strangeness v of the structure is the standard deviation of its energy over √N, and Z is the atom's
    element. α = 1, β = δ = 0 and γ = 1 leave it as it is.
    """

    latent_power: float = 1.0  # α, β and δ
    scarcity_power: float = 0.0
    strangeness_power: float = 0.0
    latent: float = 1.0  # typical values l₀ (unit of the kind), u₀ and v₀ (eV)
    scarcity: float = 1.0
    strangeness: float = 1.0
    # |error|/std that the share `LEVELS` of labels stays below, one at 68.27 %; empty: a normal distribution
    quantiles: tuple[float, ...] = ()
    # γ of each element, by atomic number; 1 for the others
    elements: Mapping[int, float] = field(default_factory=dict)

    def bend(
        self,
        latent: Float[np.ndarray, "..."],
        scarcity: Float[np.ndarray, "..."] | None = None,
        strangeness: Float[np.ndarray, "..."] | None = None,
        element: Int[np.ndarray, "..."] | None = None,
    ) -> Float[np.ndarray, "..."]:
        """Return the bent latent standard deviation; the other arrays broadcast against it."""
        result: np.ndarray = np.asarray(latent, dtype=float)
        if self.latent_power != 1.0:
            result = result**self.latent_power * self.latent ** (1.0 - self.latent_power)
        if self.scarcity_power != 0.0 and scarcity is not None:
            result = result * (scarcity / self.scarcity) ** self.scarcity_power
        if self.strangeness_power != 0.0 and strangeness is not None:
            result = result * (strangeness / self.strangeness) ** self.strangeness_power
        if self.elements and element is not None:
            factor = np.ones(1 + max(int(np.max(element)), *self.elements))
            factor[list(self.elements)] = list(self.elements.values())
            result = result * factor[element]
        return result

    def quantile(self, level: float) -> float:
        """Return the half width, in standard deviations, of the interval that holds this share of labels.

        Between `LEVELS` it is linear in the quantile of a normal distribution, beyond the last in proportion to it.
        """
        if isinstance(level, bool) or not isinstance(level, int | float | np.number) or not 0.0 < level < 1.0:
            raise ParameterError(f"`level` must lie between 0 and 1, got {level!r}; 0.95 is usual.")
        x = normal_quantile(float(level))
        if not self.quantiles:
            return x
        if x > _NORMAL[-1]:
            return self.quantiles[-1] * x / _NORMAL[-1]
        return float(np.interp(x, _NORMAL, [0.0, *self.quantiles]))

    @cached_property
    def degrees_of_freedom(self) -> float:
        """Those of the Student t distribution whose 95 % and 68 % quantiles have the ratio of ours; inf if normal."""
        ratio = self.quantile(0.95)
        if not self.quantiles or ratio <= _tail_ratio(NORMAL_DEGREES):
            return float("inf")
        if ratio >= _tail_ratio(FEWEST_DEGREES):
            return FEWEST_DEGREES
        ends = np.log([FEWEST_DEGREES, NORMAL_DEGREES])
        return float(np.exp(brentq(lambda log_nu: _tail_ratio(float(np.exp(log_nu))) - ratio, *ends)))

    def log_density(self, error: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return the log density of errors, nats: Student's t with the 68 % and 95 % quantiles of the intervals."""
        nu = self.degrees_of_freedom
        if np.isinf(nu):
            normal: np.ndarray = -0.5 * (error / std) ** 2 - np.log(std) - 0.5 * np.log(2.0 * np.pi)
            return normal
        scale = std / stdtrit(nu, 0.5 + 0.5 * ONE)
        height = gammaln(0.5 * (nu + 1.0)) - gammaln(0.5 * nu) - 0.5 * np.log(nu * np.pi)
        result: np.ndarray = height - 0.5 * (nu + 1.0) * np.log1p((error / scale) ** 2 / nu) - np.log(scale)
        return result

    def settings(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "powers": [self.latent_power, self.scarcity_power, self.strangeness_power],
            "typical": [self.latent, self.scarcity, self.strangeness],
            "quantiles": list(self.quantiles),
            "elements": {str(z): factor for z, factor in self.elements.items()},
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Shape:
        """Make the shape that `settings` describes, or raise a ValueError where they make no sense."""
        powers, typical = ([float(v) for v in settings[name]] for name in ("powers", "typical"))
        quantiles = np.array([float(v) for v in settings["quantiles"]])
        if (
            not np.isfinite([*powers, *typical]).all()
            or min(powers) < 0.0
            or max(powers) > 100.0
            or min(typical) <= 0.0
        ):
            raise ValueError("the powers and typical values of a calibration must be finite, and not negative")
        if len(quantiles) not in (0, len(LEVELS)):
            raise ValueError(f"a calibration needs {len(LEVELS)} quantiles or none, found {len(quantiles)}")
        if not np.isfinite(quantiles).all() or (np.diff(quantiles, prepend=0.0) < 0.0).any():
            raise ValueError("the quantiles of a calibration must be finite, and must not fall")
        elements = {int(z): float(factor) for z, factor in settings["elements"].items()}
        if any(not 0 < z <= HEAVIEST or not 0.0 < factor < np.inf for z, factor in elements.items()):
            raise ValueError("the elements of a calibration must exist and have positive factors")
        alpha, beta, delta = powers
        latent, scarcity, strangeness = typical
        return cls(alpha, beta, delta, latent, scarcity, strangeness, tuple(quantiles.tolist()), elements)


NORMAL = Shape()
"""Standard deviations as they are, with the tails of a normal distribution."""


def normal_quantile(level: float) -> float:
    """Half width of the interval that holds this share of a normal distribution, in standard deviations."""
    return float(ndtri(0.5 + 0.5 * level))


def _tail_ratio(nu: float) -> float:
    return float(stdtrit(nu, 0.975) / stdtrit(nu, 0.5 + 0.5 * ONE))


_NORMAL = (0.0, *map(normal_quantile, LEVELS))


def conformal_quantiles(sizes: Float[np.ndarray, " n"], witnesses: int) -> tuple[float, ...]:
    """Return the sizes that the shares `LEVELS` of labels of a new structure stay below.

    Conformal prediction (Vovk et al. (2005); Angelopoulos and Bates (2021)) for labels that come in groups (Lee, Barber
    and Willett (2023)): structures are exchangeable, their components are not independent, so that the new structure
    counts as one of witnesses + 1, with errors beyond all that were seen. A level above witnesses/(witnesses + 1) has
    no such guarantee; there the last quantile that has one grows as that of a normal distribution does, and is at
    least the largest size seen. `sizes` are |error|/std.
    """
    ordered, found = np.sort(sizes), []
    last, at = 0.0, 0.0
    for level in LEVELS:
        share = level * (witnesses + 1) / witnesses
        if share <= 1.0:
            place = int(np.ceil(share * len(ordered) - 1e-9))
            last, at = float(ordered[max(0, place - 1)]), level
            found.append(last)
        else:
            grown = last * normal_quantile(level) / normal_quantile(at) if at else 0.0
            found.append(max(grown, float(ordered[-1])))
    return tuple(np.maximum.accumulate(found).tolist())


@dataclass(frozen=True)
class Calibration:
    """How posterior variances become those of labels: label variance = factor² · latent variance + noise².

    The noise of a label is in eV/atom, eV/Å or eV/Å³; the factor of a kind comes from the residuals of left-out folds,
    1 where there were too few structures to leave any out. A kind that was not fitted has the largest factor of those
    that were (nothing measured its own: rather too cautious than too bold), and noise 0. The shape is that of the kinds
    that `SparseGP.calibrate` measured.
    """

    factor: Mapping[str, float]
    noise: Mapping[str, float]
    shape: Mapping[str, Shape] = field(default_factory=dict)

    def label(
        self,
        kind: str,
        latent: Float[np.ndarray, "..."],
        scale: float | np.ndarray = 1.0,
        **around: Float[np.ndarray, "..."],
    ) -> Float[np.ndarray, "..."]:
        """Return the label's standard deviation, where the noise is `scale` times that of the kind.

        `around` are the further arguments of `Shape.bend`; energies that come with them are per atom.
        """
        noise = self.noise.get(kind, 0.0) * np.asarray(scale)
        return np.hypot(self.scale(kind) * self.shape.get(kind, NORMAL).bend(latent, **around), noise)

    def scale(self, kind: str) -> float:
        """Return the factor of a kind's posterior standard deviation."""
        return self.factor.get(kind, max(self.factor.values(), default=1.0))


def check_method(method: str) -> None:
    """Refuse a method that does not exist."""
    if method not in METHODS:
        raise ParameterError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")


def calibrated(old: Calibration, errors: Mapping[str, LeftOut], method: str) -> Calibration:
    """Return the calibration with the kinds that these errors tell of measured anew.

    "factor" keeps the noise of each kind and finds the factor beside it; one of `METHODS` finds a floor in place of the
    noise, and a shape. They stay two estimators: beside a given noise the factor is another, by up to a factor of two,
    and entries that are means over folds have no likelihood of single labels.
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

    @classmethod
    def likeliest(cls, residuals: Residuals, method: str, lowest: float, witnesses: int) -> Spreading:
        """Return factor, floor no less than `lowest`, and powers of the greatest likelihood; see `fit_spreading`."""
        step = -(-len(residuals) // MOST)
        some = residuals.take(np.arange(0, len(residuals), step))
        root = float(np.sqrt(np.mean(some.error**2))) + lowest
        latent = np.log(np.maximum(some.latent, TINY))
        centre = float(latent.mean())
        still = np.zeros(len(latent))
        columns = [still, np.ones(len(latent)), latent - centre, still, still]
        bounds = [
            (float(np.log(lowest)), float(np.log(10.0 * root))),
            (-60.0, 60.0),
            (1.0, 1.0),
            (0.0, 0.0),
            (0.0, 0.0),
        ]
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
            return cls(factor, floor, NORMAL)
        factors = dict(zip(elements, np.exp(best[5:]).tolist(), strict=True))
        alpha, beta, delta = (float(best[k]) for k in (2, 3, 4))
        shape = Shape(alpha, beta, delta, typical[0], typical[1], typical[2], elements=factors)
        return cls(factor, floor, shape)


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
    found = Spreading.likeliest(told, method, lowest, witnesses)
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
