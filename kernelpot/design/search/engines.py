"""Which way of keeping gains suits a criterion and a pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.design.criteria.base import sensitivities
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.design.search.gains import SHARED_ROWS, TIE, Gains, Path, bins_of, first_of_best, lost, outer
from kernelpot.design.task import Task
from kernelpot.run import ordered

_FIRST_ROWS = 128


class LazyGains:
    """Gains as they were when last looked at, made exact on demand.

    For a submodular criterion a candidate's last known gain is never less than its gain now; for others that is often
    but not always so, and choosing by it is a heuristic. The G (and H) of a candidate is carried over all picks that
    it missed in one go, with the columns U (and Y) of those picks side by side.
    """

    def __init__(self, info: Information, path: Path) -> None:
        self._info, self._path = info, path
        self._roots = path.criterion.roots or ()
        self._bins = bins_of(info, 0, len(info), len(self._roots))
        self._bin = np.zeros(len(info), dtype=np.int64)
        self._position = np.zeros(len(info), dtype=np.int64)
        for b, part in enumerate(self._bins):
            self._bin[part.members] = b
            self._position[part.members] = np.arange(len(part.members))
        # Columns U of past picks, and beneath them those of Y where there is H.
        self._columns = np.empty((1 + len(self._roots), info.d, 0))
        self._width = 0
        self._whitened: tuple[Precision, list[Float[np.ndarray, "d q"]]] | None = None
        self._fresh = np.zeros((1 + len(self._roots), len(info)))
        # Column up to which a candidate's G is current; -1 where it must be computed from the factor.
        self._seen = np.full(len(info), -1)
        self.values = np.zeros(len(info))
        self.update(np.arange(len(info)))

    def add(self, s: int, live: Bool[np.ndarray, " structures"]) -> None:  # noqa: ARG002
        """Choose structure s; gains turn into those of the past."""
        before = self._path.precision
        U = self._path.add(self._info.block(s))
        r = U.shape[1]
        if self._width >= 2 * self._info.d:
            # To carry that many columns over would cost more than to start from the factor.
            self._width = 0
            self._seen[:] = -1
            if not self._path.criterion.submodular:  # a chance for gains that have grown
                self.update(np.arange(len(self._info)))
            return
        if self._width + r > self._columns.shape[2]:
            spare = np.empty((len(self._columns), self._info.d, self._width + 8 * r))
            self._columns = np.concatenate([self._columns[..., : self._width], spare], axis=2)
        self._columns[0, :, self._width : self._width + r] = U
        for k, L in enumerate(self._roots, start=1):
            LU = L.T @ U
            CVU = before.unwhiten(before.whiten((L @ LU).T))
            self._columns[k, :, self._width : self._width + r] = CVU - 0.5 * (U @ (LU.T @ LU))
        self._width += r

    def best(
        self,
        live: Bool[np.ndarray, " structures"],
        scale: Float[np.ndarray, " structures"],
        rank: Int[np.ndarray, " structures"],
    ) -> int:
        """Find the live candidate of the largest ``gain/scale``; of equals, that of the lowest rank."""
        limit = np.where(live, self.values / scale, -np.inf)
        exact = np.empty(0, dtype=np.int64)
        score = np.empty(0)
        batch = max(_FIRST_ROWS * len(limit) // max(len(self._info.rows), 1), 2)
        while True:
            floor = -np.inf if not len(score) else score.max() - TIE * abs(score.max())
            rivals = np.flatnonzero((limit >= floor) & (limit > -np.inf))
            if not len(rivals):
                return int(exact[first_of_best(score, rank[exact])])
            if len(rivals) > batch:
                rivals = rivals[np.argpartition(limit[rivals], -batch)[-batch:]]
            self.update(rivals)
            exact = np.concatenate([exact, rivals])
            score = np.concatenate([score, self.values[rivals] / scale[rivals]])
            limit[rivals] = -np.inf
            batch *= 2

    def update(self, which: Int[np.ndarray, " some"]) -> None:
        """Make the gains of some candidates exact."""
        pieces = []
        for b in np.unique(self._bin[which]):
            members = which[self._bin[which] == b]
            for old in (True, False):
                part = members[(self._seen[members] < 0) == old]
                step = max(SHARED_ROWS // self._bins[b].index.shape[1], 1)
                pieces += [(int(b), part[start : start + step], old) for start in range(0, len(part), step)]
        if any(old for _, _, old in pieces):
            self._halves()  # before threads would all make them
        for _ in ordered(lambda piece: self._update_bin(piece[0], piece[1], old=piece[2]), pieces):
            pass
        self._seen[which] = self._width

    def _update_bin(self, b: int, members: Int[np.ndarray, " some"], *, old: bool) -> None:
        """Make the gains of some members of a bin exact; old ones start from the factor."""
        part, position = self._bins[b], self._position[members]
        rows = self._rows(part.index[position])
        if old:
            T = self._path.precision.whiten(rows.reshape(-1, rows.shape[-1]))
            G = outer(T.reshape(rows.shape), T.reshape(rows.shape)) + np.eye(rows.shape[1])
            products = ((T @ half).reshape(*rows.shape[:2], -1) for half in self._halves())
            H = [outer(Q, Q) for Q in products]
            self._fresh[:, members] = _traces(G, H)
        else:
            start = self._seen[members]
            first = int(start.min())
            missed = (np.arange(first, self._width) >= start[:, None])[:, None, :]
            flat = rows.reshape(-1, rows.shape[-1])
            past = self._columns[..., first : self._width]
            Z, *Y = ((flat @ columns).reshape(*rows.shape[:2], -1) * missed for columns in past)
            G = part.G[position] - outer(Z, Z)
            crosses = [outer(Z, columns) for columns in Y]
            H = [own[position] - cross - cross.transpose(0, 2, 1) for own, cross in zip(part.H, crosses, strict=True)]
            now = _traces(G, H)
            cancelled = lost(self._fresh[0, members], now[0], 1.0)
            for fresh, traces in zip(self._fresh[1:, members], now[1:], strict=True):
                # tr(G⁻¹H) is at least tr H / tr G.
                cancelled |= lost(fresh, traces, float((traces / now[0]).max(initial=0.0)))
            if cancelled.any():
                self._update_bin(b, members[cancelled], old=True)
                rest = ~cancelled
                members, position, G = members[rest], position[rest], G[rest]
                H = [matrices[rest] for matrices in H]
        part.G[position] = G
        for own, matrices in zip(part.H, H, strict=True):
            own[position] = matrices
        self.values[members] = self._path.criterion.gains(G, H, self._path.state)

    def _halves(self) -> list[Float[np.ndarray, "d q"]]:
        """``R⁻ᵀ L`` of the design so far for every root, kept while it stays."""
        precision = self._path.precision
        if self._whitened is None or self._whitened[0] is not precision:
            self._whitened = (precision, [precision.whiten(L.T).T for L in self._roots])
        return self._whitened[1]

    def _rows(self, index: Int[np.ndarray, "m r"]) -> Float[np.ndarray, "m r d"]:
        """Rows of some members of a bin, zero where padded."""
        rows = self._info.rows
        if not len(rows):
            return np.zeros((*index.shape, rows.shape[1]))
        real = index < len(rows)
        picked = rows[np.where(real, index, 0)]
        return picked if real.all() else picked * real[..., None]


def _traces(G: Float[np.ndarray, "m r r"], H: Sequence[Float[np.ndarray, "m r r"]]) -> Float[np.ndarray, "kinds m"]:
    """Traces of the small matrices."""
    return np.stack([np.trace(matrices, axis1=1, axis2=2) for matrices in (G, *H)])


class TriedGains:
    """Exact gains of the candidates whose first-order gains are the largest; the others are not looked at.

    Every criterion here is convex or concave in the information, so that the first-order gain ``tr(S BᵀB)``, with S the
    gradient, is an upper limit of the gain: candidates are tried in its order until no other could win, or until
    `Criterion.tries` of them were.
    """

    def __init__(self, info: Information, path: Path, keep: tuple[int, ...] = ()) -> None:
        self._info, self._path, self._keep = info, path, keep
        self.recompute()

    def restart(self, path: Path, keep: tuple[int, ...] = ()) -> None:
        """Go over to another design, with the same criterion."""
        self._path, self._keep = path, keep
        self.recompute()

    def recompute(self) -> None:
        """Compute the first-order gains; the exact ones follow on demand."""
        criterion, precision = self._path.criterion, self._path.precision
        self._limit = sensitivities(self._info, criterion.sign * criterion.gradient(precision))
        self._gain = criterion.gainer(precision)
        self._exact = np.full(len(self._info), -np.inf)
        for s in self._keep:
            self._evaluate(s)

    def look(self, live: Bool[np.ndarray, " structures"]) -> Float[np.ndarray, " structures"]:
        """Try candidates."""
        self._try(live, np.ones(len(self._info)))
        return self._exact

    @property
    def values(self) -> Float[np.ndarray, " structures"]:
        """Gains; minus infinity for candidates that were not tried."""
        return self.look(np.ones(len(self._info), dtype=bool))

    def best(
        self,
        live: Bool[np.ndarray, " structures"],
        scale: Float[np.ndarray, " structures"],
        rank: Int[np.ndarray, " structures"],
    ) -> int:
        """Find the live candidate of the largest ``gain/scale``; of equals, that of the lowest rank."""
        self._try(live, scale)
        return first_of_best(np.where(live, self._exact / scale, -np.inf), rank)

    def add(self, s: int, live: Bool[np.ndarray, " structures"]) -> None:  # noqa: ARG002 (as in `Gains`)
        """Choose structure s."""
        self._path.add(self._info.block(s))
        self.recompute()

    def _try(self, live: Bool[np.ndarray, " structures"], scale: Float[np.ndarray, " structures"]) -> None:
        """Evaluate the live candidates that could win."""
        tries = self._path.criterion.tries
        limit = np.where(live, self._limit / scale, -np.inf)
        order = np.argsort(-limit, kind="stable")[: int(live.sum())]
        best = np.where(live, self._exact / scale, -np.inf).max(initial=-np.inf)
        for k, s in enumerate(order):
            # Round-off must not let a limit fall below its own gain.
            if (tries is not None and k >= tries) or limit[s] * (1.0 + 1e-9) < best:
                return
            if self._exact[s] == -np.inf:
                self._evaluate(int(s))
            best = max(best, self._exact[s] / scale[s])

    def _evaluate(self, s: int) -> None:
        """Compute one gain."""
        self._exact[s] = self._gain(self._info.block(s))


AnyGains = Gains | LazyGains | TriedGains

SHORT = 3e-3
"""Share of the trace of a block's label kind that gains of large pools leave out; whoever is chosen counts wholly.

On mlearn Si (400 inducing environments, 40 of 214) that takes 4 s in the place of 11, and costs 0.1 % of IV."""
_TALL = 16
_LONG, _VERY_LONG = 1e9, 1e10
"""Mean rows per structure, and operations of a step (rows times d²), above which candidates are shortened; operations
above which gains are lazy though that is a heuristic."""


def economy(task: Task) -> str:
    """Say how greedy keeps gains if it is free to choose: "exact", "lazy" or "short"."""
    info = task.info
    if task.criterion.roots is None:
        return "exact"
    work = float(len(info.rows)) * info.d**2
    if task.criterion.submodular or work > _VERY_LONG:
        return "lazy"
    return "short" if work > _LONG and len(info.rows) > _TALL * len(info) else "exact"


def greedy_name(task: Task, *, lazy: bool | None) -> str:
    """Say in the name of greedy where it is not exact."""
    measure = task.criterion
    if measure.submodular or lazy is False:
        return "greedy"
    if measure.roots is None:
        tried = measure.tries is not None and len(task.info) > measure.tries
        return "greedy (most promising tried)" if tried else "greedy"
    how = "lazy" if lazy else economy(task)
    return {"lazy": "lazy greedy (heuristic)", "short": "greedy (shortened blocks)"}.get(how, "greedy")


def gains_for(info: Information, path: Path, *, lazy: bool = False, short: bool = False) -> AnyGains:
    """Make what keeps the gains of a path's criterion."""
    if path.criterion.roots is None:
        return TriedGains(info, path)
    if lazy:
        return LazyGains(info, path)
    return Gains(info.truncated(SHORT), path, picks=info) if short else Gains(info, path)
