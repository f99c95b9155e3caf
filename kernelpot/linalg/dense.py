"""Cholesky factorisation of a large symmetric matrix, in place on the CPU or on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Cholesky:
    """K = L Lᵀ.

    Attributes
    ----------
    lower
        L, of a NumPy array or of a tensor; what stands above its diagonal means nothing.
    """

    lower: Float[Any, "n n"]

    @classmethod
    def of(cls, matrix: Float[Any, "n n"]) -> Cholesky:
        """Factorise a matrix of which the lower triangle is there; an array in C order is overwritten.

        Raises
        ------
        numpy.linalg.LinAlgError
            It is not positive definite to round-off.
        """
        if not isinstance(matrix, np.ndarray):
            import torch

            lower, info = torch.linalg.cholesky_ex(matrix)
            if int(info):
                raise np.linalg.LinAlgError(f"the leading minor of order {int(info)} is not positive")
            return cls(lower)
        from scipy.linalg.lapack import dpotrf

        # Its transpose is the upper triangle in Fortran's order, which LAPACK works on in place.
        upper, info = dpotrf(matrix.T, lower=0, clean=0, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError(f"the leading minor of order {info} is not positive")
        return cls(upper.T)

    def solve(self, b: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return K⁻¹ b."""
        if not isinstance(self.lower, np.ndarray):
            import torch

            there = torch.as_tensor(b, device=self.lower.device)[:, None]
            solved: np.ndarray = torch.cholesky_solve(there, self.lower)[:, 0].cpu().numpy()
            return solved
        from scipy.linalg.lapack import dpotrs

        result: np.ndarray = dpotrs(self.lower.T, b[:, None], lower=0)[0][:, 0]
        return result

    def half_solve(self, b: Float[Any, "n k"]) -> Float[np.ndarray, "n k"]:
        """Return L⁻¹ b, whose squared length is bᵀ K⁻¹ b."""
        if not isinstance(self.lower, np.ndarray):
            import torch

            there = torch.as_tensor(b, device=self.lower.device)
            half: np.ndarray = torch.linalg.solve_triangular(self.lower, there, upper=False).cpu().numpy()
            return half
        from scipy.linalg import solve_triangular

        result: np.ndarray = solve_triangular(self.lower.T, b, trans=1, lower=False, check_finite=False)
        return result
