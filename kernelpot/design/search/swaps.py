"""Swaps of members of a design: of whole blocks, exactly or by a screen of shortened ones, and of single rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.design.precision import Precision
from kernelpot.design.search.engines import TriedGains
from kernelpot.design.search.gains import Gains, Path, bins_of, first_of_best, outer, with_zero_row
from kernelpot.design.task import Task

WORTHWHILE = 1e-9
"""Swaps that improve a value by less, relatively, could be round-off and go round in circles."""

COARSE = 3e-2
"""Share of the trace of a block's label kind that the screen may leave out."""
_LOOKED_AT = 6
_NEGLIGIBLE = 1e-2
_LEAST = 1e-13


class ExactSwaps(ABC):
    """Swaps that are made where the exact gains of all candidates say so."""

    indices: list[int]
    value: float

    @abstractmethod
    def without(self, position: int, allowed: Bool[np.ndarray, " structures"]) -> Float[np.ndarray, " structures"]:
        """Gain of every candidate if the member at a position were out; -inf for those without a chance."""

    @abstractmethod
    def swap(self, position: int, s: int) -> None:
        """Put candidate s in the place of the member that `without` took out last."""

    def improve(
        self, position: int, allowed: Bool[np.ndarray, " structures"], rank: Int[np.ndarray, " structures"]
    ) -> bool:
        """Make the best swap for one member, if one is worth it."""
        gains = self.without(position, allowed)
        scores = np.where(allowed, gains, -np.inf)
        if scores.max() == -np.inf:
            return False
        s = first_of_best(scores, rank)
        own = float(gains[self.indices[position]])
        if gains[s] - own <= WORTHWHILE * max(abs(self.value), abs(own)):
            return False
        self.swap(position, s)
        return True


class BlockSwaps(ExactSwaps):
    """Gains of all blocks beside a design from which one member is taken out.

    The reduced information is factorised anew from the blocks themselves: to subtract a block from C would lose the
    directions that only this block knew.
    """

    def __init__(self, task: Task, indices: Sequence[int]) -> None:
        self._task = task
        self.indices = list(indices)
        self.value = task.criterion.value(task.known(self.indices))
        self._gains: Gains | None = None

    def promising(self, noise: float) -> Int[np.ndarray, " some"]:  # noqa: ARG002 (any member may turn out to be)
        """Positions of members worth trying: all."""
        return np.arange(len(self.indices))

    def without(self, position: int, allowed: Bool[np.ndarray, " structures"]) -> Float[np.ndarray, " structures"]:
        """Gain of every candidate if the member at a position were out; -inf for those without a chance."""
        info, criterion = self._task.info, self._task.criterion
        path = Path(criterion, self._task.known(self.indices[:position] + self.indices[position + 1 :]))
        if criterion.roots is None:
            return TriedGains(info, path, keep=(self.indices[position],)).look(allowed)
        if self._gains is None:
            self._gains = Gains(info, path)
        else:
            self._gains.restart(path)
        return self._gains.values

    def swap(self, position: int, s: int) -> None:
        """Put candidate s in the place of a member."""
        self.indices[position] = s
        self.value = self._task.criterion.value(self._task.known(self.indices))


class ScreenedSwaps:
    """The same where exact gains of all candidates would take long.

    The information without a member is not factorised: with the member's whitened block T, ``T Tᵀ = E diag(t²) Eᵀ`` and
    ``W = diag(1 - t²)^(-1/2) Eᵀ T``, the covariance without it is ``R⁻¹ (I + WᵀW) R⁻ᵀ``, so that G and H of all
    candidates grow by products with the few rows of W. Candidates are shortened to a share of their trace (`COARSE`)
    for a first ranking, by their gain times what shortening took from it at the first design; the best few are looked
    at with all their rows, and a swap is made only if the value of the new design, computed from its blocks, is
    better. A swap that the first ranking misses is not found.
    """

    def __init__(self, task: Task, indices: Sequence[int]) -> None:
        info, criterion = task.info, task.criterion
        self._task, self._info, self._criterion = task, info, criterion
        self._short = info.truncated(COARSE)
        self._bins = bins_of(self._short, 0, len(info), len(criterion.roots or ()))
        self.indices = list(indices)
        path = Path(criterion, task.known(self.indices))
        self._refresh(path.precision)
        short = self._gains_beside(np.empty((0, info.d)))
        self._ratio = np.maximum(Gains(info, path).values, 0.0) / np.maximum(short, 1e-300)
        self._ratio[short <= 0] = 1.0

    def promising(self, noise: float) -> Int[np.ndarray, " some"]:  # noqa: ARG002 (any member may turn out to be)
        """Positions of all members, the most dispensable first."""
        losses = [self._loss(*self._modes(s)) for s in self.indices]
        return np.argsort(losses, kind="stable")

    def improve(
        self,
        position: int,
        allowed: Bool[np.ndarray, " structures"],
        rank: Int[np.ndarray, " structures"],
    ) -> bool:
        """Replace a member by one of the best candidates that the screen finds, if that is better."""
        squares, T = self._modes(self.indices[position])
        own = self._loss(squares, T)
        W = T / np.sqrt(1.0 - squares)[:, None]
        ranked = np.where(allowed, self._gains_beside(W[squares > _NEGLIGIBLE]) * self._ratio, -np.inf)
        size = min(_LOOKED_AT, int(allowed.sum()))
        best = np.argpartition(-ranked, size - 1)[:size]
        gains = self._full_gains_beside(W, best)
        k = first_of_best(gains, rank[best])
        noise = WORTHWHILE * max(abs(self.value), abs(own))
        if gains[k] - own <= noise:
            return False
        trial = [*self.indices[:position], int(best[k]), *self.indices[position + 1 :]]
        precision = self._task.known(trial)
        if self._criterion.sign * (self._criterion.value(precision) - self.value) <= noise:
            return False
        self.indices = trial
        self._refresh(precision)
        return True

    def _refresh(self, precision: Precision) -> None:
        """Whiten the candidates by a new design."""
        self._now = precision
        self._state = self._criterion.state(precision)
        self.value = self._criterion.score(self._state)
        self._halves = [precision.whiten(L.T).T for L in self._criterion.roots or ()]
        self._full: dict[int, tuple[Float[np.ndarray, "r d"], list[Float[np.ndarray, "r q"]]]] = {}
        T = with_zero_row(precision.whiten(self._short.rows))
        self._T, self._Q = T, [T @ half for half in self._halves]
        for part in self._bins:
            part.G[:] = outer(T[part.index], T[part.index]) + np.eye(part.index.shape[1])
            for H, Q in zip(part.H, self._Q, strict=True):
                H[:] = outer(Q[part.index], Q[part.index])

    def _modes(self, member: int) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "r d"]]:
        """``t²`` and ``Eᵀ T`` of a member's block."""
        T = self._whitened(member)[0]
        squares, E = np.linalg.eigh(T @ T.T)
        return np.clip(squares, 0.0, 1.0 - _LEAST), E.T @ T

    def _loss(self, squares: Float[np.ndarray, " r"], T: Float[np.ndarray, "r d"]) -> float:
        """Find what a member adds to the others: its G beside them is ``(1 - t²)⁻¹``."""
        if not len(squares):
            return 0.0
        G = np.diag(1.0 / (1.0 - squares))
        P = [(T @ half) / (1.0 - squares)[:, None] for half in self._halves]
        return float(self._criterion.losses(G[None], [(A @ A.T)[None] for A in P], self._state)[0])

    def _gains_beside(self, W: Float[np.ndarray, "r d"]) -> Float[np.ndarray, " structures"]:
        """Gains of all shortened candidates with ``R⁻¹ (I + WᵀW) R⁻ᵀ`` as covariance."""
        Z = self._T @ W.T
        across = [W @ half for half in self._halves]
        state = self._criterion.beside(self._state, across)
        Y = [Q @ A.T + 0.5 * (Z @ (A @ A.T)) for Q, A in zip(self._Q, across, strict=True)]
        gains = np.empty(len(self._info))
        for part in self._bins:
            G, H = part.G + outer(Z[part.index], Z[part.index]), []
            for before, columns in zip(part.H, Y, strict=True):
                cross = outer(Z[part.index], columns[part.index])
                H.append(before + cross + cross.transpose(0, 2, 1))
            gains[part.members] = self._criterion.gains(G, H, state)
        return gains

    def _full_gains_beside(
        self, W: Float[np.ndarray, "r d"], which: Int[np.ndarray, " some"]
    ) -> Float[np.ndarray, " some"]:
        """Find the gains of some candidates with all their rows."""
        gains = np.zeros(len(which))
        across = [W @ half for half in self._halves]
        state = self._criterion.beside(self._state, across)
        for k, s in enumerate(which):
            T, Q = self._whitened(int(s))
            if len(T):
                Z = T @ W.T
                G = np.eye(len(T)) + T @ T.T + Z @ Z.T
                beside = [own + Z @ A for own, A in zip(Q, across, strict=True)]
                gains[k] = self._criterion.gains(G[None], [(P @ P.T)[None] for P in beside], state)[0]
        return gains

    def _whitened(self, s: int) -> tuple[Float[np.ndarray, "r d"], list[Float[np.ndarray, "r q"]]]:
        """Whiten a block, once for each design."""
        if s not in self._full:
            T = self._now.whiten(self._info.block(s))
            self._full[s] = T, [T @ half for half in self._halves]
        return self._full[s]


_REFRESH_SWAPS = 50
_DISTINCT = 1e-6
_PAIRS = 1 << 20


class RowSwaps(ExactSwaps):
    """Gains of all rows beside a design from which one member is taken out.

    With ``c = C x_i`` and ``q = 1 - x_iᵀ c`` the covariance without row i is ``C' = C + c cᵀ/q``, so that the
    variances ``x_jᵀ C' x_j`` (and ``x_jᵀ C' V C' x_j`` for V = L Lᵀ) of all rows follow from two products with the
    matrix of rows (Fedorov 1972, ch. 3; Cook and Nachtsheim 1980).
    """

    def __init__(self, task: Task, indices: Sequence[int]) -> None:
        criterion = task.criterion
        self._rows, self._criterion, self._start = task.info.rows, criterion, task.start
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

    def without(
        self,
        position: int,
        allowed: Bool[np.ndarray, " rows"],  # noqa: ARG002 (as in `BlockSwaps`)
    ) -> Float[np.ndarray, " rows"]:
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
