"""Rows of large volume."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import qr, solve

from kernelpot.linalg.directions import leading, off_span
from kernelpot.linalg.groups import SAME
from kernelpot.linalg.subsets import checked

TOLERANCE = 0.05
"""How much a swap must enlarge the volume, as a share."""

_BATCH = 64
# Gains below this may be round-off, and swaps for them would go round.
_ROUND_OFF = 1e-6


def maxvol(
    X: Float[np.ndarray, "n F"],
    k: int,
    *,
    given: Float[np.ndarray, "m F"] | None = None,
    tol: float = TOLERANCE,
) -> Int[np.ndarray, " k"]:
    """Choose rows of large volume.

    Up to as many rows as X has directions: the square submatrix in the k leading right singular directions, found
    by pivoted QR and swaps (`square`). Beyond: rows are added one by one, each the one that enlarges the rectangular
    volume det(AᵀA)^½ most (Mikhalev and Oseledets 2018, algorithm 2). Directions below 1e-6 of the strongest do
    not count.

    Parameters
    ----------
    X
        Rows.
    k
        How many to choose.
    given
        Rows that are there already. The volume of given and chosen ones together is that of the given ones times
        that of the chosen ones outside their span, so the span is taken out first.
    tol
        As in `square`.

    Returns
    -------
    indices
        Distinct; those of the square part first, in the order of a pivoted QR, then the added ones.

    Raises
    ------
    ParameterError
        If k is not between 1 and n.
    DataError
        If a row is not finite.
    """
    X = checked(X, k)
    given = np.empty((0, X.shape[1])) if given is None else checked(given, None)
    scale = leading(X, 1)[0].max(initial=0.0)
    outside = off_span(X, given) if len(given) else X
    V = leading(outside, k, scale=scale)[1]
    chosen = square(outside @ V, tol=tol) if V.shape[1] else np.empty(0, dtype=np.int64)
    return chosen if len(chosen) == k else _grow(X, chosen, given, k)


def square(W: Float[np.ndarray, "n r"], *, tol: float = TOLERANCE) -> Int[np.ndarray, " r"]:
    """Choose r of n rows so that no swap of one row enlarges the volume |det| by more than a share tol.

    With A the chosen rows, the entries of ``B = W A⁻¹`` are the factors by which swaps change the volume; swaps go
    on until none exceeds 1 + tol in size (Goreinov et al. 2010).

    Parameters
    ----------
    W
        Rows, of full column rank.
    tol
        Smallest share by which a swap must enlarge the volume; 1e-6 where less is given.

    Returns
    -------
    indices
        In the order of a pivoted QR of the chosen rows.
    """
    rows = qr(W.T, mode="r", pivoting=True, check_finite=False)[1][: W.shape[1]].astype(np.int64)
    # Updates add up round-off: what they end with is checked with a fresh B.
    while _swaps(W, rows, tol):
        pass
    order = qr(W[rows].T, mode="r", pivoting=True, check_finite=False)[1]
    result: np.ndarray = rows[order]
    return result


def _swaps(W: Float[np.ndarray, "n r"], rows: Int[np.ndarray, " r"], tol: float) -> int:
    """Swap rows in place as long as it helps, and count the swaps."""
    B = np.asfortranarray(solve(W[rows].T, W.T, check_finite=False).T)
    done = 0
    # As many as can pass before B is made afresh.
    for _ in range(4 * len(rows)):
        i, j = np.unravel_index(np.argmax(np.abs(B)), B.shape)
        if abs(B[i, j]) <= 1.0 + max(tol, _ROUND_OFF):
            break
        row = B[i].copy()
        row[j] -= 1.0
        B -= np.outer(B[:, j] / B[i, j], row)
        rows[j] = i
        done += 1
    return done


def _grow(
    X: Float[np.ndarray, "n F"], chosen: Int[np.ndarray, " r"], given: Float[np.ndarray, "m F"], k: int
) -> Int[np.ndarray, " k"]:
    """Add the row of the largest ``x (AᵀA)⁻¹ xᵀ`` again and again.

    The scores only fall, so only rows whose last known score could still win are updated (Minoux 1978).
    """
    A = np.concatenate([given, X[chosen]])
    values, V = leading(A, X.shape[1], cut=SAME)
    Y = (X @ V) / values
    score = np.einsum("nr,nr->n", Y, Y)
    score[chosen] = -np.inf
    inverse = np.eye(Y.shape[1])
    result = chosen.tolist()
    while len(result) < k:
        top = np.argpartition(score, -min(_BATCH, len(X)))[-min(_BATCH, len(X)) :]
        top = top[score[top] > -np.inf]
        score[top] = np.einsum("nr,nr->n", Y[top] @ inverse, Y[top])
        new = int(np.argmax(score))
        if new not in top:
            continue
        result.append(new)
        v = inverse @ Y[new]
        inverse -= np.outer(v, v) / (1.0 + float(Y[new] @ v))
        score[new] = -np.inf
    return np.array(result, dtype=np.int64)
