"""The information matrix of a design, kept as a triangular factor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dtpqrt

from kernelpot.errors import ParameterError


@dataclass(frozen=True, eq=False)
class Precision:
    """An information matrix ``Λ = RᵀR``; sums of squares are never formed, for its condition may exceed 1e10.

    Parameters
    ----------
    factor
        R, upper triangular with a positive diagonal up to signs.
    is_prior
        Whether R is I, so that whitening has nothing to do.
    """

    factor: Float[np.ndarray, "d d"]
    is_prior: bool = False

    @classmethod
    def prior(cls, d: int) -> Precision:
        """Information of whitened weights before any label: I."""
        return cls(np.eye(d), is_prior=True)

    def with_rows(self, rows: Float[np.ndarray, "rows d"]) -> Precision:
        """Add the information ``rowsᵀ rows``.

        Parameters
        ----------
        rows
            Rows already divided by their noise.
        """
        d = len(self.factor)
        if rows.ndim != 2 or rows.shape[1] != d:
            raise ParameterError(f"rows of {d} weights are wanted, got an array of shape {rows.shape}")
        R = self.factor
        if len(rows) <= d // 2:  # a triangle and a few rows: no need to factorise the triangle again
            R = dtpqrt(0, max(min(32, d), 1), np.asfortranarray(R), np.asfortranarray(rows))[0]
            return Precision(R)
        step = max(4 * d, 256)  # tall enough for fast QR, short enough not to copy a whole pool
        for start in range(0, len(rows), step):
            R = np.asarray(np.linalg.qr(np.concatenate([R, rows[start : start + step]]), mode="r"))
        return Precision(R)

    @property
    def logdet(self) -> float:
        """Natural logarithm of det Λ."""
        return float(2.0 * np.log(np.abs(np.diag(self.factor))).sum())

    @cached_property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """``C = Λ⁻¹``, symmetric."""
        inverse = solve_triangular(self.factor, np.eye(len(self.factor)), check_finite=False)
        return inverse @ inverse.T

    def whiten(self, rows: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "rows d"]:
        """Return ``T = rows R⁻¹``, so that ``T Tᵀ = rows C rowsᵀ``."""
        if self.is_prior:
            return rows
        return solve_triangular(self.factor, rows.T, trans="T", check_finite=False).T

    def unwhiten(self, T: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "d rows"]:
        """Return ``C rowsᵀ`` of rows that were whitened to T."""
        return solve_triangular(self.factor, T.T, check_finite=False)

    def beside(self, rows: Float[np.ndarray, "rows d"]) -> tuple[Float[np.ndarray, "r d"], Float[np.ndarray, "r r"]]:
        """Return T of a block, made no taller than d, and the Cholesky factor of ``G = I + T Tᵀ``, G never formed."""
        if len(rows) > rows.shape[1]:
            rows = np.asarray(np.linalg.qr(rows, mode="r"))
        T = self.whiten(rows)
        R = np.asarray(np.linalg.qr(np.concatenate([np.eye(len(T)), T.T]), mode="r"))
        return T, (np.where(np.diag(R) < 0, -1.0, 1.0)[:, None] * R).T
