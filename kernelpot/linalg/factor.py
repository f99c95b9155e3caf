"""Triangular factors of tall sets of rows, grown by Householder QR without squaring the condition number."""

from __future__ import annotations

from collections.abc import Iterable

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

    Raises
    ------
    numpy.linalg.LinAlgError
        Less than `least` of some direction would be left: hardly anything else knows it, or the rows never were there.
    """
    p = solve_triangular(factor, rows.T, trans="T")
    left = np.eye(len(factor)) - p @ p.T
    smallest = float(np.linalg.eigvalsh(left)[0])
    if smallest < least:
        raise np.linalg.LinAlgError(f"of one direction only a share of {smallest:.1e} would be left")
    return triangle(np.linalg.cholesky(left).T @ factor)


class RowSink:
    """Takes rows in pieces of any height and keeps no more than one buffer and one triangle of them.

    Parameters
    ----------
    d
        Columns.
    buffer
        Rows to collect before each factorisation; three times d wastes a third of the work and no more.
    device
        Device of PyTorch to factorise on; None: LAPACK.
    """

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
