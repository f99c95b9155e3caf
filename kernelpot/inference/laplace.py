"""Laplace's approximation of a binary Gaussian process classifier, for any kernel matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import cholesky, lapack, solve_triangular
from scipy.special import expit

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
    """Mode of the posterior of latent values for labels 0 and 1."""

    slope: Float[np.ndarray, " n"]  # Gradient of the log likelihood, t - π
    third: Float[np.ndarray, " n"]  # Its third derivative, W (2π - 1)
    root: Float[np.ndarray, " n"]  # √W, with W = π (1 - π)
    lower: Float[np.ndarray, "n n"]  # Factor of B = 1 + √W K √W
    evidence: float  # Approximate log marginal likelihood

    def latent(
        self, cross: Float[np.ndarray, "m n"], own: Float[np.ndarray, " m"]
    ) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Return mean and variance of the latent function (Rasmussen and Williams (2006), alg. 3.2, lines 4 to 6)."""
        v = solve_triangular(self.lower, self.root[:, None] * cross.T, lower=True)
        return cross @ self.slope, np.maximum(own - np.sum(v * v, axis=0), 0.0)

    def cotangent(self, kernel: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
        """Return G, symmetric, with ∂ evidence/∂θ = Σ_ij G_ij ∂K_ij/∂θ (Rasmussen and Williams (2006), alg. 5.1).

        Half of it is the explicit dependence on K, the other that of the mode.
        """
        inverse, _ = lapack.dpotri(self.lower, lower=1)
        r = self.root[:, None] * (np.tril(inverse) + np.tril(inverse, -1).T) * self.root
        seen = solve_triangular(self.lower, self.root[:, None] * kernel, lower=True, check_finite=False)
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
        lower = _factor(kernel, root)
        b = root**2 * f + (labels - probability)
        inner = solve_triangular(lower, root * (kernel @ b), lower=True)
        newton = b - root * solve_triangular(lower, inner, lower=True, trans="T")
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
    lower = _factor(kernel, root)
    # 2π - 1 is 1 - 2|slope| where the label is 1, and the negative of it where it is 0.
    third = root**2 * (2.0 * labels - 1.0) * (1.0 - 2.0 * size)
    return Mode(slope, third, root, lower, value - float(np.log(lower.diagonal()).sum()))


def averaged(mean: Float[np.ndarray, " m"], variance: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Return ∫ sigmoid(f) N(f | mean, variance) df (Rasmussen and Williams (2006), eq. 3.25).

    By the trapezoidal rule, exact to 1e-8 up to a standard deviation of 22, where a sigmoid is a step.
    """
    return expit(mean[:, None] + np.sqrt(variance)[:, None] * NODES) @ WEIGHTS


def _objective(a: Float[np.ndarray, " n"], f: Float[np.ndarray, " n"], labels: Float[np.ndarray, " n"]) -> float:
    """Return log p(labels | f) - ½ fᵀK⁻¹f with a = K⁻¹f."""
    signs = 2.0 * labels - 1.0
    return float(-0.5 * (a @ f) - np.logaddexp(0.0, -signs * f).sum())


def _factor(kernel: Float[np.ndarray, "n n"], root: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    inner = root[:, None] * kernel * root
    inner[np.diag_indices_from(inner)] += 1.0
    lower: np.ndarray = cholesky(inner, lower=True, overwrite_a=True, check_finite=False)
    return lower
