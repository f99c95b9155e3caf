"""Swaps of whole blocks: exactly, or by a screen of shortened blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.search.gains import Gains, Path, bins_of, first_of_best, outer, with_zero_row
from kernelpot.design.search.tried import TriedGains

COARSE = 3e-2
"""Share of the trace of a block's label kind that the screen may leave out."""
_LOOKED_AT = 6
_NEGLIGIBLE = 1e-2
_LEAST = 1e-13


class BlockSwaps:
    """Gains of all blocks beside a design from which one member is taken out.

    The reduced information is factorised anew from the blocks themselves: to subtract a block from C would lose the
    directions that only this block knew.

    Parameters
    ----------
    info
        Candidate blocks.
    criterion
        What is improved.
    start
        Information before the choice.
    indices
        The design.
    """

    def __init__(self, info: Information, criterion: Criterion, start: Precision, indices: Sequence[int]) -> None:
        self._info, self._criterion, self._start = info, criterion, start
        self.indices = list(indices)
        self.value = self._evaluate(self.indices)
        self._gains: Gains | None = None

    def promising(self, noise: float) -> Int[np.ndarray, " some"]:  # noqa: ARG002 (any member may turn out to be)
        """Positions of members worth trying: all."""
        return np.arange(len(self.indices))

    def without(
        self, position: int, allowed: Bool[np.ndarray, " structures"] | None = None
    ) -> Float[np.ndarray, " structures"]:
        """Gain of every candidate if the member at a position were out; -inf for those without a chance."""
        rest = self.indices[:position] + self.indices[position + 1 :]
        path = Path(self._criterion, self._start.with_rows(self._info.take(rest).rows))
        if self._criterion.roots is None:
            everyone = np.ones(len(self._info), dtype=bool)
            tried = TriedGains(self._info, path, keep=(self.indices[position],))
            return tried.look(everyone if allowed is None else allowed)
        if self._gains is None:
            self._gains = Gains(self._info, path)
        else:
            self._gains.restart(path)
        return self._gains.values

    def swap(self, position: int, s: int) -> None:
        """Put candidate s in the place of a member."""
        self.indices[position] = s
        self.value = self._evaluate(self.indices)

    def _evaluate(self, indices: Sequence[int]) -> float:
        """Value of the criterion from the blocks."""
        return self._criterion.value(self._start.with_rows(self._info.take(indices).rows))


class ScreenedSwaps:
    """The same where exact gains of all candidates would take long.

    The information without a member is not factorised: with the member's whitened block T, ``T Tᵀ = E diag(t²) Eᵀ`` and
    ``W = diag(1 - t²)^(-1/2) Eᵀ T``, the covariance without it is ``R⁻¹ (I + WᵀW) R⁻ᵀ``, so that G and H of all
    candidates grow by products with the few rows of W. Candidates are shortened to a share of their trace (`COARSE`)
    for a first ranking, by their gain times what shortening took from it at the first design; the best few are looked
    at with all their rows, and a swap is made only if the value of the new design, computed from its blocks, is
    better. A swap that the first ranking misses is not found.

    Parameters
    ----------
    info, criterion, start, indices
        As in `BlockSwaps`.
    """

    def __init__(self, info: Information, criterion: Criterion, start: Precision, indices: Sequence[int]) -> None:
        self._info, self._criterion, self._start = info, criterion, start
        self._short = info.truncated(COARSE)
        self._bins = bins_of(self._short, 0, len(info), len(criterion.roots or ()))
        self.indices = list(indices)
        path = Path(criterion, self._precision(self.indices))
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
        worthwhile: float,
    ) -> bool:
        """Replace a member by one of the best candidates that the screen finds, if that is better.

        Parameters
        ----------
        position
            The member that may leave.
        allowed
            What may take its place.
        rank
            Order that breaks ties.
        worthwhile
            Least improvement, relative to the value.
        """
        squares, T = self._modes(self.indices[position])
        own = self._loss(squares, T)
        W = T / np.sqrt(1.0 - squares)[:, None]
        ranked = np.where(allowed, self._gains_beside(W[squares > _NEGLIGIBLE]) * self._ratio, -np.inf)
        size = min(_LOOKED_AT, int(allowed.sum()))
        best = np.argpartition(-ranked, size - 1)[:size]
        gains = self._full_gains_beside(W, best)
        k = first_of_best(gains, rank[best])
        noise = worthwhile * max(abs(self.value), abs(own))
        if gains[k] - own <= noise:
            return False
        trial = [*self.indices[:position], int(best[k]), *self.indices[position + 1 :]]
        precision = self._precision(trial)
        if self._criterion.sign * (self._criterion.value(precision) - self.value) <= noise:
            return False
        self.indices = trial
        self._refresh(precision)
        return True

    def _precision(self, indices: Sequence[int]) -> Precision:
        """Information of a design, from its blocks."""
        return self._start.with_rows(self._info.take(indices).rows)

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
