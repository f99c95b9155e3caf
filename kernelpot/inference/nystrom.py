"""Gaussian processes through inducing items, with the variational bound of their marginal likelihood."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.inference.covariance import Covariance, Panel
from kernelpot.inference.dense import upward
from kernelpot.inference.evidence import NoiseModel, penalised, split_assign
from kernelpot.inference.inducing import Inducing

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
