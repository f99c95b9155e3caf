"""Several criteria at once: the weighted geometric mean of their information functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from kernelpot.design.criteria.base import Batch, Criterion, Rows, Tangent
from kernelpot.design.criteria.linear import IV, solved_traces
from kernelpot.design.precision import Precision
from kernelpot.errors import ParameterError
from kernelpot.rules import reals

# ruff: noqa: ARG002 (criteria share signatures, and each uses what it needs)


class Compound(Criterion):
    """``Σ_k κ_k log ψ_k``, larger is better: the log of ``Π ψ_k^κ_k`` with Σκ = 1, concave as its parts are.

    Läuter (1974); Cook and Wong (1994). Efficiencies of the parts enter as ratios, so their units do not matter.

    Parameters
    ----------
    parts
        Criteria.
    weights
        κ of each, positive; they are scaled to sum to one.
    d
        Number of weights of the model.

    Raises
    ------
    ParameterError
        If there is no part, or a weight is not positive and finite.
    """

    larger_is_better = True

    def __init__(self, parts: Sequence[Criterion], weights: Sequence[float], d: int) -> None:
        kappa = reals(weights, "weights").astype(np.float64)
        if not len(parts) or kappa.shape != (len(parts),) or not (np.isfinite(kappa) & (kappa > 0)).all():
            raise ParameterError(
                f"a compound needs criteria with one positive weight each, got {len(parts)} and {list(weights)}"
            )
        self.parts, self.d = tuple(parts), d
        kappa = np.maximum(kappa / kappa.max(), np.finfo(float).tiny)  # sums of the largest numbers would overflow
        self.kappa = kappa / kappa.sum()
        self.name = " · ".join(f"{part.name}^{k:.3g}" for part, k in zip(self.parts, self.kappa, strict=True))
        self.symbol = "log mean efficiency"
        self.submodular = len(self.parts) == 1 and self.parts[0].submodular
        if all(part.roots is not None for part in self.parts):
            self.roots = tuple(root for part in self.parts for root in part.roots or ())
        tries = [part.tries for part in self.parts if part.roots is None and part.tries is not None]
        self.tries = min(tries, default=None)
        self.smooth = any(part.smooth for part in self.parts)

    def value(self, precision: Precision) -> float:
        """``Σ κ log ψ``."""
        return self.score(self.state(precision))

    def shown(self, precision: Precision) -> float:
        """Return the same of the values that the parts report."""
        return self.score(np.array([part.shown(precision) for part in self.parts]))

    def gradient(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """``Σ κ ∇log ψ``."""
        slope = np.zeros_like(precision.factor)
        for part, k in zip(self.parts, self.kappa, strict=True):
            slope += k * part.rate(part.value(precision), self.d) * part.gradient(precision)
        return slope

    def state(self, precision: Precision) -> Float[np.ndarray, " parts"]:
        """Values of the parts."""
        return np.array([part.value(precision) for part in self.parts])

    def follow(
        self, state: Float[np.ndarray, " parts"], lower: Float[np.ndarray, "r r"], U: Float[np.ndarray, "d r"]
    ) -> Float[np.ndarray, " parts"]:
        """Carry every part over a block."""
        return np.array([part.follow(state[k : k + 1], lower, U)[0] for k, part in enumerate(self.parts)])

    def beside(
        self, state: Float[np.ndarray, " parts"], across: Sequence[Float[np.ndarray, "r q"]]
    ) -> Float[np.ndarray, " parts"]:
        """Carry every part over."""
        parts = zip(self.parts, state, self._shared(across), strict=True)
        return np.array([part.beside(np.array([value]), own)[0] for part, value, own in parts])

    def score(self, state: Float[np.ndarray, " parts"]) -> float:
        """``Σ κ log ψ`` of the parts' values."""
        return float(sum(k * part.utility(v, self.d) for k, part, v in zip(self.kappa, self.parts, state, strict=True)))

    def gains(
        self, G: Batch, H: Sequence[Batch], state: Float[np.ndarray, " parts"] | None = None
    ) -> Float[np.ndarray, " blocks"]:
        """``Σ κ (log ψ after - log ψ before)`` from the gains of the parts."""
        if state is None:
            raise ParameterError("the gain of a compound depends on the values that its parts have now")
        total = np.zeros(len(G))
        for k, part, value, own in zip(self.kappa, self.parts, state, self._gains(G, H, state), strict=True):
            total += k * part.steps(float(value), own, self.d)
        return total

    def losses(self, G: Batch, H: Sequence[Batch], state: Float[np.ndarray, " parts"]) -> Float[np.ndarray, " blocks"]:
        """``Σ κ (log ψ with a block - log ψ without it)``."""
        total = np.zeros(len(G))
        for k, part, value, own in zip(self.kappa, self.parts, state, self._gains(G, H, state), strict=True):
            total += k * part.falls(float(value), own, self.d)
        return total

    def _gains(
        self, G: Batch, H: Sequence[Batch], state: Float[np.ndarray, " parts"]
    ) -> list[Float[np.ndarray, " blocks"]]:
        """Gains of the parts' values; linear parts share the inverse of G."""
        traces = iter(solved_traces(G, [own[0] for part, own in self._owned(H) if isinstance(part, IV)]))
        return [
            next(traces) if isinstance(part, IV) else part.gains(G, own, state[k : k + 1])
            for k, (part, own) in enumerate(self._owned(H))
        ]

    def _owned(self, matrices: Sequence[np.ndarray]) -> list[tuple[Criterion, Sequence[np.ndarray]]]:
        """Each part with what belongs to it."""
        return list(zip(self.parts, self._shared(matrices), strict=True))

    def _shared(self, matrices: Sequence[np.ndarray]) -> list[Sequence[np.ndarray]]:
        """Share out what there is for every root to the parts."""
        ends = np.cumsum([0, *(len(part.roots or ()) for part in self.parts)])
        return [matrices[a:b] for a, b in pairwise(ends)]

    def gainer(self, precision: Precision) -> Callable[[Rows], float]:
        """Add up the gains of the parts, one block at a time."""
        state = self.state(precision)
        gainers = [part.gainer(precision) for part in self.parts]

        def gain(rows: Rows) -> float:
            steps = (
                part.steps(float(value), np.array([one(rows)]), self.d)[0]
                for part, value, one in zip(self.parts, state, gainers, strict=True)
            )
            return float(sum(k * step for k, step in zip(self.kappa, steps, strict=True)))

        return gain

    def log_size(self, d: int) -> float:
        """1: the value is ``log ψ`` itself."""
        return 1.0

    def tangent(self, precision: Precision) -> Tangent:
        """Mix the tangents of the parts, as ``Σ κ log tr(Γ_k N) <= log tr(Σ κ Γ_k N)`` (Jensen)."""
        tangents = [part.tangent(precision) for part in self.parts]
        slope = np.zeros_like(precision.factor)
        for k, tangent in zip(self.kappa, tangents, strict=True):
            slope += k * tangent.slope
        return Tangent(float(sum(k * t.utility for k, t in zip(self.kappa, tangents, strict=True))), slope)


class MeanVariance(Criterion):
    """The same for variances alone, as their weighted geometric mean ``Π φ_k^κ_k``: smaller is better."""

    symbol = "mean variance"

    def __init__(self, parts: Sequence[IV], weights: Sequence[float], d: int) -> None:
        self._log = Compound(parts, weights, d)
        self.parts, self.kappa, self.name = self._log.parts, self._log.kappa, self._log.name
        self.roots = self._log.roots

    def value(self, precision: Precision) -> float:
        """``Π φ^κ``."""
        return self.score(self.state(precision))

    def gradient(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """Minus the value times that of ``Σ κ log ψ``."""
        return -self.value(precision) * self._log.gradient(precision)

    def state(self, precision: Precision) -> Float[np.ndarray, " parts"]:
        """Values of the parts."""
        return self._log.state(precision)

    def follow(
        self, state: Float[np.ndarray, " parts"], lower: Float[np.ndarray, "r r"], U: Float[np.ndarray, "d r"]
    ) -> Float[np.ndarray, " parts"]:
        """Carry every part over a block."""
        return self._log.follow(state, lower, U)

    def beside(
        self, state: Float[np.ndarray, " parts"], across: Sequence[Float[np.ndarray, "r q"]]
    ) -> Float[np.ndarray, " parts"]:
        """Carry every part over."""
        return self._log.beside(state, across)

    def score(self, state: Float[np.ndarray, " parts"]) -> float:
        """``Π φ^κ``."""
        return float(np.exp(-self._log.score(state)))

    def gains(
        self, G: Batch, H: Sequence[Batch], state: Float[np.ndarray, " parts"] | None = None
    ) -> Float[np.ndarray, " blocks"]:
        """Turn gains of ``Σ κ log ψ`` into those of the value."""
        steps = self._log.gains(G, H, state)
        return -np.expm1(-steps) * self.score(np.asarray(state))

    def losses(self, G: Batch, H: Sequence[Batch], state: Float[np.ndarray, " parts"]) -> Float[np.ndarray, " blocks"]:
        """Turn losses of ``Σ κ log ψ`` into those of the value."""
        return np.expm1(self._log.losses(G, H, state)) * self.score(state)

    def gainer(self, precision: Precision) -> Callable[[Rows], float]:
        """Turn gains of ``Σ κ log ψ`` into those of the value, one block at a time."""
        one, now = self._log.gainer(precision), self.value(precision)
        return lambda rows: -float(np.expm1(-one(rows))) * now

    def tangent(self, precision: Precision) -> Tangent:
        """Mix the tangents of the parts."""
        return self._log.tangent(precision)
