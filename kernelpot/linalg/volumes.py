"""Subsets of large volume: maxvol, leverage, determinantal point processes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import eigh, qr, solve

from kernelpot.linalg.subsets import SAME, checked

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
    """Take out of every vector what lies in the span of given ones."""
    V = leading(given, given.shape[1])[1]
    rest = X - (X @ V) @ V.T
    # Twice: what cancellation left in the span goes with the second pass.
    result: np.ndarray = rest - (rest @ V) @ V.T
    return result


def iterative_cur(
    X: Float[np.ndarray, "n F"], k: int, *, given: Float[np.ndarray, "m F"] | None = None
) -> Int[np.ndarray, " chosen"]:
    """Choose rows one by one: the largest entry of the leading left singular vector of what chosen rows leave.

    CUR with the score of one singular vector (Mahoney and Drineas 2009) in the deterministic, iterative form of
    Imbalzano et al. (2018), as in scikit-matter's sample CUR with its defaults. Only the Gram matrix of the columns
    is kept up to date: the leading right singular vector v of the rest is orthogonal to the chosen rows, so
    the left one is X v.
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
    """
    X = checked(X, k)
    given = np.empty((0, X.shape[1])) if given is None else checked(given, None)
    scale = leading(X, 1)[0].max(initial=0.0)
    outside = off_span(X, given) if len(given) else X
    V = leading(outside, k, scale=scale)[1]
    chosen = square(outside @ V, tol=tol) if V.shape[1] else np.empty(0, dtype=np.int64)
    if len(chosen) == k:
        return chosen
    # The row of the largest x (AᵀA)⁻¹ xᵀ is added again and again. The scores only fall, so only rows whose last known
    # score could still win are updated (Minoux 1978).
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


def square(W: Float[np.ndarray, "n r"], *, tol: float = TOLERANCE) -> Int[np.ndarray, " r"]:
    """Choose r of n rows so that no swap of one row enlarges the volume |det| by more than a share tol.

    With A the chosen rows, the entries of ``B = W A⁻¹`` are the factors by which swaps change the volume; swaps go
    on until none exceeds 1 + tol in size (Goreinov et al. 2010).
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


def log_elementary(logs: Float[np.ndarray, " r"], k: int) -> Float[np.ndarray, "k+1 r+1"]:
    """Return logarithms of elementary symmetric polynomials, ``E[l, j] = log e_l(λ_1, …, λ_j)``.

    The recursion e_l(j) = e_l(j - 1) + λ_j e_(l-1)(j - 1) (Kulesza and Taskar 2011, algorithm 1) in logarithms, as
    the polynomials leave the range of numbers soon.
    """
    E = np.full((k + 1, len(logs) + 1), -np.inf)
    E[0] = 0.0
    for j, log in enumerate(logs):
        E[1:, j + 1] = np.logaddexp(E[1:, j], log + E[:-1, j])
    return E


def dpp_sample(X: Float[np.ndarray, "n F"], k: int, rng: np.random.Generator) -> Int[np.ndarray, " drawn"]:
    """Draw k rows with a probability in proportion to det of their k × k Gram matrix, exactly.

    The two steps of Kulesza and Taskar (2011): k eigenvectors of L = XXᵀ are drawn by elementary symmetric
    polynomials, then one row for each from the projection that they span. Eigenvectors come from the
    shorter side of X; no n × n matrix is made unless n < F.

    Parameters
    ----------
    X
        Rows; the kernel is that of their dot products.
    k
        How many to draw; fewer are drawn where X has fewer directions (above 1e-6 of the strongest).
    rng
        Source of chance.

    Returns
    -------
    indices
        Distinct, in the order of drawing, which is exchangeable.

    Raises
    ------
    ParameterError
        If k is not between 1 and n.
    DataError
        If a row is not finite.
    """
    X = checked(X, k)
    # QR first, so that left singular vectors are orthonormal to round-off.
    if len(X) >= X.shape[1]:
        Q, R = np.linalg.qr(X)
        U, values, _ = np.linalg.svd(R)
    else:
        U, values, _ = np.linalg.svd(np.asarray(np.linalg.qr(X.T, mode="r")).T)
    keep = values > SAME * values.max(initial=0.0)
    values, U = values[keep], U[:, keep]
    if len(X) >= X.shape[1]:
        U = Q @ U
    k = min(k, len(values))
    logs = 2.0 * np.log(values)
    E = log_elementary(logs, k)
    picked, left = [], k
    for j in range(len(values), 0, -1):
        if left == 0:
            break
        # 1 - u lies in (0, 1], so that its logarithm is finite, and is never above a certain 0.
        if np.log1p(-rng.random()) <= logs[j - 1] + E[left - 1, j - 1] - E[left, j]:
            picked.append(j - 1)
            left -= 1
    # From the projection VVᵀ row by row with the chain rule, as a pivoted Cholesky factor grows.
    V = U[:, picked]
    left_over = np.einsum("nk,nk->n", V, V)
    C = np.empty(V.shape, order="F")
    drawn = np.empty(V.shape[1], dtype=np.int64)
    for t in range(len(drawn)):
        i = int(rng.choice(len(V), p=left_over / left_over.sum()))
        drawn[t] = i
        C[:, t] = (V @ V[i] - C[:, :t] @ C[i, :t]) / np.sqrt(left_over[i])
        left_over = np.maximum(left_over - C[:, t] ** 2, 0.0)
        left_over[drawn[: t + 1]] = 0.0
    return drawn


def dpp_greedy(X: Float[np.ndarray, "n F"], k: int) -> Int[np.ndarray, " chosen"]:
    """Choose rows one by one, each the one that enlarges the determinant of the Gram matrix most.

    Greedy search of the most probable subset with an incremental Cholesky factor (Chen, Zhang and Zhou 2018,
    algorithm 1): n (F + t) operations for the t-th row.
    """
    X = checked(X, k)
    left = np.einsum("nf,nf->n", X, X)
    floor = SAME**2 * left.max(initial=0.0)
    C = np.empty((len(X), k), order="F")
    chosen: list[int] = []
    for t in range(k):
        best = left.max()
        if best <= floor:
            break
        i = int(np.argmax(left >= best * (1.0 - 1e-12)))
        C[:, t] = (X @ X[i] - C[:, :t] @ C[i, :t]) / np.sqrt(left[i])
        left -= C[:, t] ** 2
        chosen.append(i)
        left[chosen] = -np.inf
    return np.array(chosen, dtype=np.int64)
