"""What every candidate block would add to a growing design, by low-rank updates.

With a block B chosen, ``U = C Bᵀ L⁻ᵀ`` for ``G = I + B C Bᵀ = L Lᵀ``, and C becomes ``C - U Uᵀ``. The small
matrices of a candidate s follow without touching C again: with ``Z_s = B_s U`` and
``Y_s = B_s (C V U - U Uᵀ V U / 2)``, ``G_s -= Z_s Z_sᵀ`` and ``H_s -= Z_s Y_sᵀ + Y_s Z_sᵀ``.
One matrix product over all rows serves a whole step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solve_triangular

from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.run import ordered

SHARED_ROWS = 2048
"""Rows of one product, and of one thread's piece; the same whatever the number of threads, as results must be."""
_REFRESH_PICKS = 25
TIE = 1e-9
"""Scores this close, relatively, are equal: round-off must not decide."""
_EPS = np.finfo(float).eps


class Path:
    """A criterion along a growing set of blocks."""

    def __init__(self, criterion: Criterion, precision: Precision) -> None:
        self.criterion = criterion
        self.precision = precision
        self.state = self._anchor = criterion.state(precision)
        self.values = [criterion.shown(precision)]

    def add(self, block: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "d r"]:
        """Add a block, and return U, by which C has become ``C - U Uᵀ``."""
        if len(block) == 1:  # plain regression: thousands of picks, where calls would cost more than arithmetic
            T = self.precision.whiten(block)
            lower = np.sqrt(1.0 + T @ T.T)
            TL = T / lower
        else:
            T, lower = self.precision.beside(block)
            TL = solve_triangular(lower, T, lower=True, check_finite=False)
        U = np.ascontiguousarray(self.precision.unwhiten(TL))
        self.precision = self.precision.with_rows(block)
        if self.criterion.roots is None:
            self.values.append(0.0)
            self.anchor()
            return U
        self.state = self.criterion.follow(self.state, lower, U)
        self.values.append(self.criterion.score(self.state))
        # Differences are good to eps times the value they started from.
        if len(self.values) % _REFRESH_PICKS == 0 or bool((self.state < 1e-3 * self._anchor).any()):
            self.anchor()
        return U

    def anchor(self) -> None:
        """Compute the last value from the factor."""
        self.state = self._anchor = self.criterion.state(self.precision)
        self.values[-1] = self.criterion.shown(self.precision)


@dataclass(frozen=True, eq=False)
class Bin:
    """Structures of one chunk whose blocks are padded to one height with zero rows, which change no gain."""

    members: Int[np.ndarray, " m"]
    index: Int[np.ndarray, "m r"]  # row numbers within the chunk; the chunk's length stands for a zero row
    G: Float[np.ndarray, "m r r"]
    H: tuple[Float[np.ndarray, "m r r"], ...]


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Consecutive structures whose rows go through one matrix product."""

    rows: slice
    bins: tuple[Bin, ...]


class Gains:
    """The gain of every candidate, kept up to date along a path."""

    def __init__(self, info: Information, path: Path, *, picks: Information | None = None) -> None:
        self._info, self._path, self._picked = info, path, info if picks is None else picks
        self._roots = path.criterion.roots or ()
        chunks = []
        start = 0
        while start < len(info):
            stop = int(np.searchsorted(info.offsets, info.offsets[start] + SHARED_ROWS, side="right")) - 1
            stop = min(max(stop, start + 1), len(info))
            rows = slice(int(info.offsets[start]), int(info.offsets[stop]))
            chunks.append(_Chunk(rows, bins_of(info, start, stop, len(self._roots))))
            start = stop
        self._chunks = tuple(chunks)
        self.values = np.zeros(len(info))
        # Traces of G and of each H now, and when they were last computed without differences.
        self._traces, self._fresh = np.zeros((2, 1 + len(self._roots), len(info)))
        self.recompute()

    def best(
        self,
        live: Bool[np.ndarray, " structures"],
        scale: Float[np.ndarray, " structures"],
        rank: Int[np.ndarray, " structures"],
    ) -> int:
        """Find the live candidate of the largest ``gain/scale``; of equals, that of the lowest rank."""
        return first_of_best(np.where(live, self.values / scale, -np.inf), rank)

    def add(self, s: int, live: Bool[np.ndarray, " structures"]) -> None:
        """Choose structure s and update the gains; `live` marks those that may still be chosen."""
        path = self._path
        before = path.precision
        U = path.add(self._picked.block(s))
        self._picks += 1
        self._columns += U.shape[1]
        if self._picks >= _REFRESH_PICKS and self._columns >= 2 * len(U):
            self.recompute()
            return
        factors = [U]
        for L in self._roots:
            LU = L.T @ U
            CVU = before.unwhiten(before.whiten((L @ LU).T))
            factors.append(CVU - 0.5 * (U @ (LU.T @ LU)))
        columns = np.concatenate(factors, axis=1)
        for _ in ordered(lambda chunk: self._downdate(chunk, columns, U.shape[1]), self._chunks):
            pass
        if self._cancelled(live):
            self.recompute()

    def restart(self, path: Path) -> None:
        """Go over to another design, with the same criterion."""
        self._path = path
        self.recompute()

    def recompute(self) -> None:
        """Compute G and H of every candidate from the triangular factor."""
        precision = self._path.precision
        halves = [precision.whiten(L.T).T for L in self._roots]

        def compute(chunk: _Chunk) -> None:
            T = with_zero_row(precision.whiten(self._info.rows[chunk.rows]))
            products = [T @ half for half in halves]
            for part in chunk.bins:
                part.G[:] = outer(T[part.index], T[part.index]) + np.eye(part.index.shape[1])
                for H, Q in zip(part.H, products, strict=True):
                    H[:] = outer(Q[part.index], Q[part.index])
                self._evaluate(part)

        for _ in ordered(compute, self._chunks):
            pass
        self._fresh[:] = self._traces
        self._picks = self._columns = 0

    def _downdate(self, chunk: _Chunk, factors: Float[np.ndarray, "d parts"], r: int) -> None:
        """Carry one pick over to the candidates of a chunk."""
        products = with_zero_row(self._info.rows[chunk.rows] @ factors)
        for part in chunk.bins:
            ZY = products[part.index]
            Z = ZY[..., :r]
            part.G[:] -= outer(Z, Z)
            for k, H in enumerate(part.H, start=1):
                cross = outer(Z, ZY[..., k * r : (k + 1) * r])
                H[:] -= cross + cross.transpose(0, 2, 1)
            self._evaluate(part)

    def _evaluate(self, part: Bin) -> None:
        """Store the gains and traces of one bin."""
        self.values[part.members] = self._path.criterion.gains(part.G, part.H, self._path.state)
        for k, matrices in enumerate((part.G, *part.H)):
            self._traces[k, part.members] = np.trace(matrices, axis1=1, axis2=2)

    def _cancelled(self, live: Bool[np.ndarray, " structures"]) -> bool:
        """Whether round-off could matter, beside G's least eigenvalue or the largest ``tr(G⁻¹H) >= tr H / tr G``."""
        if not live.any():
            return False
        scales = [1.0, *(self._traces[1:, live] / self._traces[0, live]).max(axis=1)]
        return any(
            bool(lost(fresh[live], now[live], scale).any())
            for fresh, now, scale in zip(self._fresh, self._traces, scales, strict=True)
        )


def lost(fresh: Float[np.ndarray, " some"], now: Float[np.ndarray, " some"], scale: float) -> Bool[np.ndarray, " some"]:
    """Whether differences have cancelled so far that their round-off matters and recomputing would help."""
    matters = 100.0 * _EPS * fresh > 1e-6 * scale
    return matters & (now < 1e-3 * fresh)


def first_of_best(score: Float[np.ndarray, " some"], rank: Int[np.ndarray, " some"]) -> int:
    """Position of the largest score; of equals, that of the lowest rank."""
    top = score.max()
    ties = np.flatnonzero(score >= top - TIE * abs(top))
    return int(ties[np.argmin(rank[ties])])


def bins_of(info: Information, start: int, stop: int, n_roots: int) -> tuple[Bin, ...]:
    """Sort the candidates from start to stop into bins by padded height."""
    lengths = np.diff(info.offsets[start : stop + 1])
    # Heights 1, 2, 4, 8 and multiples of 8, at least 1: few bins, little padding.
    heights = np.where(lengths <= 4, 1 << np.ceil(np.log2(np.maximum(lengths, 1))).astype(int), -(-lengths // 8) * 8)
    first = info.offsets[start:stop] - info.offsets[start]
    end = int(info.offsets[stop] - info.offsets[start])
    bins = []
    for height in np.unique(heights):
        members = np.flatnonzero(heights == height)
        step = np.arange(height)
        index = np.where(step < lengths[members, None], first[members, None] + step, end)
        G = np.empty((len(members), height, height))
        bins.append(Bin(start + members, index, G, tuple(np.empty_like(G) for _ in range(n_roots))))
    return tuple(bins)


def with_zero_row(array: Float[np.ndarray, "rows k"]) -> Float[np.ndarray, "rows+1 k"]:
    """Append the row that padding points to."""
    return np.concatenate([array, np.zeros((1, array.shape[1]))])


def outer(left: Float[np.ndarray, "m r k"], right: Float[np.ndarray, "m r k"]) -> Float[np.ndarray, "m r r"]:
    """``left rightᵀ`` of every block."""
    if left.shape[1] == 1:  # plain rows: a matrix product per row would be all overhead
        return np.einsum("mrk,mrk->m", left, right)[:, None, None]
    return left @ right.transpose(0, 2, 1)
