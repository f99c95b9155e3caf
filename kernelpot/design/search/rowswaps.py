"""Swaps of single rows, by rank-one formulas for all candidates at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision

_REFRESH_SWAPS = 50
_DISTINCT = 1e-6
_PAIRS = 1 << 20


class RowSwaps:
    """Gains of all rows beside a design from which one member is taken out.

    With ``c = C x_i`` and ``q = 1 - x_iᵀ c`` the covariance without row i is ``C' = C + c cᵀ/q``, so that the
    variances ``x_jᵀ C' x_j`` (and ``x_jᵀ C' V C' x_j`` for V = L Lᵀ) of all rows follow from two products with the
    matrix of rows (Fedorov 1972, ch. 3; Cook and Nachtsheim 1980).

    Parameters
    ----------
    info
        Candidates of one row each.
    criterion
        What is improved.
    start
        Information before the choice.
    indices
        The design.
    """

    def __init__(self, info: Information, criterion: Criterion, start: Precision, indices: Sequence[int]) -> None:
        self._rows, self._criterion, self._start = info.rows, criterion, start
        self._root = criterion.roots[0] if criterion.roots else None
        self.indices = list(indices)
        self._refresh()

    def promising(self, noise: float) -> Int[np.ndarray, " some"]:
        """Positions of members that some candidate could replace with profit, if no rule forbids it."""
        members = np.array(self.indices, dtype=np.int64)
        worth = np.zeros(len(members))
        step = max(_PAIRS // max(len(self._rows), 1), 1)
        for a in range(0, len(members), step):
            part = members[a : a + step]
            gains, exact = self._beside(part)
            own = gains[part, np.arange(len(part))]
            gains[members] = -np.inf
            worth[a : a + step] = np.where(exact, gains.max(axis=0, initial=-np.inf) - own, np.inf)
        return np.flatnonzero(worth > noise)

    def without(self, position: int) -> Float[np.ndarray, " rows"]:
        """Gain of every candidate if the member at a position were out."""
        gains, exact = self._beside(np.array(self.indices[position : position + 1]))
        self._last = gains[:, 0]
        if not exact[0]:  # only this member knows some direction: differences would lose it
            rest = self.indices[:position] + self.indices[position + 1 :]
            self._last = self._gains(*self._computed(self._start.with_rows(self._rows[rest])))
        self._last_exact = bool(exact[0])
        return self._last

    def swap(self, position: int, s: int) -> None:
        """Put candidate s in the place of the member that `without` took out last."""
        member, self.indices[position] = self.indices[position], s
        self.value += self._criterion.sign * float(self._last[s] - self._last[member])
        self._swaps += 1
        if self._swaps >= _REFRESH_SWAPS or not self._last_exact:
            self._refresh()
        else:
            self._move(member, -1.0)
            self._move(s, 1.0)

    def _beside(
        self, members: Int[np.ndarray, " some"]
    ) -> tuple[Float[np.ndarray, "rows some"], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """Gains of all rows with one member out at a time, and which of them kept their digits."""
        c = self._C @ self._rows[members].T
        q = 1.0 - self._variance[members]
        exact = q > _DISTINCT
        q = np.where(exact, q, 1.0)
        between = self._rows @ c
        variance = self._variance[:, None] + between**2 / q
        if self._mean_square is None or self._root is None:
            return self._gains(variance, None), exact
        Lc = self._root.T @ c
        between /= q
        mean_square = 2.0 * between * (self._rows @ (self._C @ (self._root @ Lc)))
        mean_square += between**2 * np.einsum("qm,qm->m", Lc, Lc) + self._mean_square[:, None]
        return self._gains(variance, mean_square), exact

    def _move(self, s: int, sign: float) -> None:
        """Add row s (+1) or take it out (-1)."""
        c = self._C @ self._rows[s]
        q = 1.0 + sign * float(self._rows[s] @ c)
        between = self._rows @ c
        root = self._root
        if root is not None and self._mean_square is not None:
            Lc = root.T @ c
            self._mean_square -= (2.0 * sign / q) * between * (self._rows @ (self._C @ (root @ Lc)))
            self._mean_square += (between / q) ** 2 * float(Lc @ Lc)
        self._variance -= (sign / q) * between**2
        self._C -= (sign / q) * np.outer(c, c)

    def _gains(
        self, variance: Float[np.ndarray, "*shape"], mean_square: Float[np.ndarray, "*shape"] | None
    ) -> Float[np.ndarray, "*shape"]:
        """Gains from G and H, which are numbers here."""
        G = np.maximum(1.0 + variance, 1.0)
        H = () if mean_square is None else (np.maximum(mean_square, 0.0).reshape(-1, 1, 1),)
        return self._criterion.gains(G.reshape(-1, 1, 1), H).reshape(G.shape)

    def _refresh(self) -> None:
        """Compute everything from the rows of the design."""
        precision = self._start.with_rows(self._rows[self.indices])
        self.value = self._criterion.value(precision)
        self._variance, self._mean_square = self._computed(precision)
        self._C = precision.covariance
        self._swaps = 0

    def _computed(self, precision: Precision) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"] | None]:
        """Variances and their mean squares, without differences."""
        T = precision.whiten(self._rows)
        variance = np.einsum("rd,rd->r", T, T)
        root = self._root
        if root is None:
            return variance, None
        Q = T @ precision.whiten(root.T).T
        return variance, np.einsum("rq,rq->r", Q, Q)
