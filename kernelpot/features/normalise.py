"""Unit environment vectors, with their derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numba import njit


def unit(
    vectors: Float[np.ndarray, "atoms f"],
) -> tuple[Float[np.ndarray, "atoms f"], Float[np.ndarray, " atoms"]]:
    """Return x = p/|p| and |p|; the centre's own density keeps |p| above zero."""
    norm = np.sqrt(np.einsum("if,if->i", vectors, vectors))
    return vectors / norm[:, None], norm


def unit_vjp(
    gradient: Float[np.ndarray, "atoms f"], x: Float[np.ndarray, "atoms f"], norm: Float[np.ndarray, " atoms"]
) -> Float[np.ndarray, "atoms f"]:
    """Return dE/dp = (I - x xᵀ) dE/dx / |p|."""
    along = np.einsum("if,if->i", gradient, x)
    result: np.ndarray = (gradient - along[:, None] * x) / norm[:, None]
    return result


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"})
def unit_jacobian(rows: Any, centre: Any, x: Any, norm: Any) -> Any:
    """Turn rows[r, c, f] = dp/d… of centre[r] into dx/d… = (I - x xᵀ) dp/|p|, in place."""
    for r in range(rows.shape[0]):
        i = centre[r]
        scale = 1.0 / norm[i]
        for c in range(rows.shape[1]):
            along = 0.0
            for f in range(rows.shape[2]):
                along += rows[r, c, f] * x[i, f]
            for f in range(rows.shape[2]):
                rows[r, c, f] = scale * (rows[r, c, f] - along * x[i, f])
