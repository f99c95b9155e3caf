"""Volumes of confidence ellipsoids: of all weights (D), or of some of them (Ds)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.criteria.base import Batch, Criterion, Rows
from kernelpot.design.precision import Precision
from kernelpot.errors import ParameterError

# ruff: noqa: ARG002 (criteria share signatures, and each uses what it needs)


class D(Criterion):
    """Volume of the confidence ellipsoid: ``log det Λ``, larger is better (Wald 1943)."""

    name = "D"
    symbol = "log det Λ"
    larger_is_better = True
    submodular = True
    roots = ()

    def value(self, precision: Precision) -> float:
        """``log det Λ``."""
        return precision.logdet

    def gradient(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """``C``."""
        return precision.covariance

    def gains(
        self, G: Batch, H: Sequence[Batch] = (), state: Float[np.ndarray, " parts"] | None = None
    ) -> Float[np.ndarray, " blocks"]:
        """``log det G`` (matrix determinant lemma)."""
        return _logdet(G)

    def gainer(self, precision: Precision) -> Callable[[Rows], float]:
        """``log det G``, one block at a time."""
        return lambda rows: _block_logdet(precision, rows)

    def follow(
        self, state: Float[np.ndarray, " parts"], lower: Float[np.ndarray, "r r"], U: Float[np.ndarray, "d r"]
    ) -> Float[np.ndarray, " parts"]:
        """Add ``log det G``."""
        return state + 2.0 * float(np.log(np.diag(lower)).sum())

    def log_size(self, d: int) -> float:
        """d: ψ is the geometric mean of the eigenvalues.

        The tangent is ``log det N <= log det Λ + d log(tr(CN)/d)``, from the means of the eigenvalues.
        """
        return float(d)


class Ds(Criterion):
    """Volume of the confidence ellipsoid of some weights: ``-log det C_SS``, larger is better.

    The others are nuisance: ``-log det C_SS = log det Λ - log det Λ_NN`` (Kiefer 1961; Atkinson, Donev and Tobias 2007,
    section 10.3). Both determinants come from one triangular factor with the nuisance weights first.

    Parameters
    ----------
    weights
        Numbers of the weights S that matter, such as one element's.
    d
        Number of all weights.

    Raises
    ------
    ParameterError
        If a number is not in [0, d), repeated, or there is none.
    """

    name = "Ds"
    symbol = "-log det C_SS"
    larger_is_better = True

    def __init__(self, weights: Sequence[int] | Int[np.ndarray, " some"], d: int) -> None:
        chosen = np.asarray(weights)
        if chosen.dtype.kind not in "iu" or chosen.ndim != 1 or not len(chosen):
            raise ParameterError(f"criterion 'Ds' needs the numbers of the weights that matter, got {weights!r}")
        if len(np.unique(chosen)) < len(chosen) or not 0 <= chosen.min() <= chosen.max() < d:
            raise ParameterError(f"criterion 'Ds' needs different weights in [0, {d}), got {chosen.tolist()}")
        self._chosen = np.sort(chosen.astype(np.int64))
        self._nuisance = np.setdiff1d(np.arange(d), self._chosen)

    def _parts(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """Triangular factor with the nuisance weights first."""
        order = np.concatenate([self._nuisance, self._chosen])
        return np.asarray(np.linalg.qr(precision.factor[:, order], mode="r"))

    def value(self, precision: Precision) -> float:
        """``-log det C_SS``."""
        corner = np.diag(self._parts(precision))[len(self._nuisance) :]
        return float(2.0 * np.log(np.abs(corner)).sum())

    def gradient(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """``C - [Λ_NN⁻¹ 0; 0 0]``: the part of C that is not known from the nuisance alone."""
        k = len(self._nuisance)
        slope = precision.covariance.copy()
        if k:
            nuisance = Precision(self._parts(precision)[:k, :k])
            slope[np.ix_(self._nuisance, self._nuisance)] -= nuisance.covariance
        return slope

    def gainer(self, precision: Precision) -> Callable[[Rows], float]:
        """``log det(I + B C Bᵀ) - log det(I + B_N Λ_NN⁻¹ B_Nᵀ)``."""
        k = len(self._nuisance)
        if not k:
            return lambda rows: _block_logdet(precision, rows)
        nuisance = Precision(self._parts(precision)[:k, :k])
        return lambda rows: max(_block_logdet(precision, rows) - _block_logdet(nuisance, rows[:, self._nuisance]), 0.0)

    def log_size(self, d: int) -> float:
        """``|S|``."""
        return float(len(self._chosen))


def _logdet(G: Batch) -> Float[np.ndarray, " blocks"]:
    """``log det`` of positive definite matrices."""
    if G.shape[-1] == 1:
        return np.log(G[:, 0, 0])
    try:
        diagonal = np.diagonal(np.linalg.cholesky(G), axis1=1, axis2=2)
    except np.linalg.LinAlgError:  # round-off: G is I or larger
        return np.log(np.maximum(np.linalg.eigvalsh(G), 1.0)).sum(axis=1)
    return 2.0 * np.log(diagonal).sum(axis=1)


def _block_logdet(precision: Precision, rows: Rows) -> float:
    """``log det(I + B C Bᵀ)``."""
    return 2.0 * float(np.log(np.abs(np.diag(precision.beside(rows)[1]))).sum())
