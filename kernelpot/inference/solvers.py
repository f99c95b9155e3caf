"""Regularised least squares in a kernel's space, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import LinAlgError, cho_solve, lapack, solve_triangular

from kernelpot.errors import ParameterError
from kernelpot.inference.left_out import LeftOut
from kernelpot.linalg.dense import factorise
from kernelpot.structures.vector_kernel import mirrored

ROUND_OFF = 1e-10
"""Jitter, as a share of the kernel's mean variance and for each sample, that round-off may ask for."""
INDEFINITE = 0.05
"""The largest negative eigenvalue, in the same unit, of kernels that are not positive semidefinite for certain."""
TOLERANCE = 1e-12
"""Share of the largest eigenvalue of the inducing items' kernel matrix below which a direction is dropped."""


@dataclass(frozen=True, eq=False)
class Exact:
    """(K + diag(noise))⁻¹ of the training set (Rasmussen and Williams (2006), algorithm 2.1)."""

    factor: Float[np.ndarray, "n n"]  # Lower triangular
    dual: Float[np.ndarray, "n outputs"]  # (K + diag(noise))⁻¹ y
    jitter: float  # What was added to the diagonal beside the noise, so that the matrix is positive definite
    calibrating = slice(None)

    @classmethod
    def fitted(
        cls,
        kernel: Float[np.ndarray, "n n"],
        noise: Float[np.ndarray, " n"],
        y: Float[np.ndarray, "n outputs"],
        *,
        smallest: float | None = None,
        keep: bool = False,
    ) -> Exact:
        """Factorise."""
        require_finite(kernel)
        require_noise(noise)
        kernel = kernel.copy() if keep else kernel
        own = kernel.diagonal().copy()
        jitter = 0.0 if smallest is None else _shift(own, noise, smallest)
        np.fill_diagonal(kernel, own + noise + jitter)
        try:
            factor = _cholesky(kernel)
        except LinAlgError:
            np.fill_diagonal(kernel, own)
            jitter = _round_off(mirrored(kernel), noise)
            np.fill_diagonal(kernel, own + noise + jitter)
            try:
                factor = _cholesky(kernel)
            except LinAlgError:
                raise ParameterError(
                    "the kernel matrix with `alpha` is singular to round-off; raise `alpha`."
                ) from None
        return cls(factor, cho_solve((factor, True), y, check_finite=False), jitter)

    def predict(self, cross: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m outputs"]:
        """Return the predictions, given the kernel between new and training items."""
        return cross @ self.dual

    def variance(self, own: Float[np.ndarray, " m"], cross: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " m"]:
        """Return the posterior variance (eq. 2.26), given k(x, x) and the kernel with the training items."""
        part = solve_triangular(self.factor, cross.T, lower=True, check_finite=False)
        return np.maximum(own - np.einsum("nm,nm->m", part, part), 0.0)

    def inverse(self) -> Float[np.ndarray, "n n"]:
        """Return (K + diag(noise))⁻¹."""
        half = self._half()
        result: np.ndarray = half.T @ half
        return result

    def _half(self) -> Float[np.ndarray, "n n"]:
        """Return the inverse of the factor."""
        return np.tril(lapack.dtrtri(self.factor, lower=1)[0])

    def left_out(self, folds: Int[np.ndarray, " n"] | None = None) -> LeftOut:
        """Return the errors of items without which the prediction was made, alone (eq. 5.12) or with their whole fold.

        Those of a fold F are ((K + diag(noise))⁻¹_FF)⁻¹ (dual)_F; that inverse is their covariance.
        """
        if folds is None:
            half = self._half()
            precision = np.einsum("ij,ij->j", half, half)
            return LeftOut.one_by_one(self.dual / precision[:, None], 1.0 / precision)
        inverse, error, variance = self.inverse(), np.empty_like(self.dual), np.empty(len(self.dual))
        for number in np.unique(folds):
            fold = np.flatnonzero(folds == number)
            block = inverse[np.ix_(fold, fold)]
            error[fold], variance[fold] = np.linalg.solve(block, self.dual[fold]), np.linalg.inv(block).diagonal()
        return LeftOut(error, variance, folds, np.ones(len(folds), dtype=np.int64))


def whitened(own: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m d"]:
    """Return U diag(λ)^(-1/2) without the directions below `TOLERANCE` of the largest, negative ones among them."""
    require_finite(own)
    eigenvalues, vectors = np.linalg.eigh(own)
    kept = eigenvalues > TOLERANCE * eigenvalues[-1]
    if not eigenvalues[-1] > 0.0:
        raise ParameterError("the kernel of the inducing items is zero: nothing can be told apart by it.")
    return np.ascontiguousarray(vectors[:, kept] / np.sqrt(eigenvalues[kept]))


def smallest_eigenvalue(kernel: Float[np.ndarray, "n n"]) -> float:
    """Return the smallest eigenvalue of a symmetric matrix."""
    require_finite(kernel)
    return float(np.linalg.eigvalsh(kernel)[0])


def require_finite(kernel: Float[np.ndarray, "n n"]) -> None:
    """Refuse a matrix with values that are no numbers."""
    if not np.isfinite(kernel).all():
        raise ParameterError("the kernel matrix holds values that are not finite; scale the features down.")


def require_noise(noise: Float[np.ndarray, " n"]) -> None:
    """Refuse noise that no sum with kernel values can hold."""
    if not (noise <= 1e300).all():
        raise ParameterError(
            "`alpha` divided by the smallest `sample_weight` must be at most 1e300; leave such items out."
        )


def _cholesky(kernel: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Return the lower factor, in the memory of the kernel matrix, whose lower triangle survives a failure."""
    # SciPy's solvers want columns together; so seen, it is the upper triangle that is overwritten.
    factor = kernel.T
    factorise(factor)
    return factor


def _shift(own: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"], smallest: float) -> float:
    """Return what noise lacks to twice the size of a negative eigenvalue."""
    shift = max(0.0, -2.0 * smallest - float(noise.min()))
    if shift > 0.0 and -smallest > INDEFINITE * float(own.mean()):
        raise _indefinite(smallest, float(own.mean()))
    return shift


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
