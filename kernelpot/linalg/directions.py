"""The directions that a set of vectors spans."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

from kernelpot.linalg.groups import SAME

_CHUNK = 1 << 15


def gram(X: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "F F"]:
    """Return XᵀX in float64, whatever the precision of X, without a copy of X."""
    total = np.zeros((X.shape[1], X.shape[1]))
    for start in range(0, len(X), _CHUNK):
        part = X[start : start + _CHUNK].astype(np.float64, copy=False)
        total += part.T @ part
    return total


def leading(
    X: Float[np.ndarray, "n F"], k: int, *, scale: float | None = None, cut: float = SAME
) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "F r"]]:
    """Find the leading right singular vectors of X.

    They come from the Gram matrix of the shorter side, so that singular values below about 1e-8 of the largest are
    noise; the default cut lies above.

    Parameters
    ----------
    X
        Vectors.
    k
        Number of directions at most.
    scale
        What singular values are compared with. None: the largest of them.
    cut
        Smallest share of the scale that still counts as a direction.

    Returns
    -------
    values, V
        Singular values in falling order, and the orthonormal directions, one a column.
    """
    n, F = X.shape
    k = min(k, n, F)
    if k < 1:
        return np.empty(0), np.empty((F, 0))
    small = gram(X) if n >= F else X.astype(np.float64, copy=False) @ X.T
    side = len(small)
    squares, vectors = eigh(small, subset_by_index=[side - k, side - 1], check_finite=False)
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    floor = cut * (values[0] if scale is None else scale)
    kept = values > max(floor, np.finfo(np.float64).tiny)
    values, vectors = values[kept], vectors[:, ::-1][:, kept]
    if n >= F:
        return values, np.ascontiguousarray(vectors)
    return values, np.asarray(np.linalg.qr(X.T @ vectors)[0])


def off_span(X: Float[np.ndarray, "n F"], given: Float[np.ndarray, "m F"]) -> Float[np.ndarray, "n F"]:
    """Take out of every vector what lies in the span of given ones.

    Parameters
    ----------
    X
        Vectors.
    given
        Vectors whose span is taken out; their directions below 1e-6 of the strongest do not count.
    """
    V = leading(given, given.shape[1])[1]
    rest = X - (X @ V) @ V.T
    # Twice: what cancellation left in the span goes with the second pass.
    result: np.ndarray = rest - (rest @ V) @ V.T
    return result
