"""What makes one information matrix better than another.

A criterion is a function of the information ``Λ = RᵀR`` with ``C = Λ⁻¹``; a block B adds ``BᵀB``.
D-optimality goes back to Wald (1943); A and the integrated variance IV (also I, V or Q) are the linear criteria
of Fedorov (1972); all three are information functions in the sense of Pukelsheim (2006, ch. 5-6). Gains of a
block are the block forms of the exchange formulas of Fedorov (1972) and Cook and Nachtsheim (1982).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from kernelpot.design.precision import Precision
from kernelpot.errors import ParameterError

Batch = Float[np.ndarray, "blocks r r"]


# ruff: noqa: ARG002 (criteria share signatures, and each uses what it needs)


class Criterion(Protocol):
    """What the searches and certificates need of a criterion."""

    @property
    def name(self) -> str:
        """Name for people."""

    @property
    def larger_is_better(self) -> bool:
        """Direction of `value`."""

    @property
    def submodular(self) -> bool:
        """Whether the gain of a block never grows as others are chosen, which makes lazy greedy exact."""

    @property
    def root(self) -> Float[np.ndarray, "d q"] | None:
        """L with ``V = L Lᵀ``, where gains need ``H = B C V C Bᵀ`` beside ``G = I + B C Bᵀ``."""

    def value(self, precision: Precision) -> float:
        """Raw value of an information matrix."""

    def gradient(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """Differentiate `value` in Λ."""

    def gains(self, G: Batch, H: Batch | None) -> Float[np.ndarray, " blocks"]:
        """How much better (never negative) the value becomes with each block."""

    def follow(self, value: float, lower: Float[np.ndarray, "r r"], U: Float[np.ndarray, "d r"]) -> float:
        """Value after a block, from that before, the Cholesky factor of its G, and U of ``C - U Uᵀ``."""

    def bound(self, value: float, gap: float, d: int) -> float:
        """Limit of any feasible value, from a value and the gap of its linearisation."""

    def efficiency(self, value: float, bound: float, d: int) -> float:
        """Efficiency in (0, 1] of a value against the best that a bound allows."""


@dataclass(frozen=True)
class D:
    """Volume of the confidence ellipsoid: ``log det Λ``, larger is better."""

    name: str = "D"
    larger_is_better: bool = True
    submodular: bool = True
    root: None = None

    def value(self, precision: Precision) -> float:
        """``log det Λ``."""
        return precision.logdet

    def gradient(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """``C``."""
        return precision.covariance

    def gains(self, G: Batch, H: Batch | None) -> Float[np.ndarray, " blocks"]:
        """``log det G`` (matrix determinant lemma)."""
        if G.shape[-1] == 1:
            return np.log(G[:, 0, 0])
        diagonal = np.diagonal(np.linalg.cholesky(G), axis1=1, axis2=2)
        return 2.0 * np.log(diagonal).sum(axis=1)

    def follow(
        self,
        value: float,
        lower: Float[np.ndarray, "r r"],
        U: Float[np.ndarray, "d r"],
    ) -> float:
        """Add ``log det G``."""
        return value + 2.0 * float(np.log(np.diag(lower)).sum())

    def bound(self, value: float, gap: float, d: int) -> float:
        """``f + d log(1 + gap/d)``: ``log det CΛ* <= d log(tr(CΛ*)/d)`` with ``tr(CΛ*) = d + gap``."""
        return value + d * float(np.log1p(max(gap, 0.0) / d))

    def efficiency(self, value: float, bound: float, d: int) -> float:
        """``exp((f - bound)/d)``, the ratio of geometric means of eigenvalues."""
        return float(np.exp(min(value - bound, 0.0) / d))


class IV:
    """Mean variance of the target's predictions: ``φ = tr(VC)``, smaller is better.

    Parameters
    ----------
    V
        Second moment of the rows to be predicted, symmetric and positive semidefinite.

    Raises
    ------
    ParameterError
        If V is not a finite, symmetric, positive semidefinite matrix.
    """

    larger_is_better = False
    submodular = False

    def __init__(self, V: Float[np.ndarray, "d d"], *, name: str = "IV") -> None:
        self.name = name
        V = np.asarray(V, dtype=np.float64)
        if V.ndim != 2 or V.shape[0] != V.shape[1] or not np.isfinite(V).all():
            raise ParameterError(f"`V` must be a finite square matrix, got shape {V.shape}; see Information.target")
        if not np.allclose(V, V.T, rtol=1e-8, atol=1e-12 * np.abs(V).max(initial=0.0)):
            raise ParameterError("`V` must be symmetric; see Information.target")
        values, vectors = np.linalg.eigh(0.5 * (V + V.T))
        noise = len(V) * np.finfo(float).eps * np.abs(values).max(initial=0.0)
        if len(values) and values[0] < -10.0 * noise:
            raise ParameterError(f"`V` must be positive semidefinite, but has the eigenvalue {values[0]:.3g}")
        keep = values > noise
        self.root: Float[np.ndarray, "d q"] = vectors[:, keep] * np.sqrt(values[keep])

    @classmethod
    def from_root(cls, root: Float[np.ndarray, "d q"]) -> IV:
        """Take ``V = L Lᵀ`` from its factor, which keeps directions that V itself would round away.

        Parameters
        ----------
        root
            L, such as `Information.target_root` returns.
        """
        made = cls(np.zeros((len(root), len(root))))
        made.root = np.ascontiguousarray(root, dtype=np.float64)
        return made

    def value(self, precision: Precision) -> float:
        """``tr(VC)``."""
        return float(np.square(precision.whiten(self.root.T)).sum())

    def gradient(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """``-CVC``."""
        half = precision.unwhiten(precision.whiten(self.root.T))
        return -(half @ half.T)

    def gains(self, G: Batch, H: Batch | None) -> Float[np.ndarray, " blocks"]:
        """``tr(G⁻¹H)`` with ``H = B C V C Bᵀ`` (Woodbury)."""
        if H is None:
            raise ParameterError(f"the gain of {self.name} needs H = B C V C Bᵀ")
        if G.shape[-1] == 1:
            return H[:, 0, 0] / G[:, 0, 0]
        return np.trace(np.linalg.solve(G, H), axis1=1, axis2=2)

    def follow(
        self,
        value: float,
        lower: Float[np.ndarray, "r r"],
        U: Float[np.ndarray, "d r"],
    ) -> float:
        """Subtract ``tr(Uᵀ V U)``."""
        return value - float(np.square(self.root.T @ U).sum())

    def bound(self, value: float, gap: float, d: int) -> float:
        """``φ/(1 + gap/φ)``: ``tr(VC)² <= tr(VC*) tr(CVCΛ*)`` with ``tr(CVCΛ*) = φ + gap``."""
        return value / (1.0 + max(gap, 0.0) / value) if value > 0 else 0.0

    def efficiency(self, value: float, bound: float, d: int) -> float:
        """``bound/φ``."""
        return min(bound / value, 1.0) if value > 0 else 1.0


def A(d: int) -> IV:  # noqa: N802
    """Mean variance of the weights: ``tr C``, smaller is better; IV with ``V = I``.

    Parameters
    ----------
    d
        Number of weights.
    """
    return IV(np.eye(d), name="A")
