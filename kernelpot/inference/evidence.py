"""Marginal likelihood of an exact Gaussian process with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.inference.exact import Factor, log_density, upward
from kernelpot.inference.feature_kernels import LARGEST, Parameters
from kernelpot.inference.priors import Covariance, Panel, pieces
from kernelpot.inference.regressors import Inducing

NOISE_CENTRE, NOISE_WIDTH = -7.0, 3.0
"""Prior of the logarithm of the noise's variance, in units of the targets' variance."""

NOISE_FLOOR = 1e-10
"""Least variance of noise that is learned, in units of the targets' variance."""


@dataclass(frozen=True)
class NoiseModel:
    """Variance of the noise: fixed, or the last entry of θ as a logarithm."""

    fixed: float | None = None  # Variance; None: to be found
    unit: float = 1.0  # Variance of the targets

    def variance(self, theta: Float[np.ndarray, " p"]) -> float:
        """Return the variance for these parameters."""
        if self.fixed is not None:
            return self.fixed
        return self.floor + float(np.exp(np.clip(theta[-1], -LARGEST, LARGEST)))

    @property
    def floor(self) -> float:
        """Least variance that is found."""
        return NOISE_FLOOR * self.unit

    @property
    def centre(self) -> float:
        """Centre of the prior of the logarithm."""
        return NOISE_CENTRE + float(np.log(self.unit))

    @property
    def n(self) -> int:
        """Count the parameters."""
        return int(self.fixed is None)


class Objective(Protocol):
    """A function to minimise over θ: the parameters of the kernel, then that of the noise."""

    parameters: Parameters
    noise: NoiseModel

    def __call__(self, theta: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        """Return value and gradient."""


class Evidence:
    """Minus the log marginal likelihood, minus the log prior of θ, summed over outputs that share the kernel.

    With A = K⁻¹Z, T outputs and S = ½ (T K⁻¹ - A Aᵀ), the gradient is Σ_ij S_ij ∂K_ij/∂θ (Rasmussen and Williams
    (2006), eq. 5.9). S is made from the factor; K is differentiated in blocks of rows, so that nothing but one matrix
    is ever of n² numbers.
    """

    def __init__(self, covariance: Covariance, targets: Float[Tensor, "n T"], noise: NoiseModel) -> None:
        self.covariance, self.targets, self.noise = covariance, targets, noise
        self.parameters = covariance.parameters

    def __call__(self, theta: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        """Return value and gradient."""
        split_assign(self, theta)
        variance = self.noise.variance(theta)
        system = Factor.of(lambda: self.covariance.matrix(variance))
        weights = system.solve(self.targets)
        value = -log_density(system, weights, self.targets)
        count = self.targets.shape[1]
        inverted = system.inverse(overwrite=True)

        def cotangent(rows: slice, cols: slice) -> Tensor:
            return 0.5 * (count * inverted[rows, cols] - weights[rows] @ weights[cols].T)

        traced = 0.5 * float(count * inverted.diagonal().sum() - weights.square().sum())
        gradient = pull_back(self.covariance, cotangent)
        return penalised(self, theta, value, gradient, traced)


def pull_back(covariance: Covariance, cotangent: Callable[[slice, slice], Tensor]) -> Float[np.ndarray, " p"]:
    """Return Σ_ij S_ij ∂K_ij/∂θ for a symmetric S, of which blocks of the lower triangle are asked for."""
    parameters = covariance.parameters
    if not parameters.names:
        return np.zeros(0)
    for rows in pieces(len(covariance)):
        weight = cotangent(rows, slice(0, rows.stop))
        # Those left of the diagonal block stand for their mirror images as well.
        weight[:, : rows.start] *= 2.0
        square = weight[:, rows.start :]
        square.copy_(torch.tril(square) + torch.tril(square, -1).T)
        torch.autograd.backward((covariance.block(rows, slice(0, rows.stop)) * weight).sum())
    return parameters.gradient()


def split_assign(objective: Objective, theta: Float[np.ndarray, " p"]) -> None:
    """Give the kernel its part of θ."""
    objective.parameters.assign(theta[: len(theta) - objective.noise.n])


def penalised(
    objective: Objective, theta: Float[np.ndarray, " p"], value: float, gradient: Float[np.ndarray, " k"], traced: float
) -> tuple[float, Float[np.ndarray, " p"]]:
    """Add the prior of θ, and the noise's derivative tr(S) σ² to the gradient."""
    centre, width = prior(objective)
    if objective.noise.n:
        gradient = np.append(gradient, traced * (objective.noise.variance(theta) - objective.noise.floor))
    off = (theta - centre) / width
    return value + 0.5 * float(off @ off), gradient + off / width


def prior(objective: Objective) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Return centres and widths of the prior of θ."""
    centre, width = objective.parameters.centre, objective.parameters.width
    if objective.noise.n:
        return np.append(centre, objective.noise.centre), np.append(width, NOISE_WIDTH)
    return centre, width


JITTER = 1e-10
"""Share of the mean diagonal that is added to the covariance of inducing items."""


def choose(prior: Covariance, n: int) -> Int[np.ndarray, " m"]:
    """Return items whose prior variance given those before them is largest (Burt, Rasmussen and van der Wilk (2020)).

    It is a Cholesky factorisation with pivots, which ends early where nothing is left.
    """
    matrix = prior.full().cpu().numpy()
    left = matrix.diagonal().copy()
    least = 1e-12 * left.max()
    columns = np.zeros((n, len(left)))
    chosen: list[int] = []
    for k in range(n):
        best = int(np.argmax(left))
        if left[best] <= least:
            break
        column = (matrix[best] - columns[:k, best] @ columns[:k]) / np.sqrt(left[best])
        columns[k] = column
        left = np.maximum(left - column**2, 0.0)
        left[best] = 0.0
        chosen.append(best)
    return np.sort(np.array(chosen))


class Bound:
    """Minus the variational lower bound of the log marginal likelihood, minus the log prior of θ.

    log N(z | 0, Q + σ²I) - tr(K - Q)/2σ² for each output, Q = K_nm K_mm⁻¹ K_mn (Titsias (2009), eq. 9).
    """

    def __init__(self, prior: Covariance, panel: Panel, targets: Float[Tensor, "n T"], noise: NoiseModel) -> None:
        self.prior, self.panel, self.targets, self.noise = prior, panel, targets, noise
        self.parameters = prior.parameters

    def __call__(self, theta: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        """Return value and gradient."""
        split_assign(self, theta)
        variance = torch.tensor(self.noise.variance(theta), dtype=torch.float64, device=self.targets.device)
        variance.requires_grad_(self.noise.n > 0)
        value = -Projection(self.prior, self.panel, self.targets, variance).bound()
        if value.requires_grad:
            torch.autograd.backward(value)
        traced = 0.0 if variance.grad is None else float(variance.grad)
        return penalised(self, theta, float(value.detach()), self.parameters.gradient(), traced)


class Projection:
    """Factors of the projected process: K_mm = L Lᵀ, A = L⁻¹ K_mn / σ, I + A Aᵀ = C Cᵀ, c = C⁻¹ A z / σ."""

    def __init__(self, prior: Covariance, panel: Panel, targets: Float[Tensor, "n T"], variance: Tensor) -> None:
        trend = panel.inducing.items.trend
        among = panel.among() + trend @ trend.T
        eye = torch.eye(len(among), dtype=among.dtype, device=among.device)
        self.lower = torch.linalg.cholesky(among + JITTER * among.diagonal().mean().detach() * eye)
        across = panel.across() + trend @ prior.items.trend.T
        sigma = torch.sqrt(variance)
        self.rows = torch.linalg.solve_triangular(self.lower, across, upper=False) / sigma
        self.inner = torch.linalg.cholesky(eye + self.rows @ self.rows.T)
        self.weights = torch.linalg.solve_triangular(self.inner, self.rows @ targets, upper=False) / sigma
        self.own = panel.own() + prior.items.trend.square().sum(1)
        self.targets, self.variance = targets, variance

    def bound(self) -> Tensor:
        """Return the lower bound of the log marginal likelihood, all outputs together."""
        n, count = self.targets.shape
        fit = 0.5 * (self.weights.square().sum() - self.targets.square().sum() / self.variance)
        volume = torch.log(self.inner.diagonal()).sum() + 0.5 * n * torch.log(2.0 * np.pi * self.variance)
        unseen = 0.5 * (self.own.sum() / self.variance - self.rows.square().sum())
        return fit - count * (volume + unseen)


def condition(prior: Covariance, panel: Panel, targets: Float[Tensor, "n T"], noise: float) -> Inducing:
    """Return the process of the optimal variational distribution (Titsias (2009), eq. 6)."""
    with torch.no_grad():
        variance = torch.tensor(noise, dtype=torch.float64, device=targets.device)
        found = Projection(prior, panel, targets, variance)
        return inducing(panel.inducing, found.lower, found.inner, found.weights, float(found.bound()))


def inducing(
    prior: Covariance, lower: Float[Tensor, "m m"], inner: Float[Tensor, "m m"], c: Float[Tensor, "m T"], bound: float
) -> Inducing:
    """Return the process of a projection, whose L, C and c these are; the prior is that of inducing items."""
    return Inducing(prior, lower, inner.mT, upward(inner, c), evidence=bound, triangular=True)
