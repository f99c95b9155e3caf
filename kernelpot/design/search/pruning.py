"""Backward elimination: from the whole pool, the member that is missed least goes, again and again.

All rows are whitened by a factor of what is there, ``T = B R⁻¹``, and the covariance is ``R⁻¹ K R⁻ᵀ`` with K = I at
first. With a member taken out, ``F = I - T K Tᵀ = L Lᵀ`` and ``U = K Tᵀ L⁻ᵀ``, K becomes ``K + U Uᵀ``: a sum. So are
the small matrices of the others: with ``M = R⁻ᵀ V R⁻¹``, ``Z_s = T_s U`` and ``Y_s = T_s (K M U + U Uᵀ M U / 2)``,
``P_s = T_s K T_sᵀ`` grows by ``Z Zᵀ`` and ``H_s = T_s K M K T_sᵀ`` by ``Z Yᵀ + Y Zᵀ``. Only ``F_s = I - P_s`` is a
difference, small where nobody else knows what s knows; where such a member goes, the rest is factorised anew.
Sequential backward selection by mean variances goes back to Reeves and Zhe (1999). A step costs a product of all rows
left with the few columns of U, and the whole course about (structures)² · (rows per structure)² · d operations: it is
for hundreds of structures, not for tens of thousands.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solve_triangular

from kernelpot.design.available import completable
from kernelpot.design.search.exchange import fill
from kernelpot.design.search.gains import Bin, bins_of, first_of_best, outer, with_zero_row
from kernelpot.design.task import Rules, Task
from kernelpot.errors import ParameterError
from kernelpot.progress import track

_KNOWN_ALONE = 1e-8
_LEAST = 1e-14
_REFRESH_REMOVALS = 25


def prune(task: Task) -> list[int]:
    """Eliminate members from the whole pool until the rules hold; return the forced, then the last to go first.

    Members go by the least loss, under budgets by the least loss per cost, while too many are there; where only a class
    is too large, from that class. What repeats another goes before what does not. What a budget then leaves is spent
    again.
    """
    members = np.concatenate([task.rules.forced, task.rules.heads()])
    part = task.among(members)
    inner = part.rules
    losses = Losses(part)
    alive = np.ones(len(members), dtype=bool)
    kept = np.zeros(len(members), dtype=bool)
    kept[inner.forced] = True
    for _ in track(range(len(members)), "pruning"):
        dispensable = _dispensable(inner, alive, kept)
        if not dispensable.any():
            break
        dear = len(inner.budget) and (inner.costs[alive].sum(axis=0) > inner.budget).any()
        scale = np.maximum(inner.shares, 1e-12) if dear else np.ones(len(members))
        s = first_of_best(np.where(dispensable, -losses.values / scale, -np.inf), inner.rank)
        alive[s] = False
        if not completable(inner, alive & inner.fresh):
            alive[s], kept[s] = True, True
            continue
        losses.remove(s)
    order = np.flatnonzero(alive & ~np.isin(np.arange(len(members)), inner.forced))
    order = order[np.argsort(-losses.values[order], kind="stable")]
    return fill(task, members[np.concatenate([inner.forced, order])].tolist())


def _dispensable(
    rules: Rules, alive: Bool[np.ndarray, " members"], kept: Bool[np.ndarray, " members"]
) -> Bool[np.ndarray, " members"]:
    """Mark the members of which one has to go, none where the rules hold."""
    chosen = np.flatnonzero(alive)
    counts = rules.counts(chosen)
    spare = np.append(counts > rules.least, True)[rules.labels]
    over = np.append(counts > rules.most, False)[rules.labels]
    rivals = np.bincount(rules.groups[chosen], minlength=int(rules.groups.max(initial=-1)) + 1)
    doubled = rivals[rules.groups] > 1
    free = alive & ~kept
    if not rules.repeats and (doubled & spare & free).any():
        return doubled & spare & free
    if over.any():
        wanted = over & free
    elif len(chosen) > rules.n or (rules.costs[chosen].sum(axis=0) > rules.budget * (1.0 + 1e-12)).any():
        wanted = spare & free
    else:
        return np.zeros(len(alive), dtype=bool)
    again = wanted & (doubled | ~rules.fresh)
    return again if again.any() else wanted


class Losses:
    """What every member adds to all others, kept up to date while members go."""

    def __init__(self, task: Task) -> None:
        info, criterion, start = task.info, task.criterion, task.start
        if criterion.roots is None:
            raise ParameterError(
                f"pruning needs gains in closed form, which {criterion.name} has not; choose 'greedy' or 'exchange'"
            )
        self._info, self._criterion, self._start = info, criterion, start
        self._bins = bins_of(info, 0, len(info), len(criterion.roots))
        self._alive = np.ones(len(info), dtype=bool)
        self.values = np.zeros(len(info))
        self._removals = 0
        self._halves: list[Float[np.ndarray, "d q"]] = []
        self._T, self._K, self._state = info.rows, np.eye(info.d), criterion.state(start)
        self._recompute()

    def remove(self, s: int) -> None:
        """Take member s out."""
        self._alive[s] = False
        self._removals += 1
        T = self._T[self._info.offsets[s] : self._info.offsets[s + 1]]
        TK = T @ self._K
        F = np.eye(len(T)) - TK @ T.T
        if self._removals >= _REFRESH_REMOVALS or (len(T) and float(np.linalg.eigvalsh(F)[0]) < _KNOWN_ALONE):
            self._recompute()
            return
        U = solve_triangular(np.linalg.cholesky(F), TK, lower=True, check_finite=False).T
        columns = [U]
        for half in self._halves:
            MU = half @ (half.T @ U)
            columns.append(self._K @ MU + 0.5 * (U @ (U.T @ MU)))
        self._state = self._criterion.beside(self._state, [U.T @ half for half in self._halves])
        self._K += U @ U.T
        self._carry(np.concatenate(columns, axis=1), len(T))

    def _carry(self, columns: Float[np.ndarray, "d parts"], r: int) -> None:
        """Bring the small matrices of those that stay up to date."""
        left = np.flatnonzero(self._alive[self._info.structure])
        products = np.zeros((len(self._T) + 1, columns.shape[1]))
        products[left] = self._T[left] @ columns
        for part in self._bins:
            here = np.flatnonzero(self._alive[part.members])
            ZY = products[part.index[here]]
            part.G[here] += outer(ZY[..., :r], ZY[..., :r])
            for k, H in enumerate(part.H, start=1):
                cross = outer(ZY[..., :r], ZY[..., k * r : (k + 1) * r])
                H[here] += cross + cross.transpose(0, 2, 1)
            self._evaluate(part, here)

    def _recompute(self) -> None:
        """Factorise what is there, and compute everything from it."""
        rows, alive = self._info.rows, self._alive[self._info.structure]
        precision = self._start.with_rows(rows[alive])
        self._state = self._criterion.state(precision)
        self._halves = [precision.whiten(L.T).T for L in self._criterion.roots or ()]
        self._T = np.zeros_like(rows)
        self._T[alive] = precision.whiten(rows[alive])
        self._K = np.eye(self._info.d)
        self._removals = 0
        T = with_zero_row(self._T)
        products = [T @ half for half in self._halves]
        for part in self._bins:
            part.G[:] = outer(T[part.index], T[part.index])
            for H, Q in zip(part.H, products, strict=True):
                H[:] = outer(Q[part.index], Q[part.index])
            self._evaluate(part, np.flatnonzero(self._alive[part.members]))

    def _evaluate(self, part: Bin, here: Int[np.ndarray, " some"]) -> None:
        """Store the losses of some members of a bin: the gains beside the others, where G is ``F⁻¹``."""
        if not len(here):
            return
        F = np.eye(part.index.shape[1]) - part.G[here]
        try:
            np.linalg.cholesky(F)
            G = np.linalg.inv(F)
        except np.linalg.LinAlgError:  # round-off where a member alone knows a direction
            values, E = np.linalg.eigh(F)
            G = (E / np.maximum(values, _LEAST)[:, None, :]) @ E.transpose(0, 2, 1)
        G = 0.5 * (G + G.transpose(0, 2, 1))
        H = [G @ matrices[here] @ G for matrices in part.H]
        self.values[part.members[here]] = self._criterion.losses(G, H, self._state)
