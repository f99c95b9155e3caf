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
from kernelpot.properties.gp_covariance import Covariance, Items, pieces
from kernelpot.properties.gp_evidence import NoiseModel, prior, pull_back, split_assign
from kernelpot.properties.gp_search import Found

RANK = 200
"""Rank of the preconditioner."""

PROBES = 16
"""Random vectors that a trace is estimated with."""

ROUGH, FINE = 1e-3, 1e-8
"""Relative residual at which a solve ends: of a gradient, of predictions."""

ITERATIONS = 3000
"""Most iterations of a solve."""

FARTHEST = 5.0
"""Longest step of the search in units of the posterior's width."""


class Solver:
    """K + σ² with GPyTorch's solves: conjugate gradients, preconditioned by a pivoted Cholesky factor of rank 200.

    Gardner, Pleiss, Bindel, Weinberger and Wilson (2018).
    """

    def __init__(self, covariance: Covariance, noise: float) -> None:
        matrix = covariance.matrix()
        matrix += torch.tril(matrix, -1).T
        diagonal = torch.tensor([noise], dtype=torch.float64, device=matrix.device)
        self.operator = AddedDiagLinearOperator(
            DenseLinearOperator(matrix), ConstantDiagLinearOperator(diagonal, diag_shape=len(covariance))
        )

    def solve(self, rhs: Float[Tensor, "n k"], tolerance: float) -> Float[Tensor, "n k"]:
        """Return (K + σ²)⁻¹ rhs.

        Raises
        ------
        DataError
            The residual stays above a thousandth.
        """
        with torch.no_grad(), _iterating(tolerance):
            found = self.operator.solve(rhs)
            left = float((self.operator @ found - rhs).norm() / rhs.norm().clamp_min(1e-300))
        if not left <= 1e-3:
            raise DataError(
                f"conjugate gradients left a residual of {left:.1e} after {ITERATIONS} iterations; the noise is too small "
                'for them: take solver="cholesky", or set a larger `noise`.'
            )
        return found

    def log_likelihood(self, weights: Float[Tensor, "n T"], targets: Float[Tensor, "n T"], seed: int) -> float:
        """Return the log marginal likelihood; the log-determinant is an estimate by Lanczos quadrature."""
        device = targets.device
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            _iterating(ROUGH),
            settings.num_trace_samples(2 * PROBES),
            settings.max_lanczos_quadrature_iterations(100),
        ):
            torch.manual_seed(seed)
            logdet = float(self.operator.logdet())
        n, count = targets.shape
        return -0.5 * float((weights * targets).sum()) - 0.5 * count * (logdet + n * float(np.log(2.0 * np.pi)))


def descend(
    covariance: Covariance, targets: Float[Tensor, "n T"], noise: NoiseModel, found: Found, *, scale: float, steps: int,
    seed: int,
) -> Found:  # fmt: skip
    """Take stochastic Newton steps of lengths 1, 1/2, 1/3 … with the curvature that a subset has shown.

    The trace in the gradient is estimated from solves with random signs (Hutchinson (1990)).
    """
    objective = _Stochastic(covariance, targets, noise, np.random.default_rng(seed))
    values, vectors = np.linalg.eigh(found.inverse_hessian / scale)
    root = vectors * np.sqrt(np.clip(values, 1e-12, None))
    theta = found.theta.copy()
    for k in range(steps):
        step = root.T @ objective(theta) / (k + 1)
        theta -= root @ step * min(1.0, FARTHEST / max(float(np.linalg.norm(step)), 1e-300))
    return Found(theta, found.value, found.inverse_hessian, steps)


class _Stochastic:
    """Unbiased gradient of minus the log marginal likelihood, and of minus the log prior."""

    def __init__(
        self, covariance: Covariance, targets: Float[Tensor, "n T"], noise: NoiseModel, rng: np.random.Generator
    ) -> None:
        self.covariance, self.targets, self.noise, self.rng = covariance, targets, noise, rng
        self.parameters = covariance.parameters

    def __call__(self, theta: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        split_assign(self, theta)
        signs = torch.as_tensor(
            self.rng.integers(0, 2, size=(len(self.targets), PROBES)) * 2.0 - 1.0, device=self.targets.device
        )
        count = self.targets.shape[1]
        solver = Solver(self.covariance, self.noise.variance(theta))
        solved = solver.solve(torch.cat([self.targets, signs], dim=1), ROUGH)
        weights, probed = solved[:, :count], solved[:, count:]
        share = count / PROBES

        def cotangent(rows: slice, cols: slice) -> Tensor:
            trace = probed[rows] @ signs[cols].T + signs[rows] @ probed[cols].T
            return 0.25 * share * trace - 0.5 * weights[rows] @ weights[cols].T

        gradient = pull_back(self.covariance, cotangent)
        centre, width = prior(self)
        if self.noise.n:
            traced = 0.5 * float(share * (probed * signs).sum() - weights.square().sum())
            gradient = np.append(gradient, traced * (self.noise.variance(theta) - self.noise.floor))
        return gradient + (theta - centre) / width**2


class IterativePosterior:
    """Posterior whose every solve is iterative.

    Parameters
    ----------
    prior
        Covariance of the training items, its parameters settled.
    targets
        Standardised.
    noise
        Variance.
    seed
        Of the estimate of the log marginal likelihood.
    """

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
