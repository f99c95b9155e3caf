"""Subsets of vectors that stand for the rest."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numba import njit, prange

from kernelpot.errors import DataError, ParameterError

# All of fastmath but "no NaNs" and "no infinities": inputs are validated before the loops.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
# Above this many columns and rows an exact spectrum costs minutes, a randomised one seconds.
_EXACT_SPECTRUM = 1500
_RANDOMISED_RANK = 200


def farthest_points(
    X: Float[np.ndarray, "n F"],
    k: int,
    *,
    seed: int = 0,
    first: int | Sequence[int] | Int[np.ndarray, " taken"] | None = None,
    tol: float = 0.0,
) -> Int[np.ndarray, " chosen"]:
    """Choose points one by one, each the farthest from those already chosen (Gonzalez 1985).

    Distances to a new point are skipped where the triangle inequality shows that they cannot matter; the
    choice is that of the plain algorithm.

    Parameters
    ----------
    X
        Vectors, compared by Euclidean distance.
    k
        Number of points, those in `first` included.
    seed
        Draws the first point where `first` is None; ties go to the lowest index.
    first
        The first point, or several points that are taken already; they open the result.
    tol
        Stop early, with fewer than k points, when every other point is this close to a chosen one.

    Returns
    -------
    indices
        Distinct indices in the order of choice.

    Raises
    ------
    ParameterError
        If k is not between 1 and n, an index in `first` is outside [0, n), or `tol` is negative.
    DataError
        If a vector is not finite.
    """
    X = checked(X, k)
    if not tol >= 0:
        raise ParameterError(f"`tol` is a distance and must not be negative, got {tol}")
    start = np.random.default_rng(seed).integers(len(X), size=1) if first is None else first
    start = np.atleast_1d(np.asarray(start, dtype=np.int64))
    if not len(start) or start.min() < 0 or start.max() >= len(X) or len(set(start.tolist())) < len(start):
        raise ParameterError(f"`first` must hold distinct indices in [0, {len(X)}), got {start.tolist()}")
    if len(start) > k:
        raise ParameterError(f"`k` counts the points in `first`: k = {k} is less than {len(start)}")
    return _farthest(X, k, start, tol * tol)


@njit(cache=True, parallel=True, fastmath=_FASTMATH)
def _farthest(X: Any, k: int, start: Any, tol: float) -> Any:
    """Gonzalez' loop; `near[i]` is the squared distance of i to its nearest chosen point, `owner[i]`."""
    n, F = X.shape
    chosen = np.empty(k, dtype=np.int64)
    near = np.full(n, np.inf)
    owner = np.zeros(n, dtype=np.int64)
    between = np.zeros(k)
    for t in range(k):
        if t < len(start):
            new = start[t]
        else:
            new = np.argmax(near)
            if near[new] <= tol:
                return chosen[:t]
        chosen[t] = new
        for u in range(t):
            total = 0.0
            for f in range(F):
                total += (X[new, f] - X[chosen[u], f]) ** 2
            between[u] = total
        for i in prange(n):
            # |x - new| >= |new - owner| - |x - owner|, so nothing changes where the right side is larger
            # than |x - owner|; the last factor leaves room for round-off.
            if t > 0 and 4.0 * near[i] <= between[owner[i]] * (1.0 - 1e-10):
                continue
            total = 0.0
            for f in range(F):
                total += (X[i, f] - X[new, f]) ** 2
            if total < near[i]:
                near[i] = total
                owner[i] = t
        near[new] = -1.0
    return chosen


def cur(X: Float[np.ndarray, "n F"], k: int, *, seed: int = 0) -> Int[np.ndarray, " k"]:
    """Draw k rows without replacement, with probabilities in proportion to their leverage scores.

    The scores are the squared row norms of the leading left singular vectors (Mahoney and Drineas 2009,
    eq. 3); k of them where there are as many, fewer (200) where both sides of X are large.

    Parameters
    ----------
    X
        Vectors.
    k
        Number of rows.
    seed
        Seed of the draw.

    Returns
    -------
    indices
        Distinct indices, the likeliest draws first. Rows without leverage come last.

    Raises
    ------
    ParameterError
        If k is not between 1 and n.
    DataError
        If a vector is not finite.
    """
    X = checked(X, k)
    rng = np.random.default_rng(seed)
    leverage = _leverage(X, k, seed)
    # The k largest of log p + Gumbel noise are a draw without replacement (Yellott 1977).
    with np.errstate(divide="ignore"):
        keys = np.log(leverage) + rng.gumbel(size=len(X))
    order = np.lexsort((rng.random(len(X)), -keys))
    return order[:k]


def _leverage(X: Float[np.ndarray, "n F"], k: int, seed: int) -> Float[np.ndarray, " n"]:
    """Squared row norms of the leading left singular vectors."""
    if min(X.shape) > _EXACT_SPECTRUM:
        from sklearn.utils.extmath import randomized_svd

        U = randomized_svd(X, min(k, _RANDOMISED_RANK), random_state=seed)[0]
        return np.einsum("nk,nk->n", U, U)
    if X.shape[1] > len(X):
        values, U = np.linalg.eigh(X @ X.T)
        lead = _leading(values, k)
        return np.einsum("nk,nk->n", U[:, lead], U[:, lead])
    values, vectors = np.linalg.eigh(X.T @ X)
    lead = _leading(values, k)
    U = X @ (vectors[:, lead] / np.sqrt(values[lead]))
    return np.einsum("nk,nk->n", U, U)


def _leading(values: Float[np.ndarray, " m"], k: int) -> Int[np.ndarray, " lead"]:
    """Find the k largest eigenvalues that stand above round-off."""
    lead = np.argsort(values)[::-1][:k]
    return lead[values[lead] > 1e-12 * max(values.max(), 0.0)]


def kmeans_medoids(X: Float[np.ndarray, "n F"], k: int, *, seed: int = 0, n_init: int = 4) -> Int[np.ndarray, " k"]:
    """Choose the vector nearest to the centre of each k-means cluster (Lloyd 1982; scikit-learn).

    Parameters
    ----------
    X
        Vectors, compared by Euclidean distance.
    k
        Number of clusters.
    seed
        Seed of the k-means++ starts.
    n_init
        Number of starts, of which the tightest clustering is kept.

    Returns
    -------
    indices
        Distinct indices, one from each cluster, that of the largest cluster first; where X has fewer than k
        distinct vectors, repeats fill the rest.

    Raises
    ------
    ParameterError
        If k is not between 1 and n, or `n_init` is not positive.
    DataError
        If a vector is not finite.
    """
    X = checked(X, k)
    if n_init < 1:
        raise ParameterError(f"`n_init` must be at least 1, got {n_init}")
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than k: handled below
        fit = KMeans(n_clusters=k, n_init=n_init, random_state=seed).fit(X)
    to_centre = np.linalg.norm(X - fit.cluster_centers_[fit.labels_], axis=1)
    order = np.lexsort((to_centre, fit.labels_))
    clusters, heads, sizes = np.unique(fit.labels_[order], return_index=True, return_counts=True)
    medoids = order[heads][np.lexsort((clusters, -sizes))]
    rest = np.setdiff1d(np.arange(len(X)), medoids)
    return np.concatenate([medoids, rest[: k - len(medoids)]])


def checked(X: Float[np.ndarray, "n F"], k: int | None) -> Float[np.ndarray, "n F"]:
    """Return X as float64, refusing what would spoil distances silently.

    Parameters
    ----------
    X
        Vectors.
    k
        How many of them are asked for; None asks for none.
    """
    X = np.ascontiguousarray(X, dtype=np.float64)
    if X.ndim != 2:
        raise ParameterError(f"`X` must have the shape (n, F), got {X.shape}")
    if k is not None and not 1 <= k <= len(X):
        raise ParameterError(f"`k` must be between 1 and the number of vectors, {len(X)}; got {k}")
    bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
    if len(bad):
        raise DataError(f"vector {bad[0]} is not finite ({len(bad)} such vectors in all): set it aside")
    return X
