"""Triangular factors of tall sets of rows, grown by Householder QR without squaring the condition number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack, solve_triangular

from kernelpot.linalg.devices import triangle_on


def triangle(rows: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "rank d"]:
    """Return R with RᵀR = rowsᵀ rows, min(rows, d) rows, upper triangular with a diagonal that is not negative.

    Householder QR, LAPACK's dgeqrf; backward stable column by column (Golub and Van Loan, Matrix Computations,
    4th ed., section 5.2).
    """
    n, d = rows.shape
    if n == 0:
        return np.zeros((0, d))
    work = np.asfortranarray(rows)
    if work is rows or np.shares_memory(work, rows):
        work = work.copy(order="F")
    factor, _, _, info = lapack.dgeqrf(work, lwork=64 * d, overwrite_a=1)
    if info != 0:
        raise np.linalg.LinAlgError(f"QR factorisation failed with LAPACK code {info}; are the rows finite?")
    r = np.triu(factor[: min(n, d)])
    sign = np.where(np.diag(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray(sign[:, None] * r)


def stack(blocks: Iterable[Float[np.ndarray, "rows d"]]) -> Float[np.ndarray, "rank d"]:
    """Return the triangular factor of blocks stacked on top of each other."""
    return triangle(np.concatenate(list(blocks)))


def downdated(
    factor: Float[np.ndarray, "d d"], rows: Float[np.ndarray, "rows d"], *, least: float = 1e-7
) -> Float[np.ndarray, "d d"]:
    """Return R' with R'ᵀR' = RᵀR - rowsᵀ rows, for rows that RᵀR holds.

    With P = R⁻ᵀ rowsᵀ, RᵀR - rowsᵀ rows = Rᵀ(I - PPᵀ)R. An eigenvalue of I - PPᵀ is the share of a direction's
    information that is left; its inverse is what round-off grows by (Stewart, J. Inst. Maths Applics 23, 203 (1979)).
    """
    p = solve_triangular(factor, rows.T, trans="T")
    left = np.eye(len(factor)) - p @ p.T
    smallest = float(np.linalg.eigvalsh(left)[0])
    if smallest < least:
        raise np.linalg.LinAlgError(f"of one direction only a share of {smallest:.1e} would be left")
    return triangle(np.linalg.cholesky(left).T @ factor)


class RowSink:
    """Takes rows in pieces of any height and keeps no more than one buffer and one triangle of them."""

    def __init__(self, d: int, buffer: int | None = None, device: str | None = None) -> None:
        self._device = device
        height = max(1, buffer or 3 * d)
        self._work = np.empty((d + height, d), order="F")
        self._filled = 0
        self.n_rows = 0

    def append(self, rows: Float[np.ndarray, "rows d"]) -> None:
        """Take rows."""
        done = 0
        while done < len(rows):
            room = min(len(self._work) - self._filled, len(rows) - done)
            self._work[self._filled : self._filled + room] = rows[done : done + room]
            self._filled += room
            done += room
            if self._filled == len(self._work):
                self._compress()
        self.n_rows += len(rows)

    def _compress(self) -> None:
        r = self.factor()
        self._work[: len(r)] = r
        self._filled = len(r)

    def compact(self) -> Float[np.ndarray, "rank d"]:
        """Return the rows themselves while they are no more than the columns, else their triangular factor."""
        return self._work[: self._filled].copy() if self.n_rows <= self._work.shape[1] else self.factor()

    def factor(self) -> Float[np.ndarray, "rank d"]:
        """Return the triangular factor of all rows taken so far."""
        rows = self._work[: self._filled]
        return triangle(rows) if self._device is None else triangle_on(self._device, rows)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Weights w ~ N(mean, (RᵀR)⁻¹) given rows B with targets y, both divided by their noise, under the prior N(0, I).

    The prior of some weights may be narrower (`Posterior.prior`); I then stands for its precision.

    [B | y] stacked on [I | 0] has the triangular factor [[R, z], [0, ρ]]; then mean = R⁻¹z, and ρ² is the squared
    misfit |y - B mean|² + |mean|² (Golub and Van Loan, section 5.3; Rasmussen and Williams (2006), eq. 2.8).
    """

    factor: Float[np.ndarray, "d d"]  # R, upper triangular
    target: Float[np.ndarray, " d"]  # z
    misfit: float  # ρ

    @classmethod
    def prior(cls, d: int, roots: Float[np.ndarray, " d"] | None = None) -> Posterior:
        """Return the posterior given nothing: d independent weights with these inverse standard deviations, or 1."""
        return cls(np.eye(d) if roots is None else np.diag(roots), np.zeros(d), 0.0)

    def condition(self, blocks: Sequence[Float[np.ndarray, "rows d_plus_1"]]) -> Posterior:
        """Return the posterior given more blocks [B | y], each divided by its noise; their own factors do as well."""
        return self._from_augmented(triangle(np.concatenate([self._augmented, *blocks])))

    def without(self, rows: Float[np.ndarray, "rows d_plus_1"]) -> Posterior:
        """Return the posterior that never saw these rows [B | y], each divided by its noise."""
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

    def recentred(self, shift: Float[np.ndarray, " d"], roots: Float[np.ndarray, " d"] | float = 1.0) -> Posterior:
        """Return the posterior of v = w - shift given the same rows, where the prior is centred on v = 0, not w = 0.

        With the prior's precision P = diag(roots²), completing the square: |R w - z|² - wᵀPw + vᵀPv has the same R,
        with z' = z - R·shift + R⁻ᵀP·shift.
        """
        weighted = roots**2 * shift
        pulled = solve_triangular(self.factor, weighted, trans="T")
        moved = self.target - self.factor @ shift
        target = moved + pulled
        squared = self.misfit**2 - shift @ weighted - 2.0 * moved @ pulled - pulled @ pulled
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


State = TypeVar("State")


def without_each(start: State, n: int, add: Callable[[State, int, int], State]) -> Iterator[tuple[int, State]]:
    """Yield every item with the state that holds all the others.

    Nothing is ever subtracted: to take a block out of a triangular factor loses the directions that only this block
    knew. Halves of the items are added instead, over and over, so that all states together cost ``log2 n`` times that
    of all items, and ``log2 n`` states are held at a time.
    """
    stack = [(start, 0, n)] if n else []
    while stack:
        outside, first, last = stack.pop()
        if last - first == 1:
            yield first, outside
            continue
        middle = (first + last) // 2
        stack.append((add(outside, first, middle), middle, last))
        stack.append((add(outside, middle, last), first, middle))
