"""What labels make known: information matrices, and the errors that they leave on a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dtpqrt

from kernelpot.design.blocks import KINDS
from kernelpot.design.information import Information
from kernelpot.errors import ParameterError

_CHUNK = 1 << 13


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


def row_variances(rows: Float[np.ndarray, "rows d"], precision: Precision) -> Float[np.ndarray, " rows"]:
    """Posterior variance ``row C rowᵀ`` of every row."""
    result = np.empty(len(rows))
    for first in range(0, len(rows), _CHUNK):
        T = precision.whiten(rows[first : first + _CHUNK])
        result[first : first + _CHUNK] = np.einsum("rd,rd->r", T, T)
    return result


@dataclass(frozen=True, eq=False)
class Aim:
    """Labels to be predicted, kind by kind, by the second moments of their rows in the labels' own units."""

    # For each kind L with ``L Lᵀ`` the mean of rowᵀrow, rows not divided by noise
    roots: Mapping[str, Float[np.ndarray, "d d"]]
    noise: Mapping[str, float]  # Root mean square noise of each kind
    # Mean square that compression took from each kind's rows, in units of their noise squared
    discarded: Mapping[str, float]

    @classmethod
    def of(cls, info: Information) -> Aim:
        """Take what structures are labelled with, best with all rows: a posterior may be smaller than what was cut."""
        roots, noise, discarded = {}, {}, {}
        for code, kind in enumerate(KINDS):
            count = int(info.counts[:, code].sum())
            mine = np.flatnonzero(info.kinds == code)
            if not count:
                continue
            R = np.zeros((0, info.d))
            for start in range(0, len(mine), _CHUNK):
                part = mine[start : start + _CHUNK]
                rows = info.rows[part] * (info.sigma[part] / np.sqrt(count))[:, None]
                R = np.asarray(np.linalg.qr(np.concatenate([R, rows]), mode="r"))
            roots[kind] = R.T
            # Compressed rows of one structure and kind share their noise, so a mean over them is one over labels.
            noise[kind] = float(np.sqrt(np.mean(info.sigma[mine] ** 2))) if len(mine) else float("nan")
            discarded[kind] = float(info.discarded[:, code].sum()) / count
        return cls(roots, noise, discarded)

    def errors(self, precision: Precision) -> dict[str, float]:
        """Root mean square posterior standard deviation of each kind: ``sqrt(tr(V C))``."""
        return {kind: float(np.linalg.norm(precision.whiten(root.T))) for kind, root in self.roots.items()}

    def prior(self) -> dict[str, float]:
        """Root mean square prior standard deviation of each kind."""
        return {kind: float(np.linalg.norm(root)) for kind, root in self.roots.items()}
