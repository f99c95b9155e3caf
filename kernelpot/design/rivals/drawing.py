"""Rivals that draw at random."""

from __future__ import annotations

# ruff: noqa: ARG001 (rivals share one signature)
import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.information import Information
from kernelpot.design.rivals.vectors import means
from kernelpot.linalg.subsets import kmeans_medoids


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

    Parameters
    ----------
    sizes
        At least one each.
    n
        At most the sum of the sizes.
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
