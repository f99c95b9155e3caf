"""The worst variance: of any direction of the weights or of the target (E), or of any structure of the target (G).

A maximum has no gradient where it is shared, so the searches improve a p-norm of the variances, which is at most
``q^(1/p)`` times their maximum. The maximum itself is reported and certified: with weights y that sum to one,
``max_k v_k(C) >= Σ_k y_k v_k(C)``, so that the bound of the linear criterion ``tr(V_y C)`` holds for the worst too
(the minimax of Kiefer 1974; Pukelsheim 2006, section 4.9).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular

from kernelpot.design.criteria.base import Criterion, Rows, Tangent
from kernelpot.design.precision import Precision
from kernelpot.errors import ParameterError
from kernelpot.rules import whole

POWER = 16
"""p of the norm."""
TRIES = 24
"""Candidates whose gain is evaluated at every step, those with the largest first-order gain."""


class E(Criterion):
    """Largest variance of any direction, ``λ_max(LᵀCL)``: of the weights (Ehrenfeld 1955) or of the target.

    Parameters
    ----------
    root
        L; the identity for the weights themselves.
    power
        p of the norm ``tr(W^p)^(1/p)`` of ``W = LᵀCL`` that the searches improve.
    """

    name = "E"
    symbol = "λ_max(C)"
    tries = TRIES
    smooth = True

    def __init__(self, root: Float[np.ndarray, "d q"], *, power: int = POWER) -> None:
        root = np.asarray(root, dtype=np.float64)
        if root.ndim != 2 or not root.size or not np.isfinite(root).all():
            raise ParameterError(f"criterion 'E' needs a finite matrix of shape (weights, q), got shape {root.shape}")
        self.root = np.asarray(np.linalg.qr(root.T, mode="r")).T if root.shape[1] > root.shape[0] else root
        self.power = _checked_power(power)

    def _half(self, precision: Precision) -> Float[np.ndarray, "d q"]:
        """``R⁻ᵀ L``, whose Gram matrix is W."""
        return precision.whiten(self.root.T).T

    def value(self, precision: Precision) -> float:
        """``tr(W^p)^(1/p)``."""
        return _norm(np.linalg.svd(self._half(precision), compute_uv=False) ** 2, self.power)

    def shown(self, precision: Precision) -> float:
        """``λ_max(W)``."""
        return float(np.linalg.norm(self._half(precision), ord=2) ** 2)

    def _shares(self, precision: Precision) -> tuple[Float[np.ndarray, "d q"], float, float]:
        """``M = C L (W/φ)^((p-1)/2)``, with φ and ``Σ (w/φ)^(p-1)``."""
        half = self._half(precision)
        left, s, _ = np.linalg.svd(half, full_matrices=False)
        value = _norm(s**2, self.power)
        # half = left diag(s) right: C L right^T (w/φ)^((p-1)/2) = R⁻¹ left diag(s (w/φ)^((p-1)/2)).
        share = (s**2 / value) ** (self.power - 1) if value > 0 else np.zeros_like(s)
        return precision.unwhiten((left * (s * np.sqrt(share))).T), value, float(share.sum())

    def gradient(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """``-C L (W/φ)^(p-1) Lᵀ C``."""
        M, _, _ = self._shares(precision)
        return -(M @ M.T)

    def tangent(self, precision: Precision) -> Tangent:
        """Tangent of the linear criterion with the mixture ``L Y Lᵀ`` of directions, ``Y ~ W^(p-1)``, ``tr Y = 1``."""
        M, value, total = self._shares(precision)
        if value <= 0:
            return Tangent(np.inf, np.zeros_like(precision.factor))
        mixture = float(np.vdot(precision.factor @ M, precision.factor @ M)) / total
        return Tangent(-float(np.log(mixture)), M @ M.T / (total * mixture))

    def gainer(self, precision: Precision) -> Callable[[Rows], float]:
        """``φ(W) - φ(W - Qᵀ G⁻¹ Q)`` with ``Q = B C L``."""
        half = self._half(precision)
        W = half.T @ half
        before = _norm(np.linalg.svd(half, compute_uv=False) ** 2, self.power)

        def gain(rows: Rows) -> float:
            T, lower = precision.beside(rows)
            Z = solve_triangular(lower, T @ half, lower=True)
            return max(before - _matrix_norm(W - Z.T @ Z, self.power), 0.0)

        return gain


class G(Criterion):
    """Largest mean variance of any structure of the target: ``max_t tr(V_t C)``; for single rows the classical G.

    Smith (1918); Kiefer and Wolfowitz (1960).

    Parameters
    ----------
    rows
        Rows of the target, scaled so that ``V_t`` is the sum of ``rowᵀ row`` over those of structure t.
    structure
        Structure number of every row.
    power
        p of the norm ``(Σ_t v_t^p)^(1/p)`` that the searches improve.
    """

    name = "G"
    symbol = "max variance"
    tries = TRIES
    smooth = True

    def __init__(
        self, rows: Float[np.ndarray, "rows d"], structure: Int[np.ndarray, " rows"], *, power: int = POWER
    ) -> None:
        self._rows = np.asarray(rows, dtype=np.float64)
        if self._rows.ndim != 2 or not len(self._rows) or not np.isfinite(self._rows).all():
            raise ParameterError(
                f"criterion 'G' needs finite rows of a target, shape (rows, d), got {self._rows.shape}"
            )
        _, self._structure = np.unique(np.asarray(structure), return_inverse=True)
        self.power = _checked_power(power)

    def _variances(self, T: Float[np.ndarray, "rows k"]) -> Float[np.ndarray, " structures"]:
        """Sum of squares of each structure's rows."""
        return np.bincount(self._structure, weights=np.einsum("rk,rk->r", T, T))

    def value(self, precision: Precision) -> float:
        """``(Σ_t v_t^p)^(1/p)``."""
        return _norm(self._variances(precision.whiten(self._rows)), self.power)

    def shown(self, precision: Precision) -> float:
        """``max_t v_t``."""
        return float(self._variances(precision.whiten(self._rows)).max())

    def _shares(self, precision: Precision) -> tuple[Float[np.ndarray, "d d"], float, float, float]:
        """``Σ_t y_t C V_t C`` with ``y = (v/φ)^(p-1)``, and φ, Σy, Σyv."""
        T = precision.whiten(self._rows)
        v = self._variances(T)
        value = _norm(v, self.power)
        y = (v / value) ** (self.power - 1) if value > 0 else np.zeros_like(v)
        half = precision.unwhiten(T * np.sqrt(y)[self._structure, None])
        return half @ half.T, value, float(y.sum()), float(y @ v)

    def gradient(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """``-Σ_t (v_t/φ)^(p-1) C V_t C``."""
        return -self._shares(precision)[0]

    def tangent(self, precision: Precision) -> Tangent:
        """Tangent of the linear criterion that mixes the structures with weights ``(v_t/φ)^(p-1)``."""
        slope, value, total, weighted = self._shares(precision)
        if value <= 0:
            return Tangent(np.inf, slope)
        return Tangent(-float(np.log(weighted / total)), slope / weighted)

    def gainer(self, precision: Precision) -> Callable[[Rows], float]:
        """``φ(v) - φ(v - |G^(-1/2) B C B_tᵀ|²)``."""
        white = precision.whiten(self._rows)
        v = self._variances(white)
        before = _norm(v, self.power)

        def gain(rows: Rows) -> float:
            T, lower = precision.beside(rows)
            Z = white @ solve_triangular(lower, T, lower=True).T
            return max(before - _norm(v - self._variances(Z), self.power), 0.0)

        return gain


def _norm(values: Float[np.ndarray, " some"], power: int) -> float:
    """p-norm of values that are not negative but for round-off."""
    values = np.maximum(values, 0.0)
    largest = values.max(initial=0.0)
    return float(largest * ((values / largest) ** power).sum() ** (1.0 / power)) if largest > 0 else 0.0


def _matrix_norm(W: Float[np.ndarray, "q q"], power: int) -> float:
    """``tr(W^p)^(1/p)`` of a positive semidefinite matrix; by products for even p, faster than eigenvalues."""
    scale = float(np.linalg.norm(W))
    if power % 2 or scale == 0.0:
        return _norm(np.linalg.eigvalsh(W), power)
    half = np.linalg.matrix_power(W / scale, power // 2)
    return scale * float(np.square(half).sum()) ** (1.0 / power)


def _checked_power(power: int) -> int:
    """Refuse powers for which the norm is none."""
    return whole(power, "power", least=1, most=64, usual="16 is usual")
