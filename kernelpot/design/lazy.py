"""Gains that are brought up to date only where they could win (Minoux 1978)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.design.gains import CHUNK_ROWS, TIE, Path, bins_of, first_of_best, lost, outer
from kernelpot.design.information import Information

_FIRST_ROWS = 128


class LazyGains:
    """Upper limits of the gains of a submodular criterion, made exact on demand.

    A candidate's last known gain is never less than its gain now. Its G is carried over all picks that it
    missed in one go, with the columns U of those picks side by side.

    Parameters
    ----------
    info
        Candidate blocks.
    path
        The design so far; `add` extends it. Its criterion must be submodular and need no H.
    """

    def __init__(self, info: Information, path: Path) -> None:
        self._info, self._path = info, path
        self._bins = bins_of(info, 0, len(info), 0)
        self._bin = np.zeros(len(info), dtype=np.int64)
        self._position = np.zeros(len(info), dtype=np.int64)
        for b, part in enumerate(self._bins):
            self._bin[part.members] = b
            self._position[part.members] = np.arange(len(part.members))
        self._columns = np.empty((info.d, 0))
        self._width = 0
        self._fresh = np.zeros(len(info))
        # Column up to which a candidate's G is current; -1 where it must be computed from the factor.
        self._seen = np.full(len(info), -1)
        self.values = np.zeros(len(info))
        self.update(np.arange(len(info)))

    def add(self, s: int, live: Bool[np.ndarray, " structures"]) -> None:  # noqa: ARG002
        """Choose structure s; gains turn into upper limits."""
        U = self._path.add(self._info.block(s))
        r = U.shape[1]
        if self._width >= 2 * self._info.d:
            # To carry that many columns over would cost more than to start from the factor.
            self._width = 0
            self._seen[:] = -1
            return
        if self._width + r > self._columns.shape[1]:
            spare = np.empty((self._info.d, self._width + 8 * r))
            self._columns = np.concatenate([self._columns[:, : self._width], spare], axis=1)
        self._columns[:, self._width : self._width + r] = U
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
        for b in np.unique(self._bin[which]):
            members = which[self._bin[which] == b]
            for old in (True, False):
                part = members[(self._seen[members] < 0) == old]
                step = max(CHUNK_ROWS // self._bins[b].index.shape[1], 1)
                for start in range(0, len(part), step):
                    self._update_bin(int(b), part[start : start + step], old=old)
        self._seen[which] = self._width

    def _update_bin(self, b: int, members: Int[np.ndarray, " some"], *, old: bool) -> None:
        """Make the gains of some members of a bin exact; old ones start from the factor."""
        part, position = self._bins[b], self._position[members]
        rows = self._rows(part.index[position])
        if old:
            T = self._path.precision.whiten(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape)
            G = outer(T, T) + np.eye(rows.shape[1])
            self._fresh[members] = np.trace(G, axis1=1, axis2=2)
        else:
            start = self._seen[members]
            first = int(start.min())
            flat = rows.reshape(-1, rows.shape[-1]) @ self._columns[:, first : self._width]
            Z = flat.reshape(*rows.shape[:2], -1)
            Z *= (np.arange(first, self._width) >= start[:, None])[:, None, :]
            G = part.G[position] - outer(Z, Z)
            cancelled = lost(self._fresh[members], np.trace(G, axis1=1, axis2=2), 1.0)
            if cancelled.any():
                self._update_bin(b, members[cancelled], old=True)
                members, position, G = members[~cancelled], position[~cancelled], G[~cancelled]
        part.G[position] = G
        self.values[members] = self._path.criterion.gains(G, (), self._path.state)

    def _rows(self, index: Int[np.ndarray, "m r"]) -> Float[np.ndarray, "m r d"]:
        """Rows of some members of a bin, zero where padded."""
        rows = self._info.rows
        if not len(rows):
            return np.zeros((*index.shape, rows.shape[1]))
        real = index < len(rows)
        picked = rows[np.where(real, index, 0)]
        return picked if real.all() else picked * real[..., None]
