"""Kernels of two environment vectors, as functions of their dot product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from kernelpot.errors import ParameterError


class Kernel(Protocol):
    """A covariance of unit vectors x, z as a function of s = x·z, 1 at s = 1 and amplitude 1."""

    @property
    def amplitude(self) -> float:
        """Prior standard deviation of a local energy, eV."""

    @property
    def form(self) -> int | None:
        """1 for x·z and 2 for (x·z)², whose sums have a form of their own in x; else None."""

    def value(self, s: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """k(s) at amplitude 1."""

    def slope(self, s: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """First derivative with respect to s, at amplitude 1."""

    def curvature(self, s: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Second derivative with respect to s, at amplitude 1."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values."""


def check_amplitude(amplitude: Any) -> None:
    """Refuse a prior standard deviation that is none.

    Raises
    ------
    ParameterError
        It is not a positive number.
    """
    real = not isinstance(amplitude, bool) and isinstance(amplitude, int | float | np.number)
    if not real or not 1e-20 <= amplitude <= 1e20:
        raise ParameterError(f"`amplitude` must be positive and in eV, 1e-20 to 1e20, got {amplitude!r}; 1.0 is usual.")


@dataclass(frozen=True)
class DotProduct:
    """k(x, z) = amplitude² (x·z)^zeta for unit vectors x, z (Bartók et al., Phys. Rev. B 87, 184115 (2013), eq. 36).

    Parameters
    ----------
    zeta
        Whole power; 2 is quadratic in the descriptor and, like 1, collapses to a form whose cost does not depend on
        the number of inducing environments.
    amplitude
        Prior standard deviation of a local energy, eV.

    Raises
    ------
    ParameterError
        zeta is not a whole number of at least 1, or the amplitude is not positive.
    """

    zeta: int = 2
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.zeta, bool) or not isinstance(self.zeta, int | np.integer) or not 1 <= self.zeta <= 16:
            raise ParameterError(
                f"`zeta` must be a whole number from 1 to 16, got {self.zeta!r}; a fractional power has no derivative "
                "where two environments are orthogonal. 2 is usual."
            )
        check_amplitude(self.amplitude)

    @property
    def form(self) -> int | None:
        """Zeta 1 and 2: x·v and xᵀAx."""
        return int(self.zeta) if self.zeta <= 2 else None

    def value(self, s: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """s^zeta, the kernel at amplitude 1 for dot products s."""
        return s**self.zeta if self.zeta != 2 else s * s

    def slope(self, s: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """First derivative with respect to s, at amplitude 1."""
        if self.zeta == 1:
            return np.ones_like(s)
        return 2.0 * s if self.zeta == 2 else self.zeta * s ** (self.zeta - 1)

    def curvature(self, s: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Second derivative with respect to s, at amplitude 1."""
        if self.zeta == 1:
            return np.zeros_like(s)
        return self.zeta * (self.zeta - 1) * s ** (self.zeta - 2)

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {"name": "DotProduct", "zeta": int(self.zeta), "amplitude": float(self.amplitude)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> DotProduct:
        """Make the kernel that `settings` describes."""
        return cls(int(settings["zeta"]), float(settings["amplitude"]))


@dataclass(frozen=True)
class Gaussian:
    """k(x, z) = amplitude² exp(-|x - z|²/(2 length²)) for unit vectors: amplitude² exp((x·z - 1)/length²).

    The squared exponential (Rasmussen and Williams (2006), eq. 4.9) of environments, local where `DotProduct` is a
    polynomial.

    Parameters
    ----------
    length
        Correlation length between unit vectors, whose distances go from 0 to 2.
    amplitude
        Prior standard deviation of a local energy, eV.

    Raises
    ------
    ParameterError
        The length or the amplitude is not positive.
    """

    length: float = 0.5
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        real = not isinstance(self.length, bool) and isinstance(self.length, int | float | np.number)
        if not real or not 1e-3 <= self.length <= 1e3:
            raise ParameterError(
                f"`length` must be a distance of unit vectors from 0.001 to 1000, got {self.length!r}; 0.2 to 1 is "
                "usual."
            )
        check_amplitude(self.amplitude)

    @property
    def form(self) -> int | None:
        """None: sums over inducing environments have no shorter form."""
        return None

    def value(self, s: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """exp((s - 1)/length²), the kernel at amplitude 1 for dot products s."""
        return np.exp((s - 1.0) / self.length**2)

    def slope(self, s: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """First derivative with respect to s, at amplitude 1."""
        return self.value(s) / self.length**2

    def curvature(self, s: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Second derivative with respect to s, at amplitude 1."""
        return self.value(s) / self.length**4

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {"name": "Gaussian", "length": float(self.length), "amplitude": float(self.amplitude)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Gaussian:
        """Make the kernel that `settings` describes."""
        return cls(float(settings["length"]), float(settings["amplitude"]))


@dataclass(frozen=True)
class Linear:
    """k(x, z) = amplitude² x·z of the vectors themselves: a Bayesian linear model, at finite rank without inducing.

    Vectors are divided by the root mean square length of those that the model is prepared with, one number for each
    centre species, so that the amplitude keeps its meaning (Rasmussen and Williams (2006), section 2.1.1).

    Parameters
    ----------
    amplitude
        Prior standard deviation of a typical local energy, eV.
    normalise
        Take unit vectors instead, as `DotProduct` does: energies then no longer grow with the density of neighbours.

    Raises
    ------
    ParameterError
        The amplitude is not positive.
    """

    amplitude: float = 1.0
    normalise: bool = False

    def __post_init__(self) -> None:
        check_amplitude(self.amplitude)
        if not isinstance(self.normalise, bool):
            raise ParameterError(f"`normalise` must be True or False, got {self.normalise!r}.")

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {"name": "Linear", "amplitude": float(self.amplitude), "normalise": self.normalise}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Linear:
        """Make the kernel that `settings` describes."""
        return cls(float(settings["amplitude"]), bool(settings["normalise"]))


NAMED: dict[str, type[DotProduct] | type[Gaussian] | type[Linear]] = {
    "DotProduct": DotProduct, "Gaussian": Gaussian, "Linear": Linear,
}  # fmt: skip
"""Kernels by the names in their settings."""
