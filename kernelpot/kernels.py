"""Kernels of two environment vectors, as functions of their dot product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float

from kernelpot.elements.channels import Channels, ElementChannels
from kernelpot.elements.modes import ElementalModes
from kernelpot.errors import ParameterError
from kernelpot.record import WHEN_GIVEN, Between, Positive, Record, Whole

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")
"""Dot products: an array of NumPy, or a tensor of PyTorch."""


class DotKernel(Protocol):
    """A covariance of unit vectors x, z as a function of s = x·z, 1 at s = 1 and amplitude 1."""

    @property
    def amplitude(self) -> float:
        """Prior standard deviation of a local energy, eV."""

    @property
    def centres(self) -> ElementChannels | ElementalModes | None:
        """What elements of centres share; None: environments of different elements learn nothing from each other."""

    @property
    def form(self) -> int | None:
        """1 for x·z and 2 for (x·z)², whose sums have a form of their own in x; else None."""

    def value(self, s: Array) -> Array:
        """k(s) at amplitude 1."""

    def slope(self, s: Array) -> Array:
        """First derivative with respect to s, at amplitude 1."""

    def curvature(self, s: Array) -> Array:
        """Second derivative with respect to s, at amplitude 1."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values."""


FRACTIONAL = "2 is usual; a fractional power has no derivative where two environments are orthogonal"

Amplitude = Annotated[float, Positive(1e-20, 1e20), "eV", "1.0 is usual"]
"""Prior standard deviation of a local energy."""

Centres = Annotated[
    ElementChannels | ElementalModes | None, Channels(), WHEN_GIVEN, "", "ElementChannels.modes(2) is one"
]
"""What the elements of two centres have in common."""


def centre_coupling(kernel: DotKernel, species: tuple[int, ...]) -> Float[np.ndarray, "species species"] | None:
    """Return κ = UᵀU, the columns of U scaled to length 1, so that κ_aa = 1; None where it is the identity."""
    # `Channels` has made channels of elemental modes.
    if not isinstance(kernel.centres, ElementChannels) or len(species) == 1:
        return None
    u = kernel.centres.for_species(species).array
    u = u / np.linalg.norm(u, axis=0)
    return np.clip(u.T @ u, -1.0, 1.0)


def refuse_coupled(kernel: Any, where: str) -> None:
    """Refuse a kernel that couples centres of different elements, where these cannot be."""
    if getattr(kernel, "centres", None) is not None:
        raise ParameterError(
            f"`centres` of a kernel couples the elements of a SparseGP's environments; {where} does not take it, got "
            f"{kernel!r}. Leave `centres` out."
        )


@dataclass(frozen=True)
class DotProduct(Record):
    """k(x, z) = amplitude² (x·z)^zeta for unit vectors x, z (Bartók et al., Phys. Rev. B 87, 184115 (2013), eq. 36).

    Parameters
    ----------
    zeta
        Whole power; 2 is quadratic in the descriptor and, like 1, collapses to a form whose cost does not depend on
        the number of inducing environments.
    amplitude
        Prior standard deviation of a local energy, eV.
    centres
        How much environments of different elements learn from each other: the kernel is multiplied by κ_ab = u_a·u_b of
        the elements a, b of the two centres, u the columns of these channels scaled to length 1
        (``ElementChannels.modes(2, width=2)``). A product of two kernels is one (De, Bartók, Csányi and Ceriotti,
        Phys. Chem. Chem. Phys. 18, 13754 (2016); Willatt, Musil and Ceriotti (2018)). None: nothing, κ is the identity.

    Raises
    ------
    ParameterError
        zeta is not a whole number of at least 1, or the amplitude is not positive.
    """

    zeta: Annotated[int, Whole(1, 16), "", FRACTIONAL] = 2
    amplitude: Amplitude = 1.0
    centres: Centres = None

    @property
    def form(self) -> int | None:
        """Zeta 1 and 2: x·v and xᵀAx."""
        return self.zeta if self.zeta <= 2 else None

    def value(self, s: Array) -> Array:
        """s^zeta, the kernel at amplitude 1 for dot products s."""
        return s**self.zeta if self.zeta != 2 else s * s

    def slope(self, s: Array) -> Array:
        """First derivative with respect to s, at amplitude 1."""
        if self.zeta == 1:
            return s**0
        return 2.0 * s if self.zeta == 2 else self.zeta * s ** (self.zeta - 1)

    def curvature(self, s: Array) -> Array:
        """Second derivative with respect to s, at amplitude 1."""
        if self.zeta == 1:
            return 0.0 * s
        return self.zeta * (self.zeta - 1) * s ** (self.zeta - 2)


@dataclass(frozen=True)
class Gaussian(Record):
    """k(x, z) = amplitude² exp(-|x - z|²/(2 length²)) for unit vectors: amplitude² exp((x·z - 1)/length²).

    The squared exponential (Rasmussen and Williams (2006), eq. 4.9) of environments, local where `DotProduct` is a
    polynomial.

    Parameters
    ----------
    length
        Correlation length between unit vectors, whose distances go from 0 to 2.
    amplitude
        Prior standard deviation of a local energy, eV.
    centres
        How much environments of different elements learn from each other, as in `DotProduct`.

    Raises
    ------
    ParameterError
        The length or the amplitude is not positive.
    """

    length: Annotated[float, Between(1e-3, 1e3), "", "it is a distance of unit vectors, 0.2 to 1 is usual"] = 0.5
    amplitude: Amplitude = 1.0
    centres: Centres = None

    @property
    def form(self) -> int | None:
        """None: sums over inducing environments have no shorter form."""
        return None

    def value(self, s: Array) -> Array:
        """exp((s - 1)/length²), the kernel at amplitude 1 for dot products s."""
        exponent: Any = (s - 1.0) / self.length**2
        result: Array = exponent.exp() if hasattr(exponent, "exp") else np.exp(exponent)
        return result

    def slope(self, s: Array) -> Array:
        """First derivative with respect to s, at amplitude 1."""
        return self.value(s) / self.length**2

    def curvature(self, s: Array) -> Array:
        """Second derivative with respect to s, at amplitude 1."""
        return self.value(s) / self.length**4


@dataclass(frozen=True)
class Linear(Record):
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

    amplitude: Amplitude = 1.0
    normalise: bool = False
