"""Mean variances of linear functionals of the weights: ``φ = tr(VC)``, smaller is better.

A, IV (integrated variance; also I, Q), V, c and L differ in V alone: the linear criteria of Fedorov (1972, ch. 2); c
goes back to Elfving (1952). Gains are block forms of the exchange formulas of Cook and Nachtsheim (1982).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from kernelpot.design.criteria.base import Batch, Criterion, Rows
from kernelpot.design.precision import Precision
from kernelpot.errors import ParameterError

# ruff: noqa: ARG002 (criteria share signatures, and each uses what it needs)


class IV(Criterion):
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

    def __init__(self, V: Float[np.ndarray, "d d"], *, name: str = "IV") -> None:
        self.name = name
        self.symbol = _SYMBOLS.get(name, "tr(VC)")
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
        self._set_root(vectors[:, keep] * np.sqrt(values[keep]))

    @classmethod
    def from_root(cls, root: Float[np.ndarray, "d q"], *, name: str = "IV") -> IV:
        """Take ``V = L Lᵀ`` from its factor, which keeps directions that V itself would round away.

        Parameters
        ----------
        root
            L, such as `Information.target_root` returns.
        name
            Name for people.
        """
        root = np.asarray(root, dtype=np.float64)
        if root.ndim != 2 or not np.isfinite(root).all():
            raise ParameterError(f"`root` must be a finite matrix of shape (weights, q), got shape {root.shape}")
        made = cls(np.zeros((len(root), len(root))), name=name)
        made._set_root(root)
        return made

    def _set_root(self, root: Float[np.ndarray, "d q"]) -> None:
        """Keep the factor, at most d columns wide."""
        if root.shape[1] > root.shape[0]:
            root = np.asarray(np.linalg.qr(root.T, mode="r")).T
        self.root: Float[np.ndarray, "d q"] = np.ascontiguousarray(root)
        self.roots = (self.root,)

    def value(self, precision: Precision) -> float:
        """``tr(VC)``."""
        return float(np.square(precision.whiten(self.root.T)).sum())

    def gradient(self, precision: Precision) -> Float[np.ndarray, "d d"]:
        """``-CVC``."""
        half = precision.unwhiten(precision.whiten(self.root.T))
        return -(half @ half.T)

    def gains(
        self, G: Batch, H: Sequence[Batch], state: Float[np.ndarray, " parts"] | None = None
    ) -> Float[np.ndarray, " blocks"]:
        """``tr(G⁻¹H)`` with ``H = B C V C Bᵀ`` (Woodbury)."""
        if len(H) != 1:
            raise ParameterError(f"the gain of {self.name} needs one H = B C V C Bᵀ, got {len(H)}")
        return solved_traces(G, H)[0]

    def gainer(self, precision: Precision) -> Callable[[Rows], float]:
        """``tr(G⁻¹H)``, one block at a time."""
        half = precision.whiten(self.root.T).T

        def gain(rows: Rows) -> float:
            T, lower = precision.beside(rows)
            return float(np.square(solve_triangular(lower, T @ half, lower=True)).sum())

        return gain

    def follow(
        self, state: Float[np.ndarray, " parts"], lower: Float[np.ndarray, "r r"], U: Float[np.ndarray, "d r"]
    ) -> Float[np.ndarray, " parts"]:
        """Subtract ``tr(Uᵀ V U)``."""
        return state - float(np.square(self.root.T @ U).sum())

    def beside(
        self, state: Float[np.ndarray, " parts"], across: Sequence[Float[np.ndarray, "r q"]]
    ) -> Float[np.ndarray, " parts"]:
        """Add ``tr(W R⁻ᵀ V R⁻¹ Wᵀ)``."""
        return state + float(np.square(across[0]).sum())


def solved_traces(G: Batch, H: Sequence[Batch]) -> list[Float[np.ndarray, " blocks"]]:
    """``tr(G⁻¹H)`` of every H; G is inverted once for all."""
    if G.shape[-1] == 1:
        return [matrices[:, 0, 0] / G[:, 0, 0] for matrices in H]
    try:
        inverse = np.linalg.inv(G)
    except np.linalg.LinAlgError:  # round-off: G is I or larger
        values, E = np.linalg.eigh(G)
        inverse = (E / np.maximum(values, 1.0)[:, None, :]) @ E.transpose(0, 2, 1)
    # H is symmetric, so the trace of the product is the sum of the products.
    return [np.einsum("mij,mij->m", inverse, matrices) for matrices in H]


_SYMBOLS = {"A": "tr C", "IV": "tr(VC)", "V": "mean variance", "c": "var(cᵀw)", "L": "tr(LCLᵀ)"}


def A(d: int) -> IV:  # noqa: N802
    """Mean variance of the weights: ``tr C``, smaller is better; IV with ``V = I``.

    Parameters
    ----------
    d
        Number of weights.
    """
    return IV(np.eye(d), name="A")


def V(points: Float[np.ndarray, "points d"]) -> IV:  # noqa: N802
    """Mean variance at given points, each counted alike: ``tr(C PᵀP)/points`` (Fedorov 1972, ch. 2).

    Parameters
    ----------
    points
        Rows P of the functionals to be predicted, in whatever unit their variance is wanted.
    """
    P = _rows(points, "V")
    return IV.from_root(P.T / np.sqrt(len(P)), name="V")


def c(vector: Float[np.ndarray, " d"]) -> IV:
    """Variance of one linear functional: ``cᵀ C c`` (Elfving 1952).

    Parameters
    ----------
    vector
        c, such as the row of an elastic constant.
    """
    return IV.from_root(_rows(np.reshape(vector, (1, -1)), "c").T, name="c")


def L(rows: Float[np.ndarray, "functionals d"]) -> IV:  # noqa: N802
    """Sum of the variances of several functionals: ``tr(L C Lᵀ)`` (Fedorov 1972, ch. 2).

    Parameters
    ----------
    rows
        L, one functional a row, each divided by the accuracy that is wanted of it.
    """
    return IV.from_root(_rows(rows, "L").T, name="L")


def _rows(rows: Float[np.ndarray, "rows d"], name: str) -> Float[np.ndarray, "rows d"]:
    """Check rows of functionals."""
    checked = np.asarray(rows, dtype=np.float64)
    if checked.ndim != 2 or not len(checked) or not np.isfinite(checked).all():
        raise ParameterError(f"criterion {name!r} needs finite rows of shape (rows, d), got shape {checked.shape}")
    return checked
