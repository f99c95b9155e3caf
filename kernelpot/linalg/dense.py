"""Cholesky factorisation of a large symmetric matrix, in place on the CPU or on a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack, solve_triangular

from kernelpot.progress import track
from kernelpot.run import one_blas, share

BLOCK = 1024
"""Rows of a run."""

MIRRORED = 512
"""Rows that are copied at a time: few enough to stay in a cache."""

Run = Float[np.ndarray, "rows columns"]


@dataclass(frozen=True, eq=False)
class Triangle:
    """Runs of rows of a square matrix, each up to the end of its diagonal block."""

    runs: list[Run]  # The k-th has as many columns as it and those before it have rows

    @classmethod
    def zeros(cls, n: int) -> Triangle:
        """Return the triangle of n rows, 4 n (n + BLOCK) bytes."""
        return cls([np.zeros((stop - start, stop)) for start, stop in _cuts(n)])

    @classmethod
    def within(cls, matrix: Float[np.ndarray, "n n"]) -> Triangle:
        """Return the runs of a square matrix, as views."""
        return cls([matrix[start:stop, :stop] for start, stop in _cuts(len(matrix))])

    def __len__(self) -> int:
        """Count the rows."""
        return self.runs[-1].shape[1] if self.runs else 0

    def __setitem__(self, place: tuple[slice, slice], values: Float[np.ndarray, "rows columns"]) -> None:
        """Write values to a range of rows and of columns; what lies beyond a run is left out."""
        rows, columns = place
        for run, inner, outer in self._parts(rows.start, rows.stop):
            kept = min(columns.stop, run.shape[1]) - columns.start
            if kept > 0:
                run[inner, columns.start : columns.start + kept] = values[outer, :kept]

    def add_corner(self, values: Float[np.ndarray, "k k"]) -> None:
        """Add to the first rows and columns."""
        for run, inner, outer in self._parts(0, len(values)):
            kept = min(len(values), run.shape[1])
            run[inner, :kept] += values[outer, :kept]

    def add_diagonal(self, values: Float[np.ndarray, " n"]) -> None:
        """Add to the diagonal."""
        for run, (start, stop) in self:
            run[np.arange(stop - start), np.arange(start, stop)] += values[start:stop]

    def __iter__(self) -> Iterator[tuple[Run, tuple[int, int]]]:
        """Yield every run with its first row and the row after its last."""
        for run in self.runs:
            yield run, (run.shape[1] - len(run), run.shape[1])

    def _parts(self, begin: int, end: int) -> Iterator[tuple[Run, slice, slice]]:
        """Yield the runs that hold rows ``begin:end``, with these rows' places in the run, and from `begin` on."""
        for run, (start, stop) in self:
            low, high = max(begin, start), min(end, stop)
            if low < high:
                yield run, slice(low - start, high - start), slice(low - begin, high - begin)

    def factorise(self) -> None:
        """Overwrite the triangle with its Cholesky factor, block column by block column from the left.

        All but n²·BLOCK operations are matrix products. What stands above the diagonal is kept.
        """
        n = len(self)
        for left, (start, stop) in track(self, "factor", total=len(self.runs)):

            def update(begin: int, end: int, left: Run = left, start: int = start, stop: int = stop) -> None:
                for run, rows, _ in self._parts(start + begin, start + end):
                    run[rows, start:stop] -= run[rows, :start] @ left[:, :start].T

            def divide(begin: int, end: int, left: Run = left, start: int = start, stop: int = stop) -> None:
                for run, rows, _ in self._parts(stop + begin, stop + end):
                    solved = solve_triangular(left[:, start:], run[rows, start:stop].T, lower=True, check_finite=False)
                    run[rows, start:stop] = solved.T

            square = left[:, start:]
            above = np.triu(square, 1)
            with one_blas():
                if start:
                    share(update, n - start, BLOCK // 4)
                try:
                    square[...] = np.linalg.cholesky(square)
                except np.linalg.LinAlgError:
                    raise np.linalg.LinAlgError(
                        f"a leading minor of order {start + 1} to {stop} is not positive"
                    ) from None
                finally:
                    square[...] = np.tril(square) + above
                share(divide, n - stop, BLOCK // 4)

    def forward(self, b: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Return L⁻¹ b of a factor."""
        y = np.empty_like(b)
        for run, (start, stop) in self:
            rest = b[start:stop] - run[:, :start] @ y[:start]
            y[start:stop] = solve_triangular(run[:, start:], rest, lower=True, check_finite=False)
        return y

    def backward(self, b: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Return L⁻ᵀ b of a factor."""
        x = b.copy()
        for run, (start, stop) in reversed(list(self)):
            x[start:stop] = solve_triangular(run[:, start:], x[start:stop], trans=1, lower=True, check_finite=False)
            x[:start] -= run[:, :start].T @ x[start:stop]
        return x


def _cuts(n: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


LAPACK_MOST = 16_000
"""Most rows for LAPACK's own factorisation: in threads it has ended the process at 28,000, not at 20,000."""


@dataclass(frozen=True, eq=False)
class Cholesky:
    """K = L Lᵀ."""

    lower: Any  # L, as runs of rows or as a tensor; what stands above its diagonal means nothing

    @classmethod
    def of(cls, matrix: Any) -> Cholesky:
        """Factorise a triangle, which is overwritten, or a tensor, which is not."""
        if isinstance(matrix, Triangle):
            matrix.factorise()
            return cls(matrix)
        import torch

        lower, info = torch.linalg.cholesky_ex(matrix)
        if int(info):
            raise np.linalg.LinAlgError(f"the leading minor of order {int(info)} is not positive")
        return cls(lower)

    def solve(self, b: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return K⁻¹ b."""
        if isinstance(self.lower, Triangle):
            found: np.ndarray = self.lower.backward(self.lower.forward(b[:, None]))[:, 0]
            return found
        import torch

        there = torch.as_tensor(b, device=self.lower.device)[:, None]
        solved: np.ndarray = torch.cholesky_solve(there, self.lower)[:, 0].cpu().numpy()
        return solved

    def half_solve(self, b: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Return L⁻¹ b, whose squared length is bᵀ K⁻¹ b."""
        if isinstance(self.lower, Triangle):
            return self.lower.forward(b)
        import torch

        there = torch.as_tensor(b, device=self.lower.device)
        half: np.ndarray = torch.linalg.solve_triangular(self.lower, there, upper=False).cpu().numpy()
        return half


def factorise(a: Float[np.ndarray, "n n"]) -> None:
    """Overwrite the lower triangle of a symmetric matrix with its factor; what stands above the diagonal stays."""
    if len(a) > LAPACK_MOST:
        Triangle.within(a).factorise()
        return
    # A row-major lower triangle is LAPACK's upper one.
    rows = a.flags.c_contiguous
    found, info = lapack.dpotrf(a.T if rows else a, lower=int(not rows), overwrite_a=1, clean=0)
    if info > 0:
        raise np.linalg.LinAlgError(f"the leading minor of order {info} is not positive")
    if not np.shares_memory(found, a):
        a[...] = found.T if rows else found


def mirrored(lower: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Copy the lower triangle onto the upper, in place and in pieces that stay in cache."""
    n = len(lower)
    for start in range(0, n, MIRRORED):
        stop = min(start + MIRRORED, n)
        block = lower[start:stop, start:stop]
        upper = np.triu_indices(stop - start, 1)
        block[upper] = block.T[upper]
        lower[start:stop, stop:] = lower[stop:, start:stop].T
    return lower
