"""Laplace's approximation of a binary Gaussian process classifier, for any kernel matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.linalg import cholesky
from scipy.special import expit
from torch import Tensor

from kernelpot.errors import DataError, ParameterError
from kernelpot.inference.evidence import NoiseModel, penalised, pull_back, split_assign
from kernelpot.inference.exact import NOT_FINITE, Factor, host
from kernelpot.inference.left_out import LeftOut
from kernelpot.inference.priors import Covariance

ITERATIONS = 100
"""Most Newton steps."""

TOLERANCE = 1e-10
"""Change of the objective, in nats, at which Newton's method ends."""

MISSED = 1e-3
"""Most that a slope in a file may miss what its latent values say; Newton's method leaves far less."""

NODES = np.linspace(-9.0, 9.0, 401)
"""Where a normal average is summed up, in units of its width."""

WEIGHTS = np.exp(-0.5 * NODES**2) / np.exp(-0.5 * NODES**2).sum()


@dataclass(frozen=True, eq=False)
class Mode:
    """Mode of the posterior of latent values for labels 0 and 1, and the Gaussian there."""

    slope: Float[np.ndarray, " n"]  # Gradient of the log likelihood, t - π
    third: Float[np.ndarray, " n"]  # Its third derivative, W (2π - 1)
    system: Factor  # Of √W (K + W⁻¹) √W = 1 + √W K √W, with W = π (1 - π)
    evidence: float  # Approximate log marginal likelihood

    def cotangent(self, kernel: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
        """Return G, symmetric, with ∂ evidence/∂θ = Σ_ij G_ij ∂K_ij/∂θ (Rasmussen and Williams (2006), alg. 5.1).

        Half of it is the explicit dependence on K, the other that of the mode.
        """
        inverse, root = self.system.inverse(), np.asarray(self.system.scale)
        r = root[:, None] * (np.tril(inverse) + np.tril(inverse, -1).T) * root
        seen = self.system.half(kernel)
        moved = 0.5 * (kernel.diagonal() - np.sum(seen * seen, axis=0)) * self.third
        implicit = np.outer(moved - r @ (kernel @ moved), self.slope)
        explicit: np.ndarray = 0.5 * (np.outer(self.slope, self.slope) - r)
        return explicit + 0.5 * (implicit + implicit.T)


def find_mode(kernel: Float[np.ndarray, "n n"], labels: Float[np.ndarray, " n"]) -> Mode:
    """Find the mode by Newton's method (Rasmussen and Williams (2006), alg. 3.1).

    A step that lowers the objective is halved; the objective is concave, so that this ends.
    """
    a = np.zeros(len(labels))
    f = np.zeros(len(labels))
    value = _objective(a, f, labels)
    for _ in range(ITERATIONS):
        probability = expit(f)
        root = np.sqrt(probability * (1.0 - probability))
        b = root**2 * f + (labels - probability)
        newton = b - _system(kernel, root).solve((kernel @ b)[:, None])[:, 0]
        step, gained = newton - a, -np.inf
        for _ in range(30):
            trial = a + step
            latent = kernel @ trial
            gained = _objective(trial, latent, labels) - value
            if gained >= 0.0:
                a, f, value = trial, latent, value + gained
                break
            step = 0.5 * step
        if gained < TOLERANCE:
            break
    return _mode(kernel, f, labels, value)


def mode_of(kernel: Float[np.ndarray, "n n"], slope: Float[np.ndarray, " n"]) -> Mode:
    """Return the mode whose slope is known: there f = K times it (Rasmussen and Williams (2006), eq. 3.17)."""
    f = kernel @ slope
    # A slope of exactly zero is that of a probability that has reached its label.
    labels = np.where(slope == 0.0, f, slope) > 0.0
    if not (np.abs(labels - expit(f) - slope) <= MISSED).all():
        raise ValueError("the latent function is not that of the kernel and its items")
    return _mode(kernel, f, labels.astype(float), _objective(slope, f, labels), slope)


def _mode(
    kernel: Float[np.ndarray, "n n"],
    f: Float[np.ndarray, " n"],
    labels: Float[np.ndarray, " n"],
    value: float,
    slope: Float[np.ndarray, " n"] | None = None,
) -> Mode:
    """Return the mode at f, where the objective has this value."""
    slope = labels - expit(f) if slope is None else slope
    size = np.abs(slope)
    root = np.sqrt(size * (1.0 - size))
    system = _system(kernel, root)
    # 2π - 1 is 1 - 2|slope| where the label is 1, and the negative of it where it is 0.
    third = root**2 * (2.0 * labels - 1.0) * (1.0 - 2.0 * size)
    return Mode(slope, third, system, value - 0.5 * system.log_determinant())


def averaged(mean: Float[np.ndarray, " m"], variance: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Return ∫ sigmoid(f) N(f | mean, variance) df (Rasmussen and Williams (2006), eq. 3.25).

    By the trapezoidal rule, exact to 1e-8 up to a standard deviation of 22, where a sigmoid is a step.
    """
    return expit(mean[:, None] + np.sqrt(variance)[:, None] * NODES) @ WEIGHTS


def _objective(a: Float[np.ndarray, " n"], f: Float[np.ndarray, " n"], labels: Float[np.ndarray, " n"]) -> float:
    """Return log p(labels | f) - ½ fᵀK⁻¹f with a = K⁻¹f."""
    signs = 2.0 * labels - 1.0
    return float(-0.5 * (a @ f) - np.logaddexp(0.0, -signs * f).sum())


def _system(kernel: Float[np.ndarray, "n n"], root: Float[np.ndarray, " n"]) -> Factor:
    inner = root[:, None] * kernel * root
    inner[np.diag_indices_from(inner)] += 1.0
    lower: np.ndarray = cholesky(inner, lower=True, overwrite_a=True, check_finite=False)
    return Factor(lower, scale=root)


class LaplaceEvidence:
    """Minus the sum of Laplace's log marginal likelihoods, one for each column of labels, minus the log prior of θ."""

    def __init__(self, covariance: Covariance, labels: Float[np.ndarray, "n C"]) -> None:
        self.covariance, self.labels = covariance, labels
        self.parameters = covariance.parameters
        self.noise = NoiseModel(fixed=0.0)

    def __call__(self, theta: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        """Return value and gradient."""
        split_assign(self, theta)
        kernel = matrix(self.covariance)
        found = [find_mode(kernel, column) for column in self.labels.T]
        summed = torch.as_tensor(
            sum(mode.cotangent(kernel) for mode in found), device=self.covariance.items.trend.device
        )

        def cotangent(rows: slice, cols: slice) -> Tensor:
            return -summed[rows, cols]

        gradient = pull_back(self.covariance, cotangent)
        return penalised(self, theta, -sum(mode.evidence for mode in found), gradient, 0.0)


class Laplace:
    """Latent functions given classes, one for each column of labels, by Gaussians about their modes.

    Rasmussen and Williams (2006), section 3.4.
    """

    def __init__(self, prior: Covariance, modes: Sequence[Mode]) -> None:
        self.prior, self.modes = prior, tuple(modes)

    @classmethod
    def condition(cls, prior: Covariance, labels: Float[np.ndarray, "n C"]) -> Laplace:
        """Find the mode of every column of labels."""
        kernel = matrix(prior)
        return cls(prior, [find_mode(kernel, column) for column in labels.T])

    def moments(self, new: Any) -> tuple[Float[np.ndarray, "m C"], Float[np.ndarray, "m C"]]:
        """Return means and variances of the latent functions (alg. 3.2, lines 4 to 6)."""
        means, variances = [], []
        for some in self.prior.runs(new):
            cross, own = host(self.prior.cross(some)), host(self.prior.own(some))
            means.append(np.stack([cross @ mode.slope for mode in self.modes], axis=1))
            variances.append(np.stack([own - mode.system.explained(cross.T) for mode in self.modes], axis=1))
        return np.concatenate(means), np.maximum(np.concatenate(variances), 0.0)

    def mean(self, new: Any) -> Float[np.ndarray, "m C"]:
        """Return the means of the latent functions."""
        return self.moments(new)[0]

    def variance(self, new: Any) -> Float[np.ndarray, "m C"]:
        """Return the variances of the latent functions, which here differ."""
        return self.moments(new)[1]

    def covariance(self, new: Any) -> Float[np.ndarray, "C m m"]:
        """Return the joint covariance of each latent function."""
        cross, square = host(self.prior.cross(new)), host(self.prior.square(new))
        return np.stack([square - mode.system.gram(cross.T) for mode in self.modes])

    def left_out(self, folds: Int[np.ndarray, " n"] | None = None) -> LeftOut:  # noqa: ARG002
        """Refuse: the mode without a class is that of another fit."""
        raise ParameterError("classes are left out by refits alone; use cross_val_predict.")

    def log_evidence(self) -> float:
        """Return Laplace's approximation of the log marginal likelihood, summed over the latent functions."""
        return float(sum(mode.evidence for mode in self.modes))


def matrix(covariance: Covariance) -> Float[np.ndarray, "n n"]:
    """Return the covariance for NumPy."""
    found: np.ndarray = covariance.full().cpu().numpy()
    if not np.isfinite(found).all():
        raise DataError(NOT_FINITE)
    return found
