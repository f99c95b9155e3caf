"""Rows that carry the leading singular vector."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import eigh

from kernelpot.linalg.directions import gram, leading, off_span
from kernelpot.linalg.groups import SAME
from kernelpot.linalg.subsets import checked


def iterative_cur(
    X: Float[np.ndarray, "n F"], k: int, *, given: Float[np.ndarray, "m F"] | None = None
) -> Int[np.ndarray, " chosen"]:
    """Choose rows one by one: the largest entry of the leading left singular vector of what chosen rows leave.

    CUR with the score of one singular vector (Mahoney and Drineas 2009) in the deterministic, iterative form of
    Imbalzano et al. (2018), as in scikit-matter's sample CUR with its defaults. Only the Gram matrix of the columns
    is kept up to date: the leading right singular vector v of the rest is orthogonal to the chosen rows, so
    the left one is X v.

    Parameters
    ----------
    X
        Rows.
    k
        How many to choose; it ends early where chosen rows leave less than 1e-6 of the largest singular value.
    given
        Rows that are chosen already.

    Returns
    -------
    indices
        Distinct, in the order of choice; ties go to the lowest index.

    Raises
    ------
    ParameterError
        If k is not between 1 and n.
    DataError
        If a row is not finite.
    """
    X = checked(X, k)
    scale = float(leading(X, 1)[0].max(initial=0.0))
    if given is not None and len(given):
        X = off_span(X, checked(given, None))
    if X.shape[1] > len(X):
        # The same Gram matrix of the rows in fewer columns.
        X = np.asarray(np.linalg.qr(X.T, mode="r")).T
    C = gram(X)
    side = len(C)
    Q = np.zeros((side, 0))
    free = np.ones(len(X), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(k, side)):
        square, v = eigh(C, subset_by_index=[side - 1, side - 1], check_finite=False)
        if not square[0] > (SAME * scale) ** 2:
            break
        new = int(np.argmax(np.where(free, np.abs(X @ v[:, 0]), -1.0)))
        chosen.append(new)
        free[new] = False
        q = X[new] - Q @ (Q.T @ X[new])
        q -= Q @ (Q.T @ q)
        q /= np.linalg.norm(q)
        Q = np.concatenate([Q, q[:, None]], axis=1)
        along = C @ q
        C += float(q @ along) * np.outer(q, q) - np.outer(along, q) - np.outer(q, along)
    return np.array(chosen, dtype=np.int64)
