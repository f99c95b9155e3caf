"""Posterior of an exact Gaussian process."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from kernelpot.inference.covariance import Covariance, Items, pieces
from kernelpot.inference.evidence import log_likelihood
from kernelpot.inference.factors import factor, forward, inverse, solve
from kernelpot.inference.left_out import LeftOut


class Posterior(Protocol):
    """Mean and covariance of the latent function, in units of the targets; all outputs share the covariance."""

    @property
    def prior(self) -> Covariance:
        """Covariance of the training items."""

    @property
    def noise(self) -> float:
        """Variance of a label's noise."""

    @property
    def weights(self) -> Tensor:
        """What means are linear in."""

    @property
    def log_likelihood(self) -> float:
        """Log marginal likelihood, or a lower bound of it."""

    def mean(self, new: Items) -> Float[Tensor, "m T"]:
        """Return the means at new items."""

    def variance(self, new: Items) -> Float[Tensor, " m"]:
        """Return the variances at new items."""

    def covariance(self, new: Items) -> Float[Tensor, "m m"]:
        """Return the joint covariance of new items."""


class ExactPosterior:
    """Posterior by a Cholesky factor (Rasmussen and Williams (2006), alg. 2.1)."""

    def __init__(
        self,
        prior: Covariance,
        targets: Float[Tensor, "n T"],
        noise: float,
        weights: Float[Tensor, "n T"] | None = None,
    ) -> None:
        self.prior, self.targets, self.noise = prior, targets, noise
        self.weights = solve(self.lower, targets) if weights is None else weights

    @cached_property
    def lower(self) -> Float[Tensor, "n n"]:
        """Factor of the covariance with noise."""
        return factor(lambda: self.prior.matrix(self.noise))

    @property
    def log_likelihood(self) -> float:
        """Log marginal likelihood."""
        return log_likelihood(self.lower, self.weights, self.targets)

    def mean(self, new: Items) -> Float[Tensor, "m T"]:
        """Return the means at new items."""
        with torch.no_grad():
            parts = [self.prior.cross(new.take(rows)) @ self.weights for rows in pieces(len(new), len(self.prior))]
        return torch.cat(parts)

    def variance(self, new: Items) -> Float[Tensor, " m"]:
        """Return the variances at new items."""
        with torch.no_grad():
            parts = []
            for rows in pieces(len(new), len(self.prior)):
                some = new.take(rows)
                v = forward(self.lower, self.prior.cross(some).T)
                parts.append(self.prior.own(some) - v.square().sum(0))
        return torch.cat(parts).clamp_min(0.0)

    def covariance(self, new: Items) -> Float[Tensor, "m m"]:
        """Return the joint covariance of new items."""
        with torch.no_grad():
            v = forward(self.lower, self.prior.cross(new).T)
            return self.prior.square(new) - v.T @ v

    def left_out(self) -> LeftOut:
        """Return the errors of labels given all others (Rasmussen and Williams (2006), eq. 5.12)."""
        # The inverse takes the place of the factor, which is needed again.
        precision = inverse(self.lower.clone()).diagonal()
        error = self.weights / precision[:, None]
        return LeftOut.one_by_one(error.cpu().numpy(), 1.0 / precision.cpu().numpy())
