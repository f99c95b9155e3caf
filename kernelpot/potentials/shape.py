"""How the error of a kind of label spreads: what its standard deviation follows, and how its tails fall."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq
from scipy.special import gammaln, ndtr, ndtri, stdtrit

from kernelpot.data.check import HEAVIEST
from kernelpot.errors import ParameterError

ONE = float(ndtr(1.0) - ndtr(-1.0))
"""68.27 %: the share of a normal distribution within one standard deviation."""

LEVELS = tuple(sorted([*(round(0.02 * k, 2) for k in range(1, 50)), ONE, 0.95, 0.99, 0.995, 0.999]))
"""Shares of labels at which the size of the error is kept, in standard deviations."""

FEWEST_DEGREES, NORMAL_DEGREES = 1.5, 1e4
"""Degrees of freedom of Student's t: fewest, and those beyond which it is taken for a normal distribution."""


@dataclass(frozen=True)
class Shape:
    """Spread of one kind's errors, measured on labels that the model did not see.

    The latent standard deviation l of a label is bent before it is multiplied: l (l/l₀)^(α-1) (u/u₀)^β (v/v₀)^δ γ_Z.
    The scarcity u is the root mean square standard deviation of the local energies around the atom (for an energy, of
    all atoms), the strangeness v of the structure is the standard deviation of its energy over √N, and Z is the atom's
    element. α = 1, β = δ = 0 and γ = 1 leave it as it is.

    Attributes
    ----------
    latent_power, scarcity_power, strangeness_power
        α, β and δ.
    latent, scarcity, strangeness
        Typical values l₀ (unit of the kind), u₀ and v₀ (eV).
    elements
        γ of each element, by atomic number; 1 for the others.
    quantiles
        |error|/std that the share `LEVELS` of labels stays below; that at 68.27 % is one. Empty: a normal distribution.
    """

    latent_power: float = 1.0
    scarcity_power: float = 0.0
    strangeness_power: float = 0.0
    latent: float = 1.0
    scarcity: float = 1.0
    strangeness: float = 1.0
    quantiles: tuple[float, ...] = ()
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

        Raises
        ------
        ParameterError
            The level does not lie between 0 and 1.
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
        """Make the shape that `settings` describes.

        Raises
        ------
        ValueError
            The values make no sense.
        """
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
    least the largest size seen.

    Parameters
    ----------
    sizes
        |error|/std of labels that were not seen.
    witnesses
        Independent structures that they come from.
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

    Attributes
    ----------
    factor
        Of each kind, from the residuals of left-out folds; 1 where there were too few structures to leave any out.
    noise
        Of a label: eV/atom, eV/Å, eV/Å³; a kind that was not fitted has the largest factor of
        those that were (nothing measured its own: rather too cautious than too bold), and noise 0.
    shape
        Of the kinds that `SparseGP.calibrate` measured: how the latent standard deviation is bent, and the tails.
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
