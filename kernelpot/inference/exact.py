"""Gaussian processes given labels, by a factor of the covariance of all items; arrays are of NumPy or of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import LinAlgError, lapack, solve_triangular

from kernelpot.errors import DataError, ParameterError
from kernelpot.inference.left_out import LeftOut
from kernelpot.linalg.dense import factorise, mirrored

if TYPE_CHECKING:
    from torch import Tensor

Array = Any

ENTRIES = 20_000_000
"""Kernel values held at a time where rows are streamed."""
ROUND_OFF = 1e-10
"""Jitter, as a share of the kernel's mean variance and for each sample, that round-off may ask for."""
JITTERS = (0.0, 1e-12, 1e-10, 1e-8, 1e-6)
"""What is added to the diagonal, in units of its mean, until a factorisation in a search succeeds."""
INDEFINITE = 0.05
"""The largest negative eigenvalue, in the same unit, of kernels that are not positive semidefinite for certain."""

NOT_FINITE = (
    "the kernel matrix holds values that are not finite; check for features or structures whose kernel overflows, and "
    "scale the features down."
)
NO_FACTOR = (
    '`left_out` needs the factor of an exact process: n_inducing=None, and of a GP solver="cholesky"; or use '
    "cross_val_predict."
)


class Prior(Protocol):
    """Covariance before any label, of training items and of new ones with them."""

    def __len__(self) -> int:
        """Count the training items."""

    def cross(self, new: Any) -> Float[Array, "m n"]:
        """Return the covariance of new items with the training items."""

    def own(self, new: Any) -> Float[Array, " m"]:
        """Return the variances of new items."""

    def square(self, new: Any) -> Float[Array, "m m"]:
        """Return the covariance of new items among themselves."""

    def runs(self, new: Any) -> Iterator[Any]:
        """Cut new items into as many as are worth holding with their covariance."""


class Conditioned(Protocol):
    """A Gaussian process given labels, however it is computed: of the function itself, without the noise of a label."""

    @property
    def prior(self) -> Any:
        """The process before, of the items that its means are sums over."""

    def mean(self, new: Any) -> Float[np.ndarray, "m outputs"]:
        """Return the means at new items."""

    def variance(self, new: Any) -> Float[np.ndarray, " m"]:
        """Return the variances at new items, which all outputs share."""

    def covariance(self, new: Any) -> Float[np.ndarray, "m m"]:
        """Return the joint covariance of new items."""

    def left_out(self, folds: Int[np.ndarray, " n"] | None = None) -> LeftOut:
        """Return the errors of labels given all others, or those of other folds."""

    def log_evidence(self) -> float:
        """Return the log marginal likelihood of the labels, all outputs together, or a bound or an estimate of it."""


class KernelPrior:
    """The covariance of items by a kernel that answers in NumPy."""

    def __init__(self, kernel: Any, items: Any) -> None:
        self.kernel, self.items = kernel, items

    def __len__(self) -> int:
        """Count the items."""
        return len(self.items)

    def matrix(self) -> Float[np.ndarray, "n n"]:
        """Return the covariance of the items."""
        found: np.ndarray = self.kernel.matrix(self.items)
        return found

    def cross(self, new: Any) -> Float[np.ndarray, "m n"]:
        """Return the covariance of new items with these."""
        found: np.ndarray = self.kernel.matrix(new, self.items)
        return found

    def own(self, new: Any) -> Float[np.ndarray, " m"]:
        """Return the variances of new items."""
        found: np.ndarray = self.kernel.diagonal(new)
        return found

    def square(self, new: Any) -> Float[np.ndarray, "m m"]:
        """Return the covariance of new items among themselves."""
        found: np.ndarray = self.kernel.matrix(new)
        return found

    def runs(self, new: Any) -> Iterator[Any]:
        """Cut new items into as many as memory allows with their covariance."""
        rows = max(1, ENTRIES // len(self))
        if len(new) <= rows:
            yield new
            return
        for start in range(0, len(new), rows):
            yield new[start : start + rows]


@dataclass(frozen=True, eq=False)
class Factor:
    """L with L Lᵀ = S K S, K the covariance of training labels; what is above its diagonal means nothing."""

    lower: Float[Array, "n n"]
    jitter: float = 0.0  # What was added to the diagonal beside the noise
    scale: Float[np.ndarray, " n"] | None = None  # Diagonal of S where it is not 1; 0 of a label that says nothing

    @classmethod
    def of(cls, assemble: Callable[[], Float[Tensor, "n n"]]) -> Factor:
        """Factorise what `assemble` makes afresh for each try, of which the lower triangle is read and overwritten.

        A search goes through parameters for which round-off leaves a matrix indefinite; a little jitter helps there,
        where `steadied` would look for its cause.
        """
        import torch

        for jitter in JITTERS:
            matrix = assemble()
            mean = float(matrix.diagonal().mean())
            if not np.isfinite(mean):
                raise DataError(NOT_FINITE)
            matrix.diagonal().add_(jitter * mean)
            if matrix.device.type == "cpu":
                try:
                    factorise(matrix.numpy())
                except LinAlgError:
                    continue
                return cls(matrix, jitter * mean)
            lower, code = torch.linalg.cholesky_ex(matrix)
            if not int(code.item()):
                return cls(lower, jitter * mean)
        raise ParameterError(
            "the kernel matrix is not positive definite; set a larger `noise`, or take another kernel."
        )

    @classmethod
    def steadied(
        cls,
        kernel: Float[np.ndarray, "n n"],
        noise: Float[np.ndarray, " n"],
        *,
        smallest: float | None = None,
        keep: bool = False,
    ) -> Factor:
        """Factorise a kernel matrix with noise on its diagonal, in its memory unless it is kept.

        `smallest` is the smallest eigenvalue of a kernel that need not be positive semidefinite; None where it is, but
        for round-off. Where it is negative, the diagonal gets what brings noise and jitter to twice its size: with
        less, directions of which the kernel knows nothing certain would have the largest weights.
        """
        require_finite(kernel)
        require_noise(noise)
        kernel = kernel.copy() if keep else kernel
        own = kernel.diagonal().copy()
        jitter = 0.0
        if smallest is not None:
            jitter = max(0.0, -2.0 * smallest - float(noise.min()))
            if jitter > 0.0 and -smallest > INDEFINITE * float(own.mean()):
                raise _indefinite(smallest, float(own.mean()))
        # SciPy's solvers want columns together; so seen, it is the upper triangle that is overwritten, and the lower
        # one survives a failure.
        lower = kernel.T
        np.fill_diagonal(kernel, own + noise + jitter)
        try:
            factorise(lower)
        except LinAlgError:
            np.fill_diagonal(kernel, own)
            jitter = _round_off(mirrored(kernel), noise)
            np.fill_diagonal(kernel, own + noise + jitter)
            try:
                factorise(lower)
            except LinAlgError:
                raise ParameterError(
                    "the kernel matrix with `alpha` is singular to round-off; raise `alpha`."
                ) from None
        return cls(lower, jitter)

    def half(self, rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return L⁻¹ S rhs."""
        return forward(self.lower, self._scaled(rhs))

    def solve(self, rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return K⁻¹ rhs."""
        return self._scaled(upward(self.lower, self.half(rhs)))

    def _scaled(self, rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
        return rhs if self.scale is None else self.scale[:, None] * rhs

    def explained(self, rhs: Float[Array, "n k"]) -> Float[Array, " k"]:
        """Return bᵀK⁻¹b of each column b."""
        return squares(self.half(rhs))

    def gram(self, rhs: Float[Array, "n k"]) -> Float[Array, "k k"]:
        """Return rhsᵀ K⁻¹ rhs."""
        half = self.half(rhs)
        return half.T @ half

    def inverse(self, *, overwrite: bool = False) -> Float[Array, "n n"]:
        """Return the lower triangle of (S K S)⁻¹, on a CPU in the place of L where that may be overwritten."""
        if isinstance(self.lower, np.ndarray):
            return lapack.dpotri(self.lower, lower=1, overwrite_c=overwrite)[0]
        import torch

        if self.lower.device.type == "cpu":
            # A row-major lower triangle is LAPACK's upper one.
            held = self.lower if overwrite else self.lower.clone()
            return torch.from_numpy(lapack.dpotri(held.numpy().T, lower=0, overwrite_c=1)[0].T)
        return torch.cholesky_inverse(self.lower)

    def log_determinant(self) -> float:
        """Return log |S K S|."""
        diagonal = self.lower.diagonal()
        return 2.0 * float((np.log(diagonal) if isinstance(diagonal, np.ndarray) else diagonal.log()).sum())


class System(Protocol):
    """What solves with the covariance K of training labels."""

    @property
    def jitter(self) -> float:
        """What was added to the diagonal beside the noise."""

    def solve(self, rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Return K⁻¹ rhs."""

    def explained(self, rhs: Float[Array, "n k"]) -> Float[Array, " k"]:
        """Return bᵀK⁻¹b of each column b."""

    def gram(self, rhs: Float[Array, "n k"]) -> Float[Array, "k k"]:
        """Return rhsᵀ K⁻¹ rhs."""

    def inverse(self) -> Float[Array, "n n"]:
        """Return the lower triangle of K⁻¹."""

    def log_determinant(self) -> float:
        """Return log |K|."""


class Exact:
    """The process given labels of all items, without approximation (Rasmussen and Williams (2006), alg. 2.1).

    Either the labels are given or their `dual`, (K + noise)⁻¹ labels; a system that is still to be made is
    when it is first needed.
    """

    def __init__(
        self,
        prior: Prior,
        system: System | Callable[[], System],
        *,
        labels: Float[Array, "n outputs"] | None = None,
        dual: Float[Array, "n outputs"] | None = None,
    ) -> None:
        self.prior, self._system, self._labels = prior, system, labels
        self.dual = self.system.solve(labels) if dual is None else dual

    @cached_property
    def system(self) -> System:
        """What solves with the covariance of the labels."""
        return self._system() if callable(self._system) else self._system

    def mean(self, new: Any) -> Float[np.ndarray, "m outputs"]:
        """Return the means at new items."""
        return np.concatenate([host(self.prior.cross(some) @ self.dual) for some in self.prior.runs(new)])

    def variance(self, new: Any) -> Float[np.ndarray, " m"]:
        """Return the variances at new items (eq. 2.26)."""
        parts = []
        for some in self.prior.runs(new):
            parts.append(host(self.prior.own(some) - self.system.explained(self.prior.cross(some).T)))
        return np.maximum(np.concatenate(parts), 0.0)

    def covariance(self, new: Any) -> Float[np.ndarray, "m m"]:
        """Return the joint covariance of new items."""
        return host(self.prior.square(new) - self.system.gram(self.prior.cross(new).T))

    def left_out(self, folds: Int[np.ndarray, " n"] | None = None) -> LeftOut:
        """Return the errors of labels given all others (eq. 5.12), or those of other folds, with variances of labels.

        Those of a fold F are ((K + noise)⁻¹_FF)⁻¹ (dual)_F; that inverse is their covariance.
        """
        inverse, dual = self.system.inverse(), host(self.dual)
        if folds is None:
            precision = host(inverse.diagonal())
            return LeftOut.one_by_one(dual / precision[:, None], 1.0 / precision)
        return in_folds(host(inverse), dual, folds)

    def log_evidence(self) -> float:
        """Return the log marginal likelihood (alg. 2.1, line 7)."""
        labels = self._labels
        if labels is None and isinstance(self.system, Factor):
            lower = np.tril(self.system.lower)
            labels = lower @ (lower.T @ self.dual)
        return log_density(self.system, self.dual, labels)


def log_density(system: System, dual: Float[Array, "n outputs"], labels: Float[Array, "n outputs"]) -> float:
    """Return the sum over outputs of log N(labels | 0, K), where `dual` is K⁻¹ labels."""
    n, outputs = labels.shape
    volume = system.log_determinant() + n * float(np.log(2.0 * np.pi))
    return -0.5 * float((labels * dual).sum()) - 0.5 * outputs * volume


def in_folds(
    inverse: Float[np.ndarray, "n n"], dual: Float[np.ndarray, "n outputs"], folds: Int[np.ndarray, " n"]
) -> LeftOut:
    """Return errors of labels given those of other folds, from the lower triangle of K⁻¹ and K⁻¹ labels."""
    error, variance = np.empty_like(dual), np.empty(len(dual))
    for number in np.unique(folds):
        fold = np.flatnonzero(folds == number)
        block = mirrored(inverse[np.ix_(fold, fold)])
        error[fold], variance[fold] = np.linalg.solve(block, dual[fold]), np.linalg.inv(block).diagonal()
    return LeftOut(error, variance, folds, np.ones(len(folds), dtype=np.int64))


def host(values: Array) -> np.ndarray:
    """Return an array of NumPy."""
    return values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()


def forward(lower: Float[Array, "n n"], rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Return L⁻¹ rhs."""
    if isinstance(lower, np.ndarray):
        return solve_triangular(lower, rhs, lower=True, check_finite=False)
    import torch

    return torch.linalg.solve_triangular(lower, rhs, upper=False)


def upward(lower: Float[Array, "n n"], rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Return L⁻ᵀ rhs."""
    if isinstance(lower, np.ndarray):
        return solve_triangular(lower, rhs, lower=True, trans="T", check_finite=False)
    import torch

    return torch.linalg.solve_triangular(lower.mT, rhs, upper=True)


def squares(columns: Float[Array, "n k"]) -> Float[Array, " k"]:
    """Return the sum of the squares of each column."""
    if isinstance(columns, np.ndarray):
        return np.einsum("nk,nk->k", columns, columns)
    return columns.square().sum(0)


def smallest_eigenvalue(kernel: Float[np.ndarray, "n n"]) -> float:
    """Return the smallest eigenvalue of a symmetric matrix."""
    require_finite(kernel)
    return float(np.linalg.eigvalsh(kernel)[0])


def require_finite(kernel: Float[np.ndarray, "n n"]) -> None:
    """Refuse a matrix with values that are no numbers."""
    if not np.isfinite(kernel).all():
        raise DataError(NOT_FINITE)


def require_noise(noise: Float[np.ndarray, " n"]) -> None:
    """Refuse noise that no sum with kernel values can hold."""
    if not (noise <= 1e300).all():
        raise ParameterError(
            "`alpha` divided by the smallest `sample_weight` must be at most 1e300; leave such items out."
        )


def _round_off(kernel: Float[np.ndarray, "n n"], noise: Float[np.ndarray, " n"]) -> float:
    """Return what to add to the diagonal so that the smallest eigenvalue is that of round-off above zero."""
    scale = float(kernel.diagonal().mean())
    smallest = float(np.linalg.eigvalsh(kernel)[0])
    jitter = max(0.0, -smallest - float(noise.min())) + 1e-14 * len(kernel) * scale
    if jitter > scale * ROUND_OFF * len(kernel):
        raise _indefinite(smallest, scale)
    return jitter


def _indefinite(smallest: float, scale: float) -> ParameterError:
    return ParameterError(
        f"the kernel matrix must be positive semidefinite, its smallest eigenvalue is {smallest:.3g} at a mean "
        f"variance of {scale:.3g}; raise `alpha` to {-2.0 * smallest:.2g}, or take another kernel."
    )
