"""Regularised least squares in a kernel's space: exactly, or in the space of inducing items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import LinAlgError, cho_solve, lapack, solve_triangular

from kernelpot.design.given import real
from kernelpot.errors import ParameterError
from kernelpot.linalg.dense import factorise
from kernelpot.linalg.factor import RowSink
from kernelpot.properties.vector_kernel import mirrored

ROUND_OFF = 1e-10
"""Jitter, as a share of the kernel's mean variance and for each sample, that round-off may ask for."""
INDEFINITE = 0.05
"""The largest negative eigenvalue, in the same unit, of kernels that are not positive semidefinite for certain."""
TOLERANCE = 1e-12
"""Share of the largest eigenvalue of the inducing items' kernel matrix below which a direction is dropped."""

Folds = Iterable[Int[np.ndarray, " fold"]]
LeftOut = tuple[Float[np.ndarray, "n outputs"], Float[np.ndarray, " n"]]


@dataclass(frozen=True, eq=False)
class Exact:
    """(K + diag(noise))⁻¹ of the training set (Rasmussen and Williams (2006), algorithm 2.1).

    Attributes
    ----------
    factor
        Lower triangular.
    dual
        (K + diag(noise))⁻¹ y.
    jitter
        What was added to the diagonal beside the noise, so that the matrix is positive definite.
    """

    factor: Float[np.ndarray, "n n"]
    dual: Float[np.ndarray, "n outputs"]
    jitter: float

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
        """Factorise.

        Parameters
        ----------
        kernel
            Of the training set, symmetric.
        noise
            Variance of each item.
        y
            What to fit.
        smallest
            Smallest eigenvalue of a kernel that need not be positive semidefinite; None where it is, but for
            round-off. Where it is negative, the diagonal gets what brings noise and jitter to twice its size: with
            less, directions of which the kernel knows nothing certain would have the largest weights.
        keep
            Leave the kernel matrix as it is, instead of factorising in its memory.

        Raises
        ------
        ParameterError
            The matrix is not finite, or further from positive definite than round-off explains, or than `INDEFINITE`
            allows for a kernel that may be so.
        """
        _require_finite(kernel)
        _require_noise(noise)
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

    def left_out(self) -> LeftOut:
        """Return y_i minus its prediction without i, and that prediction's variance with noise (eq. 5.12)."""
        half = self._half()
        precision = np.einsum("ij,ij->j", half, half)
        return self.dual / precision[:, None], 1.0 / precision

    def left_out_folds(self, folds: Folds) -> Float[np.ndarray, "n outputs"]:
        """Return y minus its prediction without its whole fold: ((K + diag(noise))⁻¹_FF)⁻¹ (dual)_F."""
        inverse, result = self.inverse(), np.empty_like(self.dual)
        for fold in folds:
            result[fold] = np.linalg.solve(inverse[np.ix_(fold, fold)], self.dual[fold])
        return result


@dataclass(frozen=True, eq=False)
class Inducing:
    """Weights of the whitened features of inducing items, the subset of regressors (section 8.3.1).

    Attributes
    ----------
    whitening
        U diag(λ)^(-1/2) of the inducing items' kernel matrix: features are φ(x) = k(x, Z) times this.
    factor
        Upper triangular R with RᵀR = I + Σ φφᵀ/noise.
    weights
        Of the features.
    residual, variance_left
        y_i minus its prediction without i, and that prediction's variance with noise, of every training item.
    """

    whitening: Float[np.ndarray, "m d"]
    factor: Float[np.ndarray, "d d"]
    weights: Float[np.ndarray, "d outputs"]
    residual: Float[np.ndarray, "n outputs"]
    variance_left: Float[np.ndarray, " n"]
    jitter = 0.0

    @classmethod
    def fitted(
        cls,
        own: Float[np.ndarray, "m m"],
        diagonal: Float[np.ndarray, " n"],
        blocks: Callable[[], Iterable[Float[np.ndarray, "rows m"]]],
        noise: Float[np.ndarray, " n"],
        y: Float[np.ndarray, "n outputs"],
    ) -> Inducing:
        """Fit by QR of the rows [φ/√noise | y/√noise] on top of the prior's, block by block.

        Parameters
        ----------
        own
            Kernel matrix of the inducing items.
        diagonal
            Kernel of every training item with itself.
        blocks
            Makes the kernel between all training items and the inducing ones in blocks of rows; it is called twice.
        noise
            Variance of each training item.
        y
            What to fit.
        """
        _require_noise(noise)
        whitening = whitened(own)
        d, outputs = whitening.shape[1], y.shape[1]
        sink = RowSink(d + outputs)
        sink.append(np.eye(d, d + outputs))
        start = 0
        for block in blocks():
            part = slice(start, start + len(block))
            scale = 1.0 / np.sqrt(noise[part])[:, None]
            sink.append(np.hstack([block @ whitening, y[part]]) * scale)
            start += len(block)
        triangle = sink.factor()
        factor = np.ascontiguousarray(triangle[:d, :d])
        weights = solve_triangular(factor, triangle[:d, d:])
        residual, variance = np.empty_like(y), np.empty(len(y))
        start = 0
        for block in blocks():
            part = slice(start, start + len(block))
            features = block @ whitening
            half = solve_triangular(factor, features.T, trans="T")
            # 1 - leverage is the share of the label's noise in its own left-out variance.
            share = 1.0 - np.minimum(np.einsum("dr,dr->r", half, half) / noise[part], 1.0 - 1e-12)
            residual[part] = (y[part] - features @ weights) / share[:, None]
            unseen = np.maximum(diagonal[part] - np.einsum("rd,rd->r", features, features), 0.0)
            variance[part] = unseen + noise[part] / share
            start += len(block)
        return cls(whitening, factor, weights, residual, variance)

    def left_out(self) -> LeftOut:
        """Return the errors of left-out items, and their variances with noise; inducing items stay."""
        return self.residual, self.variance_left

    def predict(self, cross: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n outputs"]:
        """Return the predictions, given the kernel between new and inducing items."""
        return cross @ (self.whitening @ self.weights)

    def variance(self, own: Float[np.ndarray, " n"], cross: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " n"]:
        """Return the posterior variance, with what the inducing items cannot see."""
        features = cross @ self.whitening
        half = solve_triangular(self.factor, features.T, trans="T")
        unseen = np.maximum(own - np.einsum("nd,nd->n", features, features), 0.0)
        return unseen + np.einsum("dn,dn->n", half, half)


Fit = Callable[[Float[np.ndarray, " n"], Float[np.ndarray, "n outputs"]], Exact | Inducing]
"""Fits y under the noise of each item."""


def best_alpha(
    fitted: Fit, alphas: Sequence[float], weights: Float[np.ndarray, " n"], y: Float[np.ndarray, "n outputs"]
) -> tuple[float, Exact | Inducing]:
    """Return the alpha whose leave-one-out errors have the smallest weighted mean square, with its fit.

    Parameters
    ----------
    fitted
        Called with the noise alpha/weights and y.
    alphas
        To choose among; those for which the kernel matrix is not positive definite drop out.
    weights
        Of the items.
    y
        What to fit; each output counts in units of its own mean square.

    Raises
    ------
    ParameterError
        The kernel matrix is not positive definite with any alpha.
    """
    if len(alphas) == 1:
        return alphas[0], fitted(_noise(alphas[0], weights), y)
    scale = np.maximum(weights @ y**2, 1e-300)
    best: tuple[float, float, Exact | Inducing] | None = None
    for alpha in alphas:
        try:
            state = fitted(_noise(alpha, weights), y)
        except ParameterError as error:
            refusal = error
            continue
        score = float((weights @ state.left_out()[0] ** 2 / scale).sum())
        if best is None or score < best[0]:
            best = score, alpha, state
    if best is None:
        raise refusal
    return best[1], best[2]


def checked_alphas(alpha: Any) -> list[float]:
    """Return the alphas to choose among as positive numbers.

    Raises
    ------
    ParameterError
        There is none, or one is not a positive number.
    """
    many = isinstance(alpha, np.ndarray) and alpha.ndim > 0
    if not many and (isinstance(alpha, str | bytes) or not isinstance(alpha, Sequence)):
        return [real(alpha, "alpha", above=True)]
    values = [real(value, "alpha", above=True) for value in alpha]
    if not values:
        raise ParameterError("`alpha` must hold at least one number, got none; 1e-6 is usual.")
    return values


def whitened(own: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m d"]:
    """Return U diag(λ)^(-1/2) without the directions below `TOLERANCE` of the largest, negative ones among them.

    Raises
    ------
    ParameterError
        The kernel matrix is not finite, or has no positive eigenvalue.
    """
    _require_finite(own)
    eigenvalues, vectors = np.linalg.eigh(own)
    kept = eigenvalues > TOLERANCE * eigenvalues[-1]
    if not eigenvalues[-1] > 0.0:
        raise ParameterError("the kernel of the inducing items is zero: nothing can be told apart by it.")
    return np.ascontiguousarray(vectors[:, kept] / np.sqrt(eigenvalues[kept]))


def smallest_eigenvalue(kernel: Float[np.ndarray, "n n"]) -> float:
    """Return the smallest eigenvalue of a symmetric matrix.

    Raises
    ------
    ParameterError
        The matrix is not finite.
    """
    _require_finite(kernel)
    return float(np.linalg.eigvalsh(kernel)[0])


def _require_finite(kernel: Float[np.ndarray, "n n"]) -> None:
    """Refuse a matrix with values that are no numbers."""
    if not np.isfinite(kernel).all():
        raise ParameterError("the kernel matrix holds values that are not finite; scale the features down.")


def _noise(alpha: float, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the variance of each item's noise, infinite where it overflows."""
    with np.errstate(over="ignore"):
        return alpha / weights


def _require_noise(noise: Float[np.ndarray, " n"]) -> None:
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
    """Return what noise lacks to twice the size of a negative eigenvalue.

    Raises
    ------
    ParameterError
        The eigenvalue is beyond `INDEFINITE`, and noise alone does not make up for it.
    """
    shift = max(0.0, -2.0 * smallest - float(noise.min()))
    if shift > 0.0 and -smallest > INDEFINITE * float(own.mean()):
        raise _indefinite(smallest, float(own.mean()))
    return shift


def _round_off(kernel: Float[np.ndarray, "n n"], noise: Float[np.ndarray, " n"]) -> float:
    """Return what to add to the diagonal so that the smallest eigenvalue is that of round-off above zero.

    Raises
    ------
    ParameterError
        It is more than round-off explains.
    """
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
