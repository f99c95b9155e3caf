"""The one place where stresses and virials are brought to kernelpot's sign and order.

Everywhere else a stress is (6,) in eV/Å³, in ASE's Voigt order xx yy zz yz xz xy; positive means tensile.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from kernelpot.units import VOIGT

_ROWS, _COLUMNS = np.array(VOIGT).T
_ASYMMETRY = 1e-3


def to_voigt(tensor: np.ndarray) -> Float[np.ndarray, " 6"]:
    """Bring a symmetric tensor to ASE's Voigt order.

    Parameters
    ----------
    tensor
        Shape (6,) in ASE's Voigt order already, or (3, 3), or (9,) row by row.

    Raises
    ------
    ValueError
        If the shape is another one, or the tensor differs from its transpose by more than a thousandth of its
        largest component (and 1e-6 in its units); smaller differences are averaged.
    """
    if tensor.shape == (6,):
        return np.array(tensor, dtype=np.float64)
    if tensor.shape not in ((9,), (3, 3)):
        raise ValueError(f"shape must be (6,), (9,) or (3, 3), found {tensor.shape}")
    full = np.asarray(tensor, dtype=np.float64).reshape(3, 3)
    asymmetry = float(np.abs(full - full.T).max())
    if asymmetry > _ASYMMETRY * float(np.abs(full).max()) + 1e-6:
        raise ValueError(f"tensor must be symmetric, found a difference of {asymmetry:.3g} to its transpose")
    return (0.5 * (full + full.T))[_ROWS, _COLUMNS]


def to_tensor(voigt: Float[np.ndarray, "... 6"]) -> Float[np.ndarray, "... 3 3"]:
    """Expand from ASE's Voigt order to the full symmetric tensor, (..., 6) to (..., 3, 3)."""
    full = np.empty((*voigt.shape[:-1], 3, 3))
    full[..., _ROWS, _COLUMNS] = voigt
    full[..., _COLUMNS, _ROWS] = voigt
    return full


def stress_of_virial(virial: np.ndarray, volume: float) -> np.ndarray:
    """Convert a virial in eV to a stress in eV/Å³: stress = -virial / `volume`, as virial = -dE/dε."""
    return -virial / volume


def virial_of_stress(stress: np.ndarray, volume: float) -> np.ndarray:
    """Convert a stress in eV/Å³ to a virial in eV: virial = -`volume` · stress, as stress = (dE/dε) / V."""
    return -volume * stress
