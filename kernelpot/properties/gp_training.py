"""Hyper-parameters and posterior of a Gaussian process, by the ways there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from kernelpot.properties.gp_covariance import Covariance
from kernelpot.properties.gp_evidence import Evidence, NoiseModel, split_assign
from kernelpot.properties.gp_posterior import ExactPosterior, Posterior
from kernelpot.properties.gp_search import STEPS, Found, best_of, polish


@dataclass(frozen=True)
class Plan:
    """How a process is trained; see `kernelpot.GP` for the meanings."""

    n_inducing: int | None
    solver: str
    optimise: bool
    starts: int
    n_warm: int
    full_steps: int
    seed: int


@dataclass(frozen=True, eq=False)
class Trained:
    """A posterior, and how many evaluations on a subset and on all it took."""

    posterior: Posterior
    evaluations: tuple[int, int]


def train(plan: Plan, prior: Covariance, targets: Float[Tensor, "n T"], noise: NoiseModel) -> Trained:
    """Settle the hyper-parameters, then condition on the targets."""
    rng = np.random.default_rng(plan.seed)
    n = len(prior)
    theta, counts = np.append(prior.parameters.values(), [noise.centre] * noise.n), (0, 0)
    if plan.optimise:
        found = _on_subset(plan, prior, targets, noise, rng)
        theta, counts = found.theta, (found.evaluations, 0)
        if n > plan.n_warm:
            whole = Evidence(prior, targets, noise)
            found = polish(whole, found, scale=n / plan.n_warm, evaluations=plan.full_steps)
            theta, counts = found.theta, (counts[0], found.evaluations)
    prior.parameters.assign(theta[: len(theta) - noise.n])
    return Trained(ExactPosterior(prior, targets, noise.variance(theta)), counts)


def _on_subset(
    plan: Plan, prior: Covariance, targets: Float[Tensor, "n T"], noise: NoiseModel, rng: np.random.Generator
) -> Found:
    n = len(prior)
    if n <= plan.n_warm:
        return best_of(Evidence(prior, targets, noise), plan.starts, rng)
    chosen = np.sort(rng.permutation(n)[: plan.n_warm])
    return best_of(Evidence(prior.subset(chosen), targets[chosen], noise), plan.starts, rng)
