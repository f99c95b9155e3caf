"""What the searches and certificates need of a criterion: a value, its gradient, and little more.

Each criterion stands for an information function ψ in the sense of Pukelsheim (2006, ch. 5): concave, never falling as
information grows, and ψ(tΛ) = tψ(Λ). So with ``Γ = ∇ log ψ`` at any information M, every other information N obeys
``log ψ(N) <= log ψ(M) + log tr(ΓN)``, and ``tr(ΓM) = 1``: the one inequality that all bounds here come from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.errors import ParameterError

Batch = Float[np.ndarray, "blocks r r"]
Rows = Float[np.ndarray, "rows d"]


@dataclass(frozen=True, eq=False)
class Tangent:
    """An upper limit of log ψ at every information N: ``log ψ(N) <= utility + log tr(ΓN)``."""

    # log ψ where the tangent touches; for a criterion that is a maximum over others, that of the others'
    # mixture
    utility: float
    slope: Float[np.ndarray, "d d"]  # Γ, positive semidefinite, with ``tr(ΓM) = 1`` where it touches


# ruff: noqa: ARG002 (criteria share signatures, and each uses what it needs)


class Criterion(ABC):
    """A measure of information matrices ``Λ``, with ``C = Λ⁻¹``.

    A new criterion gives `value` and `gradient`; where gains have a closed form that needs only small matrices of
    each block, it also gives `roots` and `gains`, which makes searches fast. Without them gains are evaluated one by
    one, by `gainer`, for the candidates whose first-order gain is the largest.

    Attributes
    ----------
    name, symbol
        For people.
    larger_is_better
        Direction of `value`.
    submodular
        Whether the gain of a block never grows as others are chosen, which makes lazy greedy exact.
    roots
        Matrices L with ``V = L Lᵀ`` for which gains need ``H = B C V C Bᵀ`` beside ``G = I + B C Bᵀ``; None where G and
        H are not enough.
    tries
        How many candidates have their gain evaluated at every step where `roots` is None; None: all.
    smooth
        Whether `value` is a smooth stand-in for what `shown` reports.
    unit
        Of the value; "noise²" where it is a variance of labels in units of their noise, empty elsewhere.
    """

    name: str = ""
    symbol: str = ""
    larger_is_better: bool = False
    submodular: bool = False
    roots: tuple[Float[np.ndarray, "d q"], ...] | None = None
    tries: int | None = None
    smooth: bool = False
    unit: str = ""

    @abstractmethod
    def value(self, precision: Precision) -> float:
        """Raw value of an information matrix, which searches improve."""

    @abstractmethod
    def gradient(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """Differentiate `value` in Λ."""

    @property
    def sign(self) -> float:
        """1 where larger is better, else -1."""
        return 1.0 if self.larger_is_better else -1.0

    def shown(self, precision: Precision) -> float:
        """Value that is reported and certified; differs from `value` where that is a smooth stand-in."""
        return self.value(precision)

    # ---- gains

    def state(self, precision: Precision) -> Float[np.ndarray, " parts"]:
        """Numbers from which `follow` goes on and gains are scaled."""
        return np.array([self.value(precision)])

    def follow(
        self, state: Float[np.ndarray, " parts"], lower: Float[np.ndarray, "r r"], U: Float[np.ndarray, "d r"]
    ) -> Float[np.ndarray, " parts"]:
        """Carry the state over a block, from the Cholesky factor of its G, and U of ``C - U Uᵀ``."""
        raise ParameterError(f"{self.name} has no closed form that follows a block")

    def beside(
        self, state: Float[np.ndarray, " parts"], across: Sequence[Float[np.ndarray, "r q"]]
    ) -> Float[np.ndarray, " parts"]:
        """State, as far as gains need it, where C has grown to ``R⁻¹(I + WᵀW)R⁻ᵀ``, from ``W R⁻ᵀ L`` of every root."""
        return state

    def score(self, state: Float[np.ndarray, " parts"]) -> float:
        """Raw value of a state."""
        return float(state[0])

    def gains(
        self, G: Batch, H: Sequence[Batch], state: Float[np.ndarray, " parts"] | None = None
    ) -> Float[np.ndarray, " blocks"]:
        """How much better (never negative) the value becomes with each block, from its G and one H for each root."""
        raise ParameterError(f"gains of {self.name} need more than small matrices of each block")

    def losses(self, G: Batch, H: Sequence[Batch], state: Float[np.ndarray, " parts"]) -> Float[np.ndarray, " blocks"]:
        """How much worse the value is without a block, from G and H beside the others and the state with all."""
        return self.gains(G, H, state)

    def gainer(self, precision: Precision) -> Callable[[Rows], float]:
        """Return a function from a block to its gain at an information matrix."""
        before = self.value(precision)
        return lambda rows: self.sign * (self.value(precision.with_rows(rows)) - before)

    def falls(self, value: float, losses: Float[np.ndarray, " blocks"], d: int) -> Float[np.ndarray, " blocks"]:
        """Turn losses of a value into losses of its log ψ."""
        if (size := self.log_size(d)) is not None:
            return losses / size
        return np.log1p(losses / value) if value > 0 else np.zeros(len(losses))

    # ---- bounds

    def log_size(self, d: int) -> float | None:
        """Return k where the value is ``k log ψ``; None, as here, where ``ψ = 1/value``."""
        return None

    def utility(self, value: float, d: int) -> float:
        """``log ψ`` of a value."""
        if (size := self.log_size(d)) is not None:
            return value / size
        return -float(np.log(value)) if value > 0 else np.inf

    def raw(self, utility: float, d: int) -> float:
        """Value of a ``log ψ``."""
        if (size := self.log_size(d)) is not None:
            return utility * size
        return float(np.exp(-utility))

    def rate(self, value: float, d: int) -> float:
        """Differentiate the utility in the value; zero where nothing is left to improve."""
        if (size := self.log_size(d)) is not None:
            return 1.0 / size
        return -1.0 / value if value > 0 else 0.0

    def steps(self, value: float, gains: Float[np.ndarray, " blocks"], d: int) -> Float[np.ndarray, " blocks"]:
        """Turn gains of a value into gains of its log ψ."""
        if (size := self.log_size(d)) is not None:
            return gains / size
        if value <= 0:
            return np.zeros(len(gains))
        return -np.log1p(-np.minimum(gains / value, 1.0 - np.finfo(float).eps))

    def tangent(self, precision: Precision) -> Tangent:
        """Limit of what any information could reach, touching this one."""
        value, d = self.value(precision), len(precision.factor)
        utility = self.utility(value, d)
        if not np.isfinite(utility):
            return Tangent(utility, np.zeros_like(precision.factor))
        return Tangent(utility, self.rate(value, d) * self.gradient(precision))

    def efficiency(self, value: float, bound: float, d: int) -> float:
        """``ψ(value)/ψ(bound)`` in (0, 1], where the bound is a raw value too."""
        ours, best = self.utility(value, d), self.utility(bound, d)
        return 1.0 if ours >= best else float(np.exp(ours - best))


_CHUNK = 1 << 14


def sensitivities(info: Information, slope: Float[np.ndarray, "d d"]) -> Float[np.ndarray, " structures"]:
    """Directional derivative ``tr(S B_sᵀ B_s)`` of every block."""
    per_row = np.empty(len(info.rows))
    for start in range(0, len(per_row), _CHUNK):
        rows = info.rows[start : start + _CHUNK]
        per_row[start : start + _CHUNK] = np.einsum("rd,rd->r", rows @ slope, rows)
    # Round-off can leave a derivative of zero slightly negative.
    return np.maximum(np.bincount(info.structure, weights=per_row, minlength=len(info)), 0.0)


def squares(info: Information) -> Float[np.ndarray, " structures"]:
    """Trace of ``B_sᵀ B_s`` of every block."""
    per_row = np.einsum("rd,rd->r", info.rows, info.rows)
    return np.bincount(info.structure, weights=per_row, minlength=len(info))
