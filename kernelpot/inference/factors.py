"""Cholesky factors of large covariance matrices, in place on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import lapack
from torch import Tensor

from kernelpot.errors import DataError
from kernelpot.linalg.dense import factorise

JITTERS = (0.0, 1e-12, 1e-10, 1e-8, 1e-6)
"""What is added to the diagonal, in units of its mean, until the factorisation succeeds."""


def factor(assemble: Callable[[], Float[Tensor, "n n"]]) -> Float[Tensor, "n n"]:
    """Return a lower triangular L with L Lᵀ = K; what is above its diagonal means nothing."""
    for jitter in JITTERS:
        matrix = assemble()
        diagonal = matrix.diagonal()
        mean = float(diagonal.mean())
        if not np.isfinite(mean):
            break
        diagonal += jitter * mean
        lower, failed = _cholesky(matrix)
        if not failed:
            return lower
    raise DataError(
        "the kernel matrix is not positive definite; check for features or structures whose kernel overflows, or "
        "set a larger `noise`."
    )


def inverse(lower: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return the lower triangle of (L Lᵀ)⁻¹; on a CPU it takes the place of L."""
    if lower.device.type == "cpu":
        # A row-major lower triangle is LAPACK's upper one.
        found, _ = lapack.dpotri(lower.numpy().T, lower=0, overwrite_c=1)
        return torch.from_numpy(found.T)
    return torch.cholesky_inverse(lower)


def solve(lower: Float[Tensor, "n n"], rhs: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Return (L Lᵀ)⁻¹ rhs."""
    return upward(lower, forward(lower, rhs))


def forward(lower: Float[Tensor, "n n"], rhs: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Return L⁻¹ rhs."""
    return torch.linalg.solve_triangular(lower, rhs, upper=False)


def upward(lower: Float[Tensor, "n n"], rhs: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Return L⁻ᵀ rhs."""
    return torch.linalg.solve_triangular(lower.mT, rhs, upper=True)


def _cholesky(matrix: Tensor) -> tuple[Tensor, bool]:
    if matrix.device.type == "cpu":
        try:
            factorise(matrix.numpy())
        except np.linalg.LinAlgError:
            return matrix, True
        return matrix, False
    lower, code = torch.linalg.cholesky_ex(matrix)
    return lower, bool(code.item() != 0)
