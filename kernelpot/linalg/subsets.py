"""Subsets of vectors that stand for the rest."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numba import njit, prange
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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
    """
    X = checked(X, k)
    rng = np.random.default_rng(seed)
    if min(X.shape) > _EXACT_SPECTRUM:
        from sklearn.utils.extmath import randomized_svd

        U = randomized_svd(X, min(k, _RANDOMISED_RANK), random_state=seed)[0]
    elif X.shape[1] > len(X):
        values, U = np.linalg.eigh(X @ X.T)
        U = U[:, _leading(values, k)]
    else:
        values, vectors = np.linalg.eigh(X.T @ X)
        lead = _leading(values, k)
        U = X @ (vectors[:, lead] / np.sqrt(values[lead]))
    leverage = np.einsum("nk,nk->n", U, U)
    # The k largest of log p + Gumbel noise are a draw without replacement (Yellott 1977).
    with np.errstate(divide="ignore"):
        keys = np.log(leverage) + rng.gumbel(size=len(X))
    order = np.lexsort((rng.random(len(X)), -keys))
    return order[:k]


def _leading(values: Float[np.ndarray, " m"], k: int) -> Int[np.ndarray, " lead"]:
    """Find the k largest eigenvalues that stand above round-off."""
    lead = np.argsort(values)[::-1][:k]
    return lead[values[lead] > 1e-12 * max(values.max(), 0.0)]


def kmeans_medoids(X: Float[np.ndarray, "n F"], k: int, *, seed: int = 0, n_init: int = 4) -> Int[np.ndarray, " k"]:
    """Choose the vector nearest to the centre of each k-means cluster (Lloyd 1982; scikit-learn)."""
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
    """Return X as float64, refusing what would spoil distances silently."""
    X = np.ascontiguousarray(X, dtype=np.float64)
    if X.ndim != 2:
        raise ParameterError(f"`X` must have the shape (n, F), got {X.shape}")
    if k is not None and not 1 <= k <= len(X):
        raise ParameterError(f"`k` must be between 1 and the number of vectors, {len(X)}; got {k}")
    bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
    if len(bad):
        raise DataError(f"vector {bad[0]} is not finite ({len(bad)} such vectors in all): set it aside")
    return X


_LARGER = 1.0 + 1e-12


def maximin(
    X: Float[np.ndarray, "n F"],
    k: int,
    *,
    given: Float[np.ndarray, "m F"] | None = None,
    seed: int = 0,
    kicks: int = 10,
) -> Int[np.ndarray, " k"]:
    """Choose points so that the smallest distance between any two is large.

    The start is farthest points, which has at least half of the best smallest distance (Gonzalez 1985). Then the
    members of the closest pair are tried in turn: out goes the member, in comes the point farthest from all
    others, as long as that point is farther from them than the pair was apart. Each swap raises the smallest
    distance or lowers the number of pairs at it, so the exchange ends. From there a third of the points, drawn at
    random, is replaced by farthest points again before the next exchange; the best set of all is kept.
    """
    X = checked(X, k)
    given = np.empty((0, X.shape[1])) if given is None else checked(given, None)
    known = len(given)
    joined = np.concatenate([given, X])
    first = np.arange(known)
    best = _Set(X, _spread(joined, known + k, first, seed)[known:] - known, given)
    best.exchange()
    rng = np.random.default_rng(seed)
    for _ in range(kicks):
        other = best.copy()
        other.refill(rng.choice(k, size=max(1, k // 3), replace=False))
        other.exchange()
        if other.closest()[0] > best.closest()[0] * _LARGER:
            best = other
    start = first if known else np.zeros(1, dtype=np.int64)
    order = _spread(np.concatenate([given, X[best.chosen]]), known + k, start, seed)[known:] - known
    result: np.ndarray = best.chosen[order]
    return result


def _spread(X: Float[np.ndarray, "n F"], k: int, first: Int[np.ndarray, " taken"], seed: int) -> Int[np.ndarray, " k"]:
    """Order farthest points after those that are taken; points that equal them come last."""
    order = farthest_points(X, k, first=first if len(first) else None, seed=seed)
    return np.concatenate([order, np.setdiff1d(np.arange(len(X)), order)[: k - len(order)]])


class _Set:
    """A choice of points, with the distances of all points to each of them."""

    def __init__(
        self, X: Float[np.ndarray, "n F"], chosen: Int[np.ndarray, " k"], given: Float[np.ndarray, "m F"]
    ) -> None:
        self.X, self.chosen = X, chosen
        self.fixed = np.full(len(X), np.inf)  # distance of every point to the nearest given one
        for point in given:
            self.fixed = np.minimum(self.fixed, _distances(X, point))
        self.D = np.stack([_distances(X, X[c]) for c in chosen], axis=1)

    def copy(self) -> _Set:
        """Return a set that can change by itself."""
        other = copy(self)
        other.chosen, other.D = self.chosen.copy(), self.D.copy()
        return other

    def closest(self) -> tuple[float, list[int]]:
        """Return the smallest distance of a chosen point to another or a given one, and who of them may go."""
        between = self.D[self.chosen]
        np.fill_diagonal(between, np.inf)
        i, j = np.unravel_index(np.argmin(between), between.shape)
        near = self.fixed[self.chosen]
        if near.min() <= between[i, j]:
            return float(near.min()), [int(np.argmin(near))]
        return float(between[i, j]), [int(i), int(j)]

    def exchange(self) -> None:
        """Swap members of the closest pair as long as it helps."""
        while True:
            apart, pair = self.closest()
            for t in pair:
                new, distance = self._best_without([t])
                if distance > apart * _LARGER:
                    self._put(t, new)
                    break
            else:
                return

    def refill(self, out: Int[np.ndarray, " out"]) -> None:
        """Replace some members by farthest points."""
        left = out.tolist()
        while left:
            new = self._best_without(left, may_return=True)[0]
            self._put(left.pop(), new)

    def _best_without(self, out: list[int], *, may_return: bool = False) -> tuple[int, float]:
        """Find the point farthest from all given and chosen points but some."""
        stay = np.delete(np.arange(len(self.chosen)), out)
        near = np.minimum(self.fixed, self.D[:, stay].min(axis=1, initial=np.inf))
        near[self.chosen[stay] if may_return else self.chosen] = -np.inf
        best = int(np.argmax(near))
        return best, float(near[best])

    def _put(self, t: int, new: int) -> None:
        """Put a point into the t-th place."""
        self.chosen[t] = new
        self.D[:, t] = _distances(self.X, self.X[new])


def _distances(X: Float[np.ndarray, "n F"], point: Float[np.ndarray, " F"]) -> Float[np.ndarray, " n"]:
    """Distances of all points to one, from differences: they must be symmetric to the last digit, or swaps go round."""
    apart = X - point
    result: np.ndarray = np.sqrt(np.einsum("nf,nf->n", apart, apart))
    return result


SAME = 1e-6
"""Relative distance below which mean descriptors count as equal: far above the round-off of coordinates in files."""


def equal_vectors(
    vectors: Float[np.ndarray, "n f"], sizes: Int[np.ndarray, " n"], tolerance: float = SAME
) -> Int[np.ndarray, " n"]:
    """Find the groups of equal vectors, and number them by their first member."""
    n, width = vectors.shape
    if n == 0 or width == 0:
        return np.arange(n)
    # All close pairs by a sweep along one random direction, on which close points stay close.
    norms = np.sqrt(np.einsum("sf,sf->s", vectors, vectors))
    direction = np.random.default_rng(0).standard_normal(vectors.shape[1:])
    direction /= np.linalg.norm(direction)
    # Sizes come first: vectors of different sizes are never neighbours in the order.
    along = vectors @ direction
    order = np.lexsort((along, sizes))
    along, size = along[order], sizes[order]
    # Room for round-off of the projection, so that exact copies are never missed.
    reach = (tolerance + 1e-13) * float(norms.max())
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for shift in range(1, len(order)):
        near = np.flatnonzero((along[shift:] - along[:-shift] <= reach) & (size[shift:] == size[:-shift]))
        if not len(near):
            break
        first, second = order[near], order[near + shift]
        distance = np.linalg.norm(vectors[first] - vectors[second], axis=1)
        close = distance <= tolerance * np.maximum(norms[first], norms[second])
        pairs.append(np.stack([first[close], second[close]], axis=1))
    close_pairs = np.concatenate(pairs)
    graph = coo_array((np.ones(len(close_pairs), np.int8), tuple(close_pairs.T)), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    heads = np.unique(labels, return_index=True)[1]
    result: np.ndarray = np.argsort(np.argsort(heads))[labels]
    return result


ALIKE = 2
"""Structures that resemble each other most and stay in one fold, as neighbouring frames of a trajectory do."""


TILT = 0.01
"""Share of an arbitrary direction in the lines along which structures are halved."""


def alike(
    vectors: Float[np.ndarray, "n f"], groups: Int[np.ndarray, " n"], n_folds: int, *, most: int = ALIKE
) -> Int[np.ndarray, " n"]:
    """Return which structures stay together, and count as one independent witness: up to two distinct ones.

    Structures are halved again and again along the line between two that are far apart, each of the parts by itself,
    until no part has more than two: O(n log n) distances, and no regard to the order of the list. Members of one of
    the `groups` of equal vectors count as one.
    """
    place = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(place)
    # Of equal vectors the mean, as any one of them would be the first of some order.
    centres = np.zeros((len(sizes), vectors.shape[1]))
    np.add.at(centres, place, vectors)
    centres /= sizes[:, None]
    length = max(1, min(most, len(sizes) // (4 * n_folds)))
    block, count = np.empty(len(sizes), dtype=np.int64), 0
    sense = _direction(vectors.shape[1])
    parts = [np.arange(len(sizes))]
    while parts:
        part = parts.pop()
        if len(part) <= length:
            block[part], count = count, count + 1
            continue
        X = centres[part]
        far = X[np.argmax(_distances(X, X.mean(axis=0)))]
        line = X[np.argmax(_distances(X, far))] - far
        # Both of two are as far from their mean: which is the first must not be left to round-off. Nor must vectors
        # without a common component, as of frames without a common element, which all lie at zero along any other.
        line = (line if line @ sense > 0.0 else -line) + TILT * np.linalg.norm(line) * sense
        order = np.argsort(X @ line, kind="stable")
        half = length * -(-len(part) // (2 * length))
        parts += [part[order[half:]], part[order[:half]]]
    result: np.ndarray = block[place]
    return result


def in_order(X: Float[np.ndarray, "n f"]) -> Int[np.ndarray, " n"]:
    """Return an order of vectors that depends on the set alone: along one random direction."""
    return np.argsort(X @ _direction(X.shape[1]), kind="stable")


def _direction(n: int) -> Float[np.ndarray, " n"]:
    """Return one arbitrary direction."""
    drawn = np.random.default_rng(0).standard_normal(n)
    return drawn / np.linalg.norm(drawn)


def folds(blocks: Int[np.ndarray, " n"], n_folds: int, *, seed: int) -> Int[np.ndarray, " n"]:
    """Assign whole blocks of structures to folds of about equal size."""
    sizes = np.bincount(blocks)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    load, fold_of_block = np.zeros(n_folds, np.int64), np.zeros(len(sizes), np.int64)
    for block in order:
        fold_of_block[block] = np.argmin(load)
        load[fold_of_block[block]] += sizes[block]
    result: np.ndarray = fold_of_block[blocks]
    return result
