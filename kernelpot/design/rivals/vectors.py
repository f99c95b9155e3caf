"""What rivals look at: mean descriptors or environment vectors of structures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.information import Information, Subset
from kernelpot.errors import DataError, ParameterError
from kernelpot.linalg import maximin as exchange
from kernelpot.linalg.subsets import farthest_points, kmeans_medoids

Rival = Callable[[Information, Int[np.ndarray, " heads"], int, Information | None, int], Int[np.ndarray, " order"]]
"""``rival(info, heads, n, existing, seed)`` ranks n of the distinct candidates `heads`, the first choice first."""


def means(info: Information, heads: Int[np.ndarray, " heads"], method: str) -> Float[np.ndarray, "heads F"]:
    """Mean descriptors of the candidates."""
    if not info.means.shape[1]:
        raise ParameterError(f"method {method!r} compares mean descriptors, but `info.means` has no columns")
    return info.means[heads]


def known_means(existing: Information | None) -> Float[np.ndarray, "known F"] | None:
    """Mean descriptors of what exists already, None where nothing does."""
    return existing.means if existing is not None and len(existing) else None


def units(X: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n F"]:
    """Vectors divided by their lengths; those of no length stay zero."""
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    result: np.ndarray = X / np.where(lengths > 0, lengths, 1.0)
    return result


def environments(
    info: Information, heads: Int[np.ndarray, " heads"], method: str
) -> tuple[Float[np.ndarray, "environments F"], Int[np.ndarray, " heads+1"]]:
    """Environment vectors of the candidates, those of candidate h in ``vectors[offsets[h]:offsets[h + 1]]``."""
    if info.environments is None:
        raise ParameterError(
            f"method {method!r} compares environments, but `environments` of the pool or of what exists is None; "
            "information made by a prepared model has them"
        )
    vectors, offsets = Subset(info.environments, heads)()
    if vectors.ndim != 2 or offsets.shape != (len(heads) + 1,) or (np.diff(offsets) < 1).any():
        raise ParameterError("`environments` must give every structure at least one row of a two-dimensional array")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        s = heads[np.searchsorted(offsets, bad[0], side="right") - 1]
        raise DataError(f"structure {s} has an environment vector that is not finite: set it aside")
    return vectors, offsets


def known_environments(
    existing: Information | None, method: str
) -> tuple[Float[np.ndarray, "environments F"], Int[np.ndarray, " known+1"]] | None:
    """Environment vectors of what exists already, None where nothing does."""
    if existing is None or not len(existing):
        return None
    return environments(existing, np.arange(len(existing)), method)


def shuffled(heads: Int[np.ndarray, " heads"], seed: int) -> Int[np.ndarray, " heads"]:
    """Candidates in the seed's order, so that the seed breaks ties where the lowest index wins."""
    return np.random.default_rng(seed).permutation(heads)


def random(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Draw distinct candidates at random; existing ones are not looked at."""
    return np.random.default_rng(seed).permutation(heads)


def stratified(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Draw at random from every group, in proportion to its size; existing ones are not looked at.

    Stratified sampling (Cochran 1977, chapter 5). The strata are the named groups (`info.groups`). Where
    fewer than two names are there, they are cells of mean descriptors, much as Qi et al. (2024) sample from clusters:
    n/2 of them, each made of the candidates nearest to one k-means medoid. Shares are rounded by largest remainders,
    with at least one from every stratum where n allows. The order spreads every stratum evenly, so that its
    beginning is stratified too.
    """
    rng = np.random.default_rng(seed)
    strata = _strata(info, heads, n, seed)
    sizes = np.bincount(strata)
    shares = allocate(sizes, n)
    place = np.full(len(heads), np.inf)
    for stratum, share in enumerate(shares):
        members = rng.permutation(np.flatnonzero(strata == stratum))[:share]
        place[members] = (np.arange(share) + 0.5) / max(share, 1)
    return heads[np.lexsort((rng.random(len(heads)), place))[:n]]


def allocate(sizes: Int[np.ndarray, " strata"], n: int) -> Int[np.ndarray, " strata"]:
    """Share n draws over strata in proportion to their sizes.

    Each has one at least where n allows; the rest goes by largest remainders (Hamilton's method), ties to the first. No
    share exceeds the size of its stratum.
    """
    exact = n * sizes / sizes.sum()
    shares = np.floor(exact).astype(np.int64)
    if n >= len(sizes):
        shares = np.maximum(shares, 1)
    while (short := n - shares.sum()) != 0:
        owed = exact - shares
        if short > 0:
            shares[np.argmax(np.where(shares < sizes, owed, -np.inf))] += 1
        else:
            shares[np.argmin(np.where(shares > 1, owed, np.inf))] -= 1
    return shares


def _strata(info: Information, heads: Int[np.ndarray, " heads"], n: int, seed: int) -> Int[np.ndarray, " heads"]:
    """Return the number of every candidate's stratum."""
    names = [info.groups[s] for s in heads]
    if len(set(names)) > 1:
        return np.unique(names, return_inverse=True)[1]
    vectors = means(info, heads, "stratified")
    medoids = vectors[kmeans_medoids(vectors, max(1, n // 2), seed=seed)]
    return np.unique(_nearest(vectors, medoids), return_inverse=True)[1]


def _nearest(X: Float[np.ndarray, "n F"], centres: Float[np.ndarray, "k F"]) -> Int[np.ndarray, " n"]:
    """Find the nearest centre of every vector."""
    result: np.ndarray = np.argmin(np.einsum("kf,kf->k", centres, centres) - 2.0 * (X @ centres.T), axis=1)
    return result


def fps(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Choose the candidate farthest from all chosen and existing ones, from a random start where none exist.

    Farthest-point sampling (Gonzalez 1985) on mean descriptors.
    """
    vectors = means(info, heads, "fps")
    if existing is None or not len(existing):
        return heads[farthest_points(vectors, n, seed=seed)]
    known = len(existing)
    joined = np.concatenate([existing.means, vectors])
    chosen = farthest_points(joined, known + n, first=np.arange(known))
    return heads[chosen[known:] - known]


def kmeans(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Choose the candidate nearest to each of n cluster centres; existing ones are not looked at.

    k-means (Lloyd 1982) on mean descriptors, the best of ten k-means++ starts (Arthur and Vassilvitskii 2007).
    """
    return heads[kmeans_medoids(means(info, heads, "kmeans"), n, seed=seed, n_init=10)]


def maximin(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Choose candidates so that the smallest kernel distance between any two, existing ones included, is large.

    Maximin design (Johnson, Moore and Ylvisaker 1990) of training sets with a kernel, after the optimal designs of
    Barzdajn and Race (2025). What is done here: the distance is ``d² = k(i, i) + k(j, j) - 2 k(i, j)`` with the average
    kernel of two structures, ``k(i, j) = mean over their environments of x·x'``, which is the dot product of mean
    unit vectors, so that d is their Euclidean distance; the start is farthest points; then members of the closest
    pair are exchanged (`kernelpot.linalg.subsets`).
    """
    vectors = means(info, heads, "maximin")
    return heads[exchange.maximin(vectors, n, given=known_means(existing), seed=seed)]
