"""Marginal likelihood of an exact Gaussian process with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kernelpot.inference.covariance import Covariance, pieces
from kernelpot.inference.dense import Factor, log_density
from kernelpot.inference.hyperparameters import LARGEST, Parameters

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
