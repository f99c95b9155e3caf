"""Gaussian processes by preconditioned conjugate gradients of GPyTorch instead of a factor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from linear_operator import settings
from linear_operator.operators import AddedDiagLinearOperator, ConstantDiagLinearOperator, DenseLinearOperator
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor

from kernelpot.errors import ParameterError
from kernelpot.inference.covariance import Covariance
from kernelpot.inference.dense import NO_FACTOR

RANK = 200
"""Rank of the preconditioner."""

PROBES = 32
"""Random vectors that a log-determinant is estimated with."""

ROUGH, FINE = 1e-3, 1e-8
"""Relative residual at which a solve ends: of a log-determinant, of predictions."""

ITERATIONS = 3000
"""Most iterations of a solve."""


class Conjugate:
    """Solves with K + σ² by conjugate gradients of GPyTorch, preconditioned by a pivoted Cholesky factor of rank 200.

    Gardner, Pleiss, Bindel, Weinberger and Wilson (2018).
    """

    jitter = 0.0

    def __init__(self, covariance: Covariance, noise: float, seed: int) -> None:
        self.seed = seed
        self.kernel = DenseLinearOperator(covariance.full())
        diagonal = torch.tensor([noise], dtype=torch.float64, device=self.kernel.device)
        self.operator = AddedDiagLinearOperator(
            self.kernel, ConstantDiagLinearOperator(diagonal, diag_shape=len(covariance))
        )

    def solve(self, rhs: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return (K + σ²)⁻¹ rhs."""
        with torch.no_grad(), _iterating(FINE):
            found = self.operator.solve(rhs)
            left = float((self.operator @ found - rhs).norm() / rhs.norm().clamp_min(1e-300))
        if not left <= 1e-3:
            raise ParameterError(
                f"conjugate gradients left a residual of {left:.1e} after {ITERATIONS} iterations; the noise is too "
                'small for them: take solver="cholesky", or set a larger `noise`.'
            )
        return found

    def explained(self, rhs: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
        """Return bᵀ(K + σ²)⁻¹b of each column b."""
        return (rhs * self.solve(rhs)).sum(0)

    def gram(self, rhs: Float[Tensor, "n k"]) -> Float[Tensor, "k k"]:
        """Return rhsᵀ (K + σ²)⁻¹ rhs."""
        return rhs.T @ self.solve(rhs)

    def inverse(self) -> Float[Tensor, "n n"]:
        """Refuse what only a factor tells."""
        raise ParameterError(NO_FACTOR)

    def log_determinant(self) -> float:
        """Return an estimate of log |K + σ²| by Lanczos quadrature."""
        device = self.kernel.device
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            _iterating(ROUGH),
            settings.num_trace_samples(PROBES),
            settings.max_lanczos_quadrature_iterations(100),
        ):
            torch.manual_seed(self.seed)
            return float(self.operator.logdet())


@contextmanager
def _iterating(tolerance: float) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # The residual is looked at where it matters.
        warnings.simplefilter("ignore", NumericalWarning)
        for setting in (
            settings.max_cholesky_size(1), settings.min_preconditioning_size(1), settings.max_preconditioner_size(RANK),
            settings.cg_tolerance(tolerance), settings.max_cg_iterations(ITERATIONS),
        ):  # fmt: skip
            stack.enter_context(setting)
        yield
