"""Rivals that look at mean descriptors of structures, or at nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.blocks import Subset
from kernelpot.design.information import Information
from kernelpot.errors import DataError, ParameterError
from kernelpot.linalg import subsets, volumes

Vectors = Float[np.ndarray, "n F"]
Order = Int[np.ndarray, " order"]
Chooser = Callable[[Vectors, int, Vectors | None], Int[np.ndarray, " chosen"]]


@dataclass(frozen=True, eq=False)
class Lot:
    """What a rival ranks: n of the distinct candidates `heads`, beside what exists."""

    info: Information
    heads: Int[np.ndarray, " heads"]
    n: int
    existing: Information | None
    seed: int

    def shuffled(self) -> Lot:
        """Candidates in the seed's order, so that the seed breaks ties where the lowest index wins."""
        return replace(self, heads=np.random.default_rng(self.seed).permutation(self.heads))

    def means(self, method: str) -> Vectors:
        """Mean descriptors of the candidates."""
        if not self.info.means.shape[1]:
            raise ParameterError(f"method {method!r} compares mean descriptors, but `info.means` has no columns")
        return self.info.means[self.heads]

    @property
    def known_means(self) -> Vectors | None:
        """Mean descriptors of what exists already, None where nothing does."""
        return self.existing.means if self.existing is not None and len(self.existing) else None

    def environments(self, method: str) -> tuple[Float[np.ndarray, "environments F"], Int[np.ndarray, " heads+1"]]:
        """Environment vectors of the candidates, those of candidate h in ``vectors[offsets[h]:offsets[h + 1]]``."""
        return _environments(self.info, self.heads, method)

    def known_environments(
        self, method: str
    ) -> tuple[Float[np.ndarray, "environments F"], Int[np.ndarray, " known+1"]] | None:
        """Environment vectors of what exists already, None where nothing does."""
        if self.existing is None or not len(self.existing):
            return None
        return _environments(self.existing, np.arange(len(self.existing)), method)


def _environments(
    info: Information, heads: Int[np.ndarray, " heads"], method: str
) -> tuple[Float[np.ndarray, "environments F"], Int[np.ndarray, " heads+1"]]:
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


def random(lot: Lot) -> Order:
    """Draw distinct candidates at random; existing ones are not looked at."""
    return lot.shuffled().heads


def stratified(lot: Lot) -> Order:
    """Draw at random from every group, in proportion to its size; existing ones are not looked at.

    Stratified sampling (Cochran 1977, chapter 5). The strata are the named groups (`info.groups`). Where
    fewer than two names are there, they are cells of mean descriptors, much as Qi et al. (2024) sample from clusters:
    n/2 of them, each made of the candidates nearest to one k-means medoid. Shares are rounded by largest remainders,
    with at least one from every stratum where n allows. The order spreads every stratum evenly, so that its
    beginning is stratified too.
    """
    rng = np.random.default_rng(lot.seed)
    strata = _strata(lot)
    sizes = np.bincount(strata)
    shares = allocate(sizes, lot.n)
    place = np.full(len(lot.heads), np.inf)
    for stratum, share in enumerate(shares):
        members = rng.permutation(np.flatnonzero(strata == stratum))[:share]
        place[members] = (np.arange(share) + 0.5) / max(share, 1)
    return lot.heads[np.lexsort((rng.random(len(lot.heads)), place))[: lot.n]]


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


def _strata(lot: Lot) -> Int[np.ndarray, " heads"]:
    """Return the number of every candidate's stratum."""
    names = [lot.info.groups[s] for s in lot.heads]
    if len(set(names)) > 1:
        return np.unique(names, return_inverse=True)[1]
    X = lot.means("stratified")
    centres = X[subsets.kmeans_medoids(X, max(1, lot.n // 2), seed=lot.seed)]
    nearest = np.argmin(np.einsum("kf,kf->k", centres, centres) - 2.0 * (X @ centres.T), axis=1)
    return np.unique(nearest, return_inverse=True)[1]


def fps(lot: Lot) -> Order:
    """Choose the candidate farthest from all chosen and existing ones, from a random start where none exist.

    Farthest-point sampling (Gonzalez 1985) on mean descriptors.
    """
    vectors, given = lot.means("fps"), lot.known_means
    if given is None:
        return lot.heads[subsets.farthest_points(vectors, lot.n, seed=lot.seed)]
    known = len(given)
    chosen = subsets.farthest_points(np.concatenate([given, vectors]), known + lot.n, first=np.arange(known))
    return lot.heads[chosen[known:] - known]


def kmeans(lot: Lot) -> Order:
    """Choose the candidate nearest to each of n cluster centres; existing ones are not looked at.

    k-means (Lloyd 1982) on mean descriptors, the best of ten k-means++ starts (Arthur and Vassilvitskii 2007).
    """
    return lot.heads[subsets.kmeans_medoids(lot.means("kmeans"), lot.n, seed=lot.seed, n_init=10)]


def maximin(lot: Lot) -> Order:
    """Choose candidates so that the smallest kernel distance between any two, existing ones included, is large.

    Maximin design (Johnson, Moore and Ylvisaker 1990) of training sets with a kernel, after the optimal designs of
    Barzdajn and Race (2025). What is done here: the distance is ``d² = k(i, i) + k(j, j) - 2 k(i, j)`` with the average
    kernel of two structures, ``k(i, j) = mean over their environments of x·x'``, which is the dot product of mean
    unit vectors, so that d is their Euclidean distance; the start is farthest points; then members of the closest
    pair are exchanged (`kernelpot.linalg.subsets`).
    """
    return lot.heads[subsets.maximin(lot.means("maximin"), lot.n, given=lot.known_means, seed=lot.seed)]


def cur(lot: Lot) -> Order:
    """Choose, again and again, the largest entry of the leading left singular vector of what is left to explain.

    CUR (Mahoney and Drineas 2009) in the iterative form of Imbalzano et al. (2018) on mean descriptors. It is our
    own `iterative_cur`, which chooses what scikit-matter's sample CUR does, so that the answer does not depend on
    whether that is installed. Existing structures count as chosen. Where nothing is left to explain, a new round
    begins with the rest.
    """
    lot = lot.shuffled()
    chosen = in_rounds(
        lot.means("cur"), lot.n, lot.known_means, lambda X, k, given: volumes.iterative_cur(X, k, given=given)
    )
    return lot.heads[chosen]


def large_volume(lot: Lot) -> Order:
    """Choose structures whose mean descriptors have a large volume.

    MaxVol (Goreinov et al. 2010) in the n leading singular directions; beyond the number of directions, rectangular
    growth (Mikhalev and Oseledets 2018). Existing structures count (`kernelpot.linalg.volumes`).
    """
    lot = lot.shuffled()
    return lot.heads[volumes.maxvol(lot.means("maxvol"), lot.n, given=lot.known_means)]


def kdpp(lot: Lot) -> Order:
    """Draw n structures with a probability in proportion to the squared volume of their normalised mean descriptors.

    A k-DPP, sampled exactly (Kulesza and Taskar 2011), with the kernel ``L(i, j) = x_i·x_j`` of mean descriptors of
    length one. Existing structures are conditioned on: what lies in their span is taken out, which is the conditional
    process given that they are in the set. Where n exceeds the number of directions, as many are drawn as there are and
    a new round begins with the rest.
    """
    rng = np.random.default_rng(lot.seed)
    return _of_unit_means(lot, "kdpp", lambda X, k: volumes.dpp_sample(X, k, rng))


def kdpp_greedy(lot: Lot) -> Order:
    """Search greedily for the most probable set of the process of `kdpp` (Chen, Zhang and Zhou 2018).

    The first is drawn by the seed, as all have the same length. Existing structures and rounds as there.
    """
    return _of_unit_means(lot.shuffled(), "kdpp-greedy", volumes.dpp_greedy)


def _of_unit_means(lot: Lot, method: str, choose: Callable[[Vectors, int], Int[np.ndarray, " chosen"]]) -> Order:
    """Choose by means of length one, outside the span of those that exist."""
    known = lot.known_means

    def outside(X: Vectors, k: int, given: Vectors | None) -> Int[np.ndarray, " chosen"]:
        return choose(X if given is None else volumes.off_span(X, given), k)

    return lot.heads[in_rounds(_units(lot.means(method)), lot.n, None if known is None else _units(known), outside)]


def in_rounds(X: Vectors, n: int, given: Vectors | None, choose: Chooser) -> Int[np.ndarray, " n"]:
    """Choose until n are chosen, each round among those that earlier rounds left; `given` counts in the first."""
    order = np.empty(0, dtype=np.int64)
    while len(order) < n:
        rest = np.setdiff1d(np.arange(len(X)), order)
        chosen = rest[choose(X[rest], n - len(order), given)]
        if not len(chosen) and given is None:
            # Vectors of no length: any order is as good.
            chosen = rest[: n - len(order)]
        order = np.concatenate([order, chosen])
        given = None
    return order


def _units(X: Vectors) -> Vectors:
    """Vectors divided by their lengths; those of no length stay zero."""
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    result: np.ndarray = X / np.where(lengths > 0, lengths, 1.0)
    return result
