"""Points whose smallest distance is large."""

from __future__ import annotations

from copy import copy

import numpy as np
from jaxtyping import Float, Int

from kernelpot.linalg.subsets import checked, farthest_points

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

    Parameters
    ----------
    X
        Points, compared by Euclidean distance.
    k
        How many to choose.
    given
        Points that are there already: distances to them count, and they stay.
    seed
        Draws the first of the farthest points where nothing is given, and who is replaced.
    kicks
        How often points are replaced at random.

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
    first = np.arange(known)
    best = _Set(X, _spread(joined, known + k, first, seed)[known:] - known, _to_given(X, given))
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
        self, X: Float[np.ndarray, "n F"], chosen: Int[np.ndarray, " k"], fixed: Float[np.ndarray, " n"]
    ) -> None:
        self.X, self.chosen, self.fixed = X, chosen, fixed
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


def _to_given(X: Float[np.ndarray, "n F"], given: Float[np.ndarray, "m F"]) -> Float[np.ndarray, " n"]:
    """Distance of every point to the nearest given one, infinite where there is none."""
    near = np.full(len(X), np.inf)
    for point in given:
        near = np.minimum(near, _distances(X, point))
    return near
