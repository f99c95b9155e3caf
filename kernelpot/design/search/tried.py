"""Gains evaluated one by one, for criteria whose gains need more than small matrices of each block."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.design.criteria.sensitivity import sensitivities
from kernelpot.design.information import Information
from kernelpot.design.search.gains import Path, first_of_best


class TriedGains:
    """Exact gains of the candidates whose first-order gains are the largest; the others are not looked at.

    Every criterion here is convex or concave in the information, so that the first-order gain ``tr(S BᵀB)``, with S the
    gradient, is an upper limit of the gain: candidates are tried in its order until no other could win, or until
    `Criterion.tries` of them were.

    Parameters
    ----------
    info
        Candidate blocks.
    path
        The design so far; `add` extends it.
    keep
        Candidates that are always tried.
    """

    def __init__(self, info: Information, path: Path, keep: tuple[int, ...] = ()) -> None:
        self._info, self._path, self._keep = info, path, keep
        self.recompute()

    def restart(self, path: Path, keep: tuple[int, ...] = ()) -> None:
        """Go over to another design, with the same criterion.

        Parameters
        ----------
        path
            The design.
        keep
            Candidates that are always tried.
        """
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
        """Try candidates.

        Parameters
        ----------
        live
            Those among which the best is wanted.

        Returns
        -------
        gains
            Minus infinity for candidates that were not tried.
        """
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
