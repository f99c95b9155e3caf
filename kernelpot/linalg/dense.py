"""Cholesky factorisation of a large symmetric matrix, in place on the CPU or on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack

from kernelpot.linalg.triangle import Triangle

LAPACK_MOST = 16_000
"""Most rows for LAPACK's own factorisation: in threads it has ended the process at 28,000, not at 20,000."""


@dataclass(frozen=True, eq=False)
class Cholesky:
    """K = L Lᵀ.

    Attributes
    ----------
    lower
        L, as runs of rows or as a tensor; what stands above its diagonal means nothing.
    """

    lower: Any

    @classmethod
    def of(cls, matrix: Any) -> Cholesky:
        """Factorise a triangle, which is overwritten, or a tensor, which is not.

        Raises
        ------
        numpy.linalg.LinAlgError
            It is not positive definite to round-off.
        """
        if isinstance(matrix, Triangle):
            matrix.factorise()
            return cls(matrix)
        import torch

        lower, info = torch.linalg.cholesky_ex(matrix)
        if int(info):
            raise np.linalg.LinAlgError(f"the leading minor of order {int(info)} is not positive")
        return cls(lower)

    def solve(self, b: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return K⁻¹ b."""
        if isinstance(self.lower, Triangle):
            found: np.ndarray = self.lower.backward(self.lower.forward(b[:, None]))[:, 0]
            return found
        import torch

        there = torch.as_tensor(b, device=self.lower.device)[:, None]
        solved: np.ndarray = torch.cholesky_solve(there, self.lower)[:, 0].cpu().numpy()
        return solved

    def half_solve(self, b: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Return L⁻¹ b, whose squared length is bᵀ K⁻¹ b."""
        if isinstance(self.lower, Triangle):
            return self.lower.forward(b)
        import torch

        there = torch.as_tensor(b, device=self.lower.device)
        half: np.ndarray = torch.linalg.solve_triangular(self.lower, there, upper=False).cpu().numpy()
        return half


def factorise(a: Float[np.ndarray, "n n"]) -> None:
    """Overwrite the lower triangle of a symmetric matrix with its factor; what stands above the diagonal stays.

    Parameters
    ----------
    a
        Of float64, contiguous in either order; a failure leaves the lower triangle and the diagonal undefined.

    Raises
    ------
    numpy.linalg.LinAlgError
        It is not positive definite to round-off.
    """
    if len(a) > LAPACK_MOST:
        Triangle.within(a).factorise()
        return
    # A row-major lower triangle is LAPACK's upper one.
    rows = a.flags.c_contiguous
    found, info = lapack.dpotrf(a.T if rows else a, lower=int(not rows), overwrite_a=1, clean=0)
    if info > 0:
        raise np.linalg.LinAlgError(f"the leading minor of order {info} is not positive")
    if not np.shares_memory(found, a):
        a[...] = found.T if rows else found
