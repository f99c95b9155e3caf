"""Gaussian processes by preconditioned conjugate gradients of GPyTorch instead of a factor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from jaxtyping import Float
from linear_operator import settings
from linear_operator.operators import AddedDiagLinearOperator, ConstantDiagLinearOperator, DenseLinearOperator
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor

from kernelpot.errors import DataError
from kernelpot.inference.covariance import Covariance, Items, pieces

RANK = 200
"""Rank of the preconditioner."""

PROBES = 32
"""Random vectors that a log-determinant is estimated with."""

ROUGH, FINE = 1e-3, 1e-8
"""Relative residual at which a solve ends: of a log-determinant, of predictions."""

ITERATIONS = 3000
"""Most iterations of a solve."""


class Solver:
    """K + σ² with GPyTorch's solves: conjugate gradients, preconditioned by a pivoted Cholesky factor of rank 200.

    Gardner, Pleiss, Bindel, Weinberger and Wilson (2018).
    """

    def __init__(self, covariance: Covariance, noise: float) -> None:
        self.kernel = DenseLinearOperator(covariance.full())
        diagonal = torch.tensor([noise], dtype=torch.float64, device=self.kernel.device)
        self.operator = AddedDiagLinearOperator(
            self.kernel, ConstantDiagLinearOperator(diagonal, diag_shape=len(covariance))
        )

    def solve(self, rhs: Float[Tensor, "n k"], tolerance: float) -> Float[Tensor, "n k"]:
        """Return (K + σ²)⁻¹ rhs."""
        with torch.no_grad(), _iterating(tolerance):
            found = self.operator.solve(rhs)
            left = float((self.operator @ found - rhs).norm() / rhs.norm().clamp_min(1e-300))
        if not left <= 1e-3:
            raise DataError(
                f"conjugate gradients left a residual of {left:.1e} after {ITERATIONS} iterations; the noise is too "
                'small for them: take solver="cholesky", or set a larger `noise`.'
            )
        return found

    def log_likelihood(self, weights: Float[Tensor, "n T"], targets: Float[Tensor, "n T"], seed: int) -> float:
        """Return the log marginal likelihood; the log-determinant is an estimate by Lanczos quadrature."""
        device = targets.device
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            _iterating(ROUGH),
            settings.num_trace_samples(PROBES),
            settings.max_lanczos_quadrature_iterations(100),
        ):
            torch.manual_seed(seed)
            logdet = float(self.operator.logdet())
        n, count = targets.shape
        return -0.5 * float((weights * targets).sum()) - 0.5 * count * (logdet + n * float(np.log(2.0 * np.pi)))


class IterativePosterior:
    """Posterior whose every solve is iterative."""

    def __init__(self, prior: Covariance, targets: Float[Tensor, "n T"], noise: float, seed: int) -> None:
        self.prior, self.targets, self.noise, self._seed = prior, targets, noise, seed
        self.solver = Solver(prior, noise)
        self.weights = self.solver.solve(targets, FINE)

    @property
    def log_likelihood(self) -> float:
        """Estimate of the log marginal likelihood."""
        return self.solver.log_likelihood(self.weights, self.targets, self._seed)

    def mean(self, new: Items) -> Float[Tensor, "m T"]:
        """Return the means at new items."""
        with torch.no_grad():
            parts = [self.prior.cross(new.take(rows)) @ self.weights for rows in pieces(len(new), len(self.prior))]
        return torch.cat(parts)

    def variance(self, new: Items) -> Float[Tensor, " m"]:
        """Return the variances at new items."""
        parts = []
        with torch.no_grad():
            for rows in pieces(len(new), len(self.prior)):
                some = new.take(rows)
                cross = self.prior.cross(some)
                parts.append(self.prior.own(some) - (cross * self.solver.solve(cross.T, FINE).T).sum(1))
        return torch.cat(parts).clamp_min(0.0)

    def covariance(self, new: Items) -> Float[Tensor, "m m"]:
        """Return the joint covariance of new items."""
        with torch.no_grad():
            cross = self.prior.cross(new)
            return self.prior.square(new) - cross @ self.solver.solve(cross.T, FINE)


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
