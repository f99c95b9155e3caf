"""Cholesky factorisation of a large symmetric matrix, in place on the CPU or on a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack, solve_triangular

from kernelpot.progress import track
from kernelpot.threads import one_blas, share

BLOCK = 1024
"""Columns that are factorised together."""
LAPACK_MOST = 16_000
"""Most rows for LAPACK's own factorisation: in threads it has ended the process at 28,000, not at 20,000."""


@dataclass(frozen=True, eq=False)
class Cholesky:
    """K = L Lᵀ.

    Attributes
    ----------
    lower
        L, of a NumPy array or of a tensor; what stands above its diagonal means nothing.
    """

    lower: Float[Any, "n n"]

    @classmethod
    def of(cls, matrix: Float[Any, "n n"]) -> Cholesky:
        """Factorise a matrix of which the lower triangle is there; an array is overwritten, a tensor is not.

        Raises
        ------
        numpy.linalg.LinAlgError
            It is not positive definite to round-off.
        """
        if not isinstance(matrix, np.ndarray):
            import torch

            lower, info = torch.linalg.cholesky_ex(matrix)
            if int(info):
                raise np.linalg.LinAlgError(f"the leading minor of order {int(info)} is not positive")
            return cls(lower)
        factorise(matrix)
        return cls(matrix)

    def solve(self, b: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return K⁻¹ b."""
        if not isinstance(self.lower, np.ndarray):
            import torch

            there = torch.as_tensor(b, device=self.lower.device)[:, None]
            solved: np.ndarray = torch.cholesky_solve(there, self.lower)[:, 0].cpu().numpy()
            return solved
        x = self.half_solve(b[:, None])[:, 0]
        for start, stop in reversed(list(_blocks(len(b)))):
            rest = x[start:stop] - self.lower[stop:, start:stop].T @ x[stop:]
            diagonal = self.lower[start:stop, start:stop]
            x[start:stop] = solve_triangular(diagonal, rest, trans=1, lower=True, check_finite=False)
        return x

    def half_solve(self, b: Float[Any, "n k"]) -> Float[np.ndarray, "n k"]:
        """Return L⁻¹ b, whose squared length is bᵀ K⁻¹ b."""
        if not isinstance(self.lower, np.ndarray):
            import torch

            there = torch.as_tensor(b, device=self.lower.device)
            half: np.ndarray = torch.linalg.solve_triangular(self.lower, there, upper=False).cpu().numpy()
            return half
        y = np.empty_like(b)
        for start, stop in _blocks(len(b)):
            rest = b[start:stop] - self.lower[start:stop, :start] @ y[:start]
            y[start:stop] = solve_triangular(self.lower[start:stop, start:stop], rest, lower=True, check_finite=False)
        return y


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    yield from ((start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def factorise(a: Float[np.ndarray, "n n"]) -> None:
    """Overwrite the lower triangle of a symmetric matrix with its factor; what stands above the diagonal stays.

    Parameters
    ----------
    a
        Of float64, contiguous in either order; a failure leaves the lower triangle and the diagonal undefined.

    Raises
    ------
    numpy.linalg.LinAlgError
        It is not positive definite to round-off.
    """
    if len(a) > LAPACK_MOST:
        _by_blocks(a)
        return
    # A row-major lower triangle is LAPACK's upper one.
    rows = a.flags.c_contiguous
    found, info = lapack.dpotrf(a.T if rows else a, lower=int(not rows), overwrite_a=1, clean=0)
    if info > 0:
        raise np.linalg.LinAlgError(f"the leading minor of order {info} is not positive")
    if not np.shares_memory(found, a):
        a[...] = found.T if rows else found


def _by_blocks(a: Float[np.ndarray, "n n"]) -> None:
    """Factorise block column by block column from the left, all but n²·BLOCK operations in matrix products."""
    n = len(a)
    for start, stop in track(list(_blocks(n)), "factor"):

        def update(begin: int, end: int, start: int = start, stop: int = stop) -> None:
            # Rows from `start` on; a few at a time, so that the product beside the matrix stays small.
            for row in range(start + begin, start + end, BLOCK):
                rows = slice(row, min(row + BLOCK, start + end))
                a[rows, start:stop] -= a[rows, :start] @ a[start:stop, :start].T

        def divide(begin: int, end: int, start: int = start, stop: int = stop) -> None:
            for row in range(stop + begin, stop + end, BLOCK):
                rows = slice(row, min(row + BLOCK, stop + end))
                a[rows, start:stop] = solve_triangular(
                    a[start:stop, start:stop], a[rows, start:stop].T, lower=True, check_finite=False
                ).T

        square = a[start:stop, start:stop]
        above = np.triu(square, 1)
        with one_blas():
            if start:
                share(update, n - start, BLOCK // 4)
            try:
                square[...] = np.linalg.cholesky(square)
            except np.linalg.LinAlgError:
                raise np.linalg.LinAlgError(f"a leading minor of order {start + 1} to {stop} is not positive") from None
            finally:
                square[...] = np.tril(square) + above
            share(divide, n - stop, BLOCK // 4)
