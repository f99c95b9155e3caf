"""First-order gains of blocks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from kernelpot.design.information import Information

_CHUNK = 1 << 14


def sensitivities(info: Information, slope: Float[np.ndarray, "d d"]) -> Float[np.ndarray, " structures"]:
    """Directional derivative ``tr(S B_sᵀ B_s)`` of every block.

    Parameters
    ----------
    info
        Blocks.
    slope
        S, the positive semidefinite derivative in the information.
    """
    per_row = np.empty(len(info.rows))
    for start in range(0, len(per_row), _CHUNK):
        rows = info.rows[start : start + _CHUNK]
        per_row[start : start + _CHUNK] = np.einsum("rd,rd->r", rows @ slope, rows)
    # Round-off can leave a derivative of zero slightly negative.
    return np.maximum(np.bincount(info.structure, weights=per_row, minlength=len(info)), 0.0)


def squares(info: Information) -> Float[np.ndarray, " structures"]:
    """Trace of ``B_sᵀ B_s`` of every block."""
    per_row = np.einsum("rd,rd->r", info.rows, info.rows)
    return np.bincount(info.structure, weights=per_row, minlength=len(info))
