"""Rivals that choose by volume or leverage of the vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.information import Information
from kernelpot.design.rivals.vectors import (
    environments,
    known_environments,
    known_means,
    means,
    shuffled,
    units,
)
from kernelpot.linalg import dpp
from kernelpot.linalg.maxvol import iterative_cur, off_span
from kernelpot.linalg.maxvol import maxvol as large_volume

_PER_STRUCTURE = 10


def cur(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Choose, again and again, the largest entry of the leading left singular vector of what is left to explain.

    CUR (Mahoney and Drineas 2009) in the iterative form of Imbalzano et al. (2018) on mean descriptors. It is our
    own `iterative_cur`, which chooses what scikit-matter's sample CUR does, so that the answer does not depend on
    whether that is installed. Existing structures count as chosen. Where nothing is left to explain, a new round
    begins with the rest.
    """
    heads = shuffled(heads, seed)
    vectors = means(info, heads, "cur")
    return heads[in_rounds(vectors, n, known_means(existing), lambda X, k, given: iterative_cur(X, k, given=given))]


def maxvol(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Choose structures whose mean descriptors have a large volume.

    MaxVol (Goreinov et al. 2010) in the n leading singular directions; beyond the number of directions, rectangular
    growth (Mikhalev and Oseledets 2018). Existing structures count (`kernelpot.linalg.maxvol`).
    """
    heads = shuffled(heads, seed)
    return heads[large_volume(means(info, heads, "maxvol"), n, given=known_means(existing))]


def maxvol_environments(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Choose structures that hold environments of large volume.

    MaxVol on environments, as active learning of moment tensor potentials does it (Podryabinkin and Shapeev 2017): as
    many environments are chosen as the descriptor has components, but at most ten for each structure asked for, and
    ordered by a pivoted QR; structures come in the order of their first environment. (By the number of their
    environments, large disordered cells would crowd out every crystal, which has one environment.) Where that names
    fewer than n structures, a new round chooses among the environments of the rest. Existing environments count.
    """
    method = "maxvol-environments"
    heads = shuffled(heads, seed)
    vectors, offsets = environments(info, heads, method)
    owner = np.repeat(np.arange(len(heads)), np.diff(offsets))
    found = known_environments(existing, method)
    given = None if found is None else found[0]
    wanted = min(_PER_STRUCTURE * n, vectors.shape[1])
    ranked = np.empty(0, dtype=np.int64)
    while len(ranked) < n:
        rest = np.flatnonzero(~np.isin(owner, ranked))
        chosen = owner[rest[large_volume(vectors[rest], min(wanted, len(rest)), given=given)]]
        structures, first = np.unique(chosen, return_index=True)
        ranked = np.concatenate([ranked, structures[np.argsort(first)]])
    return heads[ranked[:n]]


def kdpp(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Draw n structures with a probability in proportion to the squared volume of their normalised mean descriptors.

    A k-DPP, sampled exactly (Kulesza and Taskar 2011), with the kernel ``L(i, j) = x_i·x_j`` of mean descriptors of
    length one. Existing structures are conditioned on: what lies in their span is taken out, which is the conditional
    process given that they are in the set. Where n exceeds the number of directions, as many are drawn as there are and
    a new round begins with the rest.
    """
    rng = np.random.default_rng(seed)
    vectors = units(means(info, heads, "kdpp"))
    return heads[
        in_rounds(vectors, n, _unit_means(existing), lambda X, k, given: dpp.sample(_outside(X, given), k, rng))
    ]


def kdpp_greedy(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Search greedily for the most probable set of the process of `kdpp` (Chen, Zhang and Zhou 2018).

    The first is drawn by the seed, as all have the same length. Existing structures and rounds as there.
    """
    heads = shuffled(heads, seed)
    vectors = units(means(info, heads, "kdpp-greedy"))
    return heads[in_rounds(vectors, n, _unit_means(existing), lambda X, k, given: dpp.greedy(_outside(X, given), k))]


Vectors = Float[np.ndarray, "n F"]
Chooser = Callable[[Vectors, int, Vectors | None], Int[np.ndarray, " chosen"]]


def in_rounds(X: Vectors, n: int, given: Vectors | None, choose: Chooser) -> Int[np.ndarray, " n"]:
    """Choose until n are chosen, each round among those that earlier rounds left.

    Parameters
    ----------
    X
        Vectors of the candidates.
    n
        How many to choose.
    given
        Vectors that count in the first round; a later one begins afresh.
    choose
        ``choose(X, k, given)`` chooses k at most, fewer where X has fewer directions.
    """
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


def _unit_means(existing: Information | None) -> Vectors | None:
    known = known_means(existing)
    return None if known is None else units(known)


def _outside(X: Vectors, given: Vectors | None) -> Vectors:
    return X if given is None else off_span(X, given)
