"""The Gaussian posterior over weights, held as a triangular factor of its precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from kernelpot.linalg.factor import downdated, triangle


@dataclass(frozen=True, eq=False)
class Posterior:
    """Weights w ~ N(mean, (RᵀR)⁻¹) given rows B with targets y, both divided by their noise, under the prior N(0, I).

    [B | y] stacked on [I | 0] has the triangular factor [[R, z], [0, ρ]]; then mean = R⁻¹z, and ρ² is the squared
    misfit |y - B mean|² + |mean|² (Golub and Van Loan, section 5.3; Rasmussen and Williams (2006), eq. 2.8).

    Attributes
    ----------
    factor
        R, upper triangular.
    target
        z.
    misfit
        ρ.
    """

    factor: Float[np.ndarray, "d d"]
    target: Float[np.ndarray, " d"]
    misfit: float

    @classmethod
    def prior(cls, d: int) -> Posterior:
        """Return the posterior given nothing."""
        return cls(np.eye(d), np.zeros(d), 0.0)

    def condition(self, blocks: Sequence[Float[np.ndarray, "rows d_plus_1"]]) -> Posterior:
        """Return the posterior given more blocks [B | y], each divided by its noise; their own factors do as well."""
        return self._from_augmented(triangle(np.concatenate([self._augmented, *blocks])))

    def without(self, rows: Float[np.ndarray, "rows d_plus_1"]) -> Posterior:
        """Return the posterior that never saw these rows [B | y], each divided by its noise.

        Raises
        ------
        numpy.linalg.LinAlgError
            Hardly anything else tells of some direction, so that digits would be lost.
        """
        return self._from_augmented(downdated(self._augmented, rows))

    @property
    def _augmented(self) -> Float[np.ndarray, "d_plus_1 d_plus_1"]:
        d = len(self.target)
        own = np.zeros((d + 1, d + 1))
        own[:d, :d], own[:d, d], own[d, d] = self.factor, self.target, self.misfit
        return own

    @staticmethod
    def _from_augmented(r: Float[np.ndarray, "d_plus_1 d_plus_1"]) -> Posterior:
        d = len(r) - 1
        return Posterior(np.ascontiguousarray(r[:d, :d]), r[:d, d].copy(), float(r[d, d]))

    def recentred(self, shift: Float[np.ndarray, " d"]) -> Posterior:
        """Return the posterior of v = w - shift given the same rows, where the prior is N(0, I) for v in place of w.

        Completing the square: |R w - z|² - |w|² + |v|² has the same R, with z' = z - R·shift + R⁻ᵀ·shift.
        """
        pulled = solve_triangular(self.factor, shift, trans="T")
        moved = self.target - self.factor @ shift
        target = moved + pulled
        squared = self.misfit**2 - shift @ shift - 2.0 * moved @ pulled - pulled @ pulled
        return Posterior(self.factor, target, float(np.sqrt(max(squared, 0.0))))

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """Mean of the weights."""
        result: np.ndarray = solve_triangular(self.factor, self.target)
        return result

    def project(self, rows: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "rows d"]:
        """Return rows R⁻¹: their products with each other are the posterior covariance of the rows' values."""
        result: np.ndarray = solve_triangular(self.factor, rows.T, trans="T", check_finite=False).T
        return result

    def variance(self, rows: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, " rows"]:
        """Return the posterior variance of each row's value."""
        projected = self.project(rows)
        return np.einsum("rd,rd->r", projected, projected)

    @property
    def log_determinant(self) -> float:
        """Log det of the posterior precision."""
        return float(2.0 * np.sum(np.log(np.diag(self.factor))))

    def log_evidence(self, log_noise: float, n_rows: int) -> float:
        """Return the log marginal likelihood of the labels; `log_noise` is the sum of log σ over all rows.

        Rasmussen and Williams (2006), eq. 2.30, for the weight-space model.
        """
        return -0.5 * (self.misfit**2 + self.log_determinant + n_rows * np.log(2.0 * np.pi)) - log_noise
