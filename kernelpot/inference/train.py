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
from kernelpot.rules import MOST_SEED, shown, whole

SOLVERS = ("cholesky", "cg")

CANDIDATES = 3000
"""Items that inducing ones are chosen from, or twice as many as are wanted."""


@dataclass(frozen=True)
class Plan:
    """How a process is trained; `kernelpot.GP` says what the fields mean.

    Raises
    ------
    ParameterError
        A field breaks its rule.
    """

    n_inducing: int | None
    solver: str
    optimise: bool
    starts: int
    n_warm: int
    full_steps: int
    seed: int

    def __post_init__(self) -> None:
        names = {"starts": 1, "n_warm": 2, "full_steps": 0} | ({} if self.n_inducing is None else {"n_inducing": 1})
        check_whole(**{name: (getattr(self, name), least) for name, least in names.items()})
        whole(self.seed, "seed", most=MOST_SEED)
        check_switches(optimise=self.optimise)
        if not isinstance(self.solver, str) or self.solver not in SOLVERS:
            raise ParameterError(f"`solver` must be one of {', '.join(SOLVERS)}, got {self.solver!r}.")
        if self.solver == "cg" and self.n_inducing is not None:
            raise ParameterError('inducing items need no iterations: leave `solver` "cholesky" or `n_inducing` None.')

    def system(self, prior: Covariance, noise: float) -> System | Callable[[], System]:
        """Return what solves with the covariance of labels, or makes it."""
        if self.solver == "cg":
            return Conjugate(prior, noise, self.seed)
        return partial(Factor.of, partial(prior.matrix, noise))


def check_whole(**given: tuple[object, int]) -> None:
    """Refuse what is not a whole number, or below its least value."""
    for name, (value, least) in given.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ParameterError(f"`{name}` must be a whole number, at least {least}, got {value!r}.")


def check_switches(**given: object) -> None:
    """Refuse what is neither True nor False."""
    for name, value in given.items():
        if not isinstance(value, bool | np.bool_):
            raise ParameterError(f"`{name}` must be True or False, got {shown(value)}.")


@dataclass(frozen=True, eq=False)
class Trained:
    """A process given labels, the variance of their noise, and how many evaluations on a subset and on all it took."""

    posterior: Conditioned
    noise: float
    evaluations: tuple[int, int]


def train(plan: Plan, prior: Covariance, targets: Float[Tensor, "n T"], noise: NoiseModel) -> Trained:
    """Settle the hyper-parameters, then condition on the targets."""
    rng = np.random.default_rng(plan.seed)
    if plan.n_inducing is not None:
        return _inducing(plan, prior, targets, noise, rng)
    theta, counts = _start(prior, noise), (0, 0)
    n = len(prior)
    if plan.optimise:
        found = _on_subset(plan, prior, targets, noise, rng)
        counts = (found.evaluations, 0)
        if n > plan.n_warm and plan.full_steps and plan.solver == "cholesky":
            whole = Evidence(prior, targets, noise)
            found = polish(whole, found, scale=n / plan.n_warm, evaluations=plan.full_steps)
            counts = (counts[0], found.evaluations)
        theta = found.theta
    _settle(prior, theta, noise)
    variance = noise.variance(theta)
    return Trained(Exact(prior, plan.system(prior, variance), labels=targets), variance, counts)


def _start(prior: Covariance, noise: NoiseModel) -> Float[np.ndarray, " p"]:
    return np.append(prior.parameters.values(), [noise.centre] * noise.n)


def _settle(prior: Covariance, theta: Float[np.ndarray, " p"], noise: NoiseModel) -> None:
    prior.parameters.assign(theta[: len(theta) - noise.n])


def _on_subset(
    plan: Plan, prior: Covariance, targets: Float[Tensor, "n T"], noise: NoiseModel, rng: np.random.Generator
) -> Found:
    if len(prior) > plan.n_warm:
        chosen = np.sort(rng.permutation(len(prior))[: plan.n_warm])
        prior, targets = prior.subset(chosen), targets[chosen]
    with calm(len(prior)):
        return best_of(Evidence(prior, targets, noise), plan.starts, rng)


def _inducing(
    plan: Plan, prior: Covariance, targets: Float[Tensor, "n T"], noise: NoiseModel, rng: np.random.Generator
) -> Trained:
    """Choose inducing items by hyper-parameters of a subset, then improve these on all items."""
    n, wanted = len(prior), min(plan.n_inducing or 1, len(prior))
    theta, counts, found = _start(prior, noise), (0, 0), None
    if plan.optimise:
        found = _on_subset(plan, prior, targets, noise, rng)
        theta, counts = found.theta, (found.evaluations, 0)
    _settle(prior, theta, noise)
    candidates = np.sort(rng.permutation(n)[: max(CANDIDATES, 2 * wanted)])
    panel = prior.panel(candidates[choose(prior.subset(candidates), wanted)])
    if found is not None and plan.full_steps:
        scale = n / min(n, plan.n_warm)
        found = polish(Bound(prior, panel, targets, noise), found, scale=scale, evaluations=plan.full_steps)
        theta, counts = found.theta, (counts[0], found.evaluations)
        _settle(prior, theta, noise)
    variance = noise.variance(theta)
    return Trained(condition(prior, panel, targets, variance), variance, counts)
