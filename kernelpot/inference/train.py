"""Hyper-parameters and posterior of a Gaussian process, by the ways there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from torch import Tensor

from kernelpot.errors import ParameterError
from kernelpot.inference.covariance import Covariance
from kernelpot.inference.dense import Conditioned, Exact, Factor, System
from kernelpot.inference.evidence import Evidence, NoiseModel
from kernelpot.inference.hyper_search import Found, best_of, polish
from kernelpot.inference.iterative import Conjugate
from kernelpot.inference.nystrom import Bound, choose, condition
from kernelpot.linalg.devices import calm
from kernelpot.rules import whole

SOLVERS = ("cholesky", "cg")

CANDIDATES = 3000
"""Items that inducing ones are chosen from, or twice as many as are wanted."""


Trained = tuple[Conditioned, float, tuple[int, int]]
"""A process given labels, the variance of their noise, and how many evaluations on a subset and on all it took."""


@dataclass(frozen=True)
class Training:
    """How a process is trained; `kernelpot.GP` says what the fields mean."""

    n_inducing: int | None
    solver: str
    optimise: bool
    starts: int
    n_warm: int
    full_steps: int
    seed: int

    def __post_init__(self) -> None:
        if self.n_inducing is not None:
            whole(self.n_inducing, "n_inducing", least=1)
        if not isinstance(self.solver, str) or self.solver not in SOLVERS:
            raise ParameterError(f"`solver` must be one of {', '.join(SOLVERS)}, got {self.solver!r}.")
        if self.solver == "cg" and self.n_inducing is not None:
            raise ParameterError('inducing items need no iterations: leave `solver` "cholesky" or `n_inducing` None.')

    def system(self, prior: Covariance, noise: float) -> System | Callable[[], System]:
        """Return what solves with the covariance of labels, or makes it."""
        if self.solver == "cg":
            return Conjugate(prior, noise, self.seed)
        return partial(Factor.of, partial(prior.matrix, noise))


def train(training: Training, prior: Covariance, targets: Float[Tensor, "n T"], noise: NoiseModel) -> Trained:
    """Settle the hyper-parameters, then condition on the targets."""
    rng = np.random.default_rng(training.seed)
    if training.n_inducing is not None:
        return _inducing(training, prior, targets, noise, rng)
    theta, counts = _start(prior, noise), (0, 0)
    n = len(prior)
    if training.optimise:
        found = _on_subset(training, prior, targets, noise, rng)
        counts = (found.evaluations, 0)
        if n > training.n_warm and training.full_steps and training.solver == "cholesky":
            whole = Evidence(prior, targets, noise)
            found = polish(whole, found, scale=n / training.n_warm, evaluations=training.full_steps)
            counts = (counts[0], found.evaluations)
        theta = found.theta
    _settle(prior, theta, noise)
    variance = noise.variance(theta)
    return Exact(prior, training.system(prior, variance), labels=targets), variance, counts


def _start(prior: Covariance, noise: NoiseModel) -> Float[np.ndarray, " p"]:
    return np.append(prior.parameters.values(), [noise.centre] * noise.n)


def _settle(prior: Covariance, theta: Float[np.ndarray, " p"], noise: NoiseModel) -> None:
    prior.parameters.assign(theta[: len(theta) - noise.n])


def _on_subset(
    training: Training, prior: Covariance, targets: Float[Tensor, "n T"], noise: NoiseModel, rng: np.random.Generator
) -> Found:
    if len(prior) > training.n_warm:
        chosen = np.sort(rng.permutation(len(prior))[: training.n_warm])
        prior, targets = prior.subset(chosen), targets[chosen]
    with calm(len(prior)):
        return best_of(Evidence(prior, targets, noise), training.starts, rng)


def _inducing(
    training: Training, prior: Covariance, targets: Float[Tensor, "n T"], noise: NoiseModel, rng: np.random.Generator
) -> Trained:
    """Choose inducing items by hyper-parameters of a subset, then improve these on all items."""
    n, wanted = len(prior), min(training.n_inducing or 1, len(prior))
    theta, counts, found = _start(prior, noise), (0, 0), None
    if training.optimise:
        found = _on_subset(training, prior, targets, noise, rng)
        theta, counts = found.theta, (found.evaluations, 0)
    _settle(prior, theta, noise)
    candidates = np.sort(rng.permutation(n)[: max(CANDIDATES, 2 * wanted)])
    panel = prior.panel(candidates[choose(prior.subset(candidates), wanted)])
    if found is not None and training.full_steps:
        scale = n / min(n, training.n_warm)
        found = polish(Bound(prior, panel, targets, noise), found, scale=scale, evaluations=training.full_steps)
        theta, counts = found.theta, (counts[0], found.evaluations)
        _settle(prior, theta, noise)
    variance = noise.variance(theta)
    return condition(prior, panel, targets, variance), variance, counts
