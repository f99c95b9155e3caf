"""Hyper-parameters and posterior of a Gaussian process, by the ways there are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from linear_operator import settings
from linear_operator.operators import AddedDiagLinearOperator, ConstantDiagLinearOperator, DenseLinearOperator
from linear_operator.utils.warnings import NumericalWarning
from scipy.optimize import minimize
from torch import Tensor

from kernelpot.errors import ParameterError
from kernelpot.inference.evidence import Bound, Evidence, NoiseModel, Objective, choose, condition, prior
from kernelpot.inference.exact import NO_FACTOR, Conditioned, Exact, Factor, System
from kernelpot.inference.priors import Covariance
from kernelpot.linalg.devices import calm
from kernelpot.rules import whole

STEPS = 200
"""Most steps on a subset, or on all where they are few."""


@dataclass(frozen=True)
class Ascent:
    """What a search ended with."""

    theta: Float[np.ndarray, " p"]  # Parameters
    value: float  # Of the objective
    inverse_hessian: Float[np.ndarray, "p p"]  # As the search has learned it
    evaluations: int  # Count of calls


def climb(objective: Objective, start: Float[np.ndarray, " p"], *, evaluations: int = STEPS) -> Ascent:
    """Minimise from one point by L-BFGS (Byrd, Lu, Nocedal and Zhu (1995))."""
    call: Callable[[np.ndarray], tuple[float, np.ndarray]] = objective
    options: Any = {"maxfun": evaluations, "maxiter": evaluations, "maxcor": 20}
    done: Any = minimize(call, start, jac=True, method="L-BFGS-B", options=options)
    return Ascent(done.x, float(done.fun), done.hess_inv.todense(), int(done.nfev))


def best_of(objective: Objective, starts: int, rng: np.random.Generator) -> Ascent:
    """Minimise from the parameters as they are, then from the prior's centre, then from draws of the prior."""
    centre, width = prior(objective)
    now = objective.parameters.values()
    first = np.append(now, centre[len(now) :])
    points = [first] if np.array_equal(first, centre) else [first, centre]
    while len(points) < starts:
        # Lengths and amplitudes of one kind move together: a point far from all others is no start.
        points.append(centre + 0.5 * width * rng.standard_normal(len(centre)))
    found = [climb(objective, point) for point in points[:starts]]
    return min(found, key=lambda one: one.value)


def polish(objective: Objective, found: Ascent, *, scale: float, evaluations: int) -> Ascent:
    """Take a few steps on all items, in coordinates where the subset's curvature, times `scale`, is one.

    Without them the first evaluations would only find the length of a step.
    """
    values, vectors = np.linalg.eigh(found.inverse_hessian / scale)
    root = vectors * np.sqrt(np.clip(values, 1e-12, None))

    def turned(u: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        value, gradient = objective(found.theta + root @ u)
        return value, root.T @ gradient

    best = _Best(turned)
    done = minimize(
        best, np.zeros(len(found.theta)), jac=True, method="L-BFGS-B",
        options={"maxfun": evaluations, "ftol": 1e-7},
    )  # fmt: skip
    return Ascent(found.theta + root @ best.point, best.value, found.inverse_hessian, int(done.nfev))


class _Best:
    """Keep the best point, since a search that is cut short may end on a worse one."""

    def __init__(self, call: Callable[[np.ndarray], tuple[float, np.ndarray]]) -> None:
        self.call, self.value, self.point = call, np.inf, np.zeros(0)

    def __call__(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self.call(u)
        if value < self.value or not self.point.size:
            self.value, self.point = value, u.copy()
        return value, gradient


RANK = 200
"""Rank of the preconditioner."""

PROBES = 32
"""Random vectors that a log-determinant is estimated with."""

ROUGH, FINE = 1e-3, 1e-8
"""Relative residual at which a solve ends: of a log-determinant, of predictions."""

ITERATIONS = 3000
"""Most iterations of a solve."""


class Conjugate:
    """Solves with K + σ² by conjugate gradients of GPyTorch, preconditioned by a pivoted Cholesky factor of rank 200.

    Gardner, Pleiss, Bindel, Weinberger and Wilson (2018).
    """

    jitter = 0.0

    def __init__(self, covariance: Covariance, noise: float, seed: int) -> None:
        self.seed = seed
        self.kernel = DenseLinearOperator(covariance.full())
        diagonal = torch.tensor([noise], dtype=torch.float64, device=self.kernel.device)
        self.operator = AddedDiagLinearOperator(
            self.kernel, ConstantDiagLinearOperator(diagonal, diag_shape=len(covariance))
        )

    def solve(self, rhs: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return (K + σ²)⁻¹ rhs."""
        with torch.no_grad(), _iterating(FINE):
            found = self.operator.solve(rhs)
            left = float((self.operator @ found - rhs).norm() / rhs.norm().clamp_min(1e-300))
        if not left <= 1e-3:
            raise ParameterError(
                f"conjugate gradients left a residual of {left:.1e} after {ITERATIONS} iterations; the noise is too "
                'small for them: take solver="cholesky", or set a larger `noise`.'
            )
        return found

    def explained(self, rhs: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
        """Return bᵀ(K + σ²)⁻¹b of each column b."""
        return (rhs * self.solve(rhs)).sum(0)

    def gram(self, rhs: Float[Tensor, "n k"]) -> Float[Tensor, "k k"]:
        """Return rhsᵀ (K + σ²)⁻¹ rhs."""
        return rhs.T @ self.solve(rhs)

    def inverse(self) -> Float[Tensor, "n n"]:
        """Refuse what only a factor tells."""
        raise ParameterError(NO_FACTOR)

    def log_determinant(self) -> float:
        """Return an estimate of log |K + σ²| by Lanczos quadrature."""
        device = self.kernel.device
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            _iterating(ROUGH),
            settings.num_trace_samples(PROBES),
            settings.max_lanczos_quadrature_iterations(100),
        ):
            torch.manual_seed(self.seed)
            return float(self.operator.logdet())


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
) -> Ascent:
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
