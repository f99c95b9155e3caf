"""Points whose smallest distance is large."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.linalg.subsets import checked, farthest_points

_LARGER = 1.0 + 1e-12


def maximin(
    X: Float[np.ndarray, "n F"], k: int, *, given: Float[np.ndarray, "m F"] | None = None, seed: int = 0
) -> Int[np.ndarray, " k"]:
    """Choose points so that the smallest distance between any two is large.

    The start is farthest points, which has at least half of the best smallest distance (Gonzalez 1985). Then the
    members of the closest pair are tried in turn: out goes the member, in comes the point farthest from all
    others, as long as that point is farther from them than the pair was apart. Each swap raises the smallest
    distance or lowers the number of pairs at it, so the exchange ends.

    Parameters
    ----------
    X
        Points, compared by Euclidean distance.
    k
        How many to choose.
    given
        Points that are there already: distances to them count, and they stay.
    seed
        Draws the first of the farthest points where nothing is given.

    Returns
    -------
    indices
        Distinct, in the order of farthest points among themselves.

    Raises
    ------
    ParameterError
        If k is not between 1 and n.
    DataError
        If a point is not finite.
    """
    X = checked(X, k)
    given = np.empty((0, X.shape[1])) if given is None else checked(given, None)
    known = len(given)
    joined = np.concatenate([given, X])
    first = np.arange(known) if known else None
    chosen = farthest_points(joined, known + k, first=first, seed=seed)[known:] - known
    _exchange(X, chosen, _to_given(X, given))
    start = np.arange(known) if known else 0
    order = farthest_points(np.concatenate([given, X[chosen]]), known + k, first=start)[known:] - known
    result: np.ndarray = chosen[order]
    return result


def _exchange(X: Float[np.ndarray, "n F"], chosen: Int[np.ndarray, " k"], fixed: Float[np.ndarray, " n"]) -> None:
    """Swap members of the closest pair in place, as long as it helps."""
    D = np.stack([_distances(X, X[c]) for c in chosen], axis=1)
    inside = np.zeros(len(X), dtype=bool)
    inside[chosen] = True
    while True:
        closest, pair = _closest_pair(D, chosen, fixed)
        for t in pair:
            new, distance = _best_without(D, fixed, inside, t)
            if distance > closest * _LARGER:
                inside[[chosen[t], new]] = False, True
                chosen[t] = new
                D[:, t] = _distances(X, X[new])
                break
        else:
            return


def _closest_pair(
    D: Float[np.ndarray, "n k"], chosen: Int[np.ndarray, " k"], fixed: Float[np.ndarray, " n"]
) -> tuple[float, list[int]]:
    """Smallest distance of a chosen point to another or a given one, and whom to take out."""
    between = D[chosen]
    np.fill_diagonal(between, np.inf)
    i, j = np.unravel_index(np.argmin(between), between.shape)
    to_given = int(np.argmin(fixed[chosen]))
    if fixed[chosen[to_given]] <= between[i, j]:
        return float(fixed[chosen[to_given]]), [to_given]
    return float(between[i, j]), [int(i), int(j)]


def _best_without(
    D: Float[np.ndarray, "n k"], fixed: Float[np.ndarray, " n"], inside: Bool[np.ndarray, " n"], t: int
) -> tuple[int, float]:
    """Find the point farthest from all given and chosen points but the t-th."""
    near = np.minimum(fixed, np.delete(D, t, axis=1).min(axis=1, initial=np.inf))
    near[inside] = -np.inf
    best = int(np.argmax(near))
    return best, float(near[best])


def _distances(X: Float[np.ndarray, "n F"], point: Float[np.ndarray, " F"]) -> Float[np.ndarray, " n"]:
    """Distances of all points to one, from differences: they must be symmetric to the last digit, or swaps go round."""
    apart = X - point
    result: np.ndarray = np.sqrt(np.einsum("nf,nf->n", apart, apart))
    return result


def _to_given(X: Float[np.ndarray, "n F"], given: Float[np.ndarray, "m F"]) -> Float[np.ndarray, " n"]:
    """Distance of every point to the nearest given one, infinite where there is none."""
    near = np.full(len(X), np.inf)
    for point in given:
        near = np.minimum(near, _distances(X, point))
    return near
