"""Subsets under a determinantal point process, whose probability is the squared volume of their vectors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from kernelpot.linalg.subsets import SAME, checked


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


def sample(X: Float[np.ndarray, "n F"], k: int, rng: np.random.Generator) -> Int[np.ndarray, " drawn"]:
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


def greedy(X: Float[np.ndarray, "n F"], k: int) -> Int[np.ndarray, " chosen"]:
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
