"""Rivals that choose by volume or leverage of the vectors."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType

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
from kernelpot.errors import ParameterError
from kernelpot.linalg import dpp
from kernelpot.linalg.maxvol import iterative_cur, off_span
from kernelpot.linalg.maxvol import maxvol as large_volume
from kernelpot.progress import track

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
    """Choose until n are chosen, each round among those that earlier rounds left."""
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


_SAMPLE = 2000
_CHUNK = 1 << 24


def entropy(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Choose the structure whose environments are newest on average, again and again.

    The differential entropy of an environment with respect to those chosen and existing is
    ``dH(x) = -log Σ_j exp(-|x - x_j|²/2h²)`` (Schwalbe-Koda et al. 2025), and a structure counts with the mean over its
    environments. Where nothing is there at first, the structure of the largest entropy of its own begins,
    ``mean over x of -log mean over j of exp(-|x - x_j|²/2h²)``, j running over its own environments. The bandwidth h is
    that of `bandwidth`.
    """
    heads = shuffled(heads, seed)
    vectors, offsets = environments(info, heads, "entropy")
    known = known_environments(existing, "entropy")
    h = bandwidth(vectors, seed)
    logs = np.full(len(vectors), -np.inf)
    chosen: list[int] = []
    if known is None:
        chosen.append(int(np.argmax(own_entropies(vectors, offsets, h))))
        logs = log_densities(vectors, vectors[offsets[chosen[0]] : offsets[chosen[0] + 1]], h)
    else:
        for start in range(0, len(known[0]), 256):
            logs = np.logaddexp(logs, log_densities(vectors, known[0][start : start + 256], h))
    for _ in track(range(n - len(chosen)), "choosing"):
        score = -np.add.reduceat(logs, offsets[:-1]) / np.diff(offsets)
        score[chosen] = -np.inf
        new = int(np.argmax(score))
        chosen.append(new)
        logs = np.logaddexp(logs, log_densities(vectors, vectors[offsets[new] : offsets[new + 1]], h))
    return heads[chosen]


def quests(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Choose by the minimum set coverage of the package `quests` (Schwalbe-Koda et al. 2025), where it is installed.

    The package's own search (`msc`, or `msc_conditional` where something exists) is given our environment vectors and
    our bandwidth, that of `bandwidth`, as its default belongs to its own descriptor.
    """
    search, measures = _package("quests.compression.fps"), _package("quests.entropy")
    heads = shuffled(heads, seed)
    vectors, offsets = environments(info, heads, "quests")
    known = known_environments(existing, "quests")
    h = bandwidth(vectors, seed)
    parts = _split(vectors, offsets)
    own = np.array([measures.entropy(x, h=h) for x in parts])
    # Kernels of far environments underflow to 0, and their logarithm is what the package compares.
    with np.errstate(divide="ignore"):
        if known is None:
            chosen = search.msc(parts, own, n, h=h)
        else:
            chosen = search.msc_conditional(parts, own, n, _split(*known), h=h)
    return heads[np.asarray(chosen, dtype=np.int64)]


def bandwidth(vectors: Float[np.ndarray, "environments F"], seed: int) -> float:
    """Return the median distance to the nearest other environment, in a sample of 2,000 at most.

    Environments nearer than 1e-3 of the median distance of any two count as the same. So the kernel tells apart what
    the pool tells apart, whatever the scale of the descriptor. 1.0 where all are the same.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:_SAMPLE])
    squares = squared_distances(vectors[drawn], vectors[drawn])
    np.fill_diagonal(squares, 0.0)
    distances = np.sqrt(squares)
    distances[distances <= 1e-3 * np.median(distances)] = np.inf
    nearest = distances.min(axis=1)
    nearest = nearest[np.isfinite(nearest)]
    return float(np.median(nearest)) if len(nearest) else 1.0


def own_entropies(
    vectors: Float[np.ndarray, "environments F"], offsets: Int[np.ndarray, " structures+1"], h: float
) -> Float[np.ndarray, " structures"]:
    """Entropy of every structure's environments among themselves."""
    parts = _split(vectors, offsets)
    return np.array([np.log(len(x)) - log_densities(x, x, h).mean() for x in parts])


def log_densities(
    x: Float[np.ndarray, "n F"], reference: Float[np.ndarray, "m F"], h: float
) -> Float[np.ndarray, " n"]:
    """Return ``log Σ_j exp(-|x - x_j|²/2h²)`` for every x, without underflow."""
    result = np.empty(len(x))
    step = max(1, _CHUNK // (8 * max(len(reference), x.shape[1])))
    for start in range(0, len(x), step):
        exponents = squared_distances(x[start : start + step], reference)
        exponents /= -2.0 * h * h
        top = exponents.max(axis=1)
        exponents -= top[:, None]
        result[start : start + step] = top + np.log(np.exp(exponents).sum(axis=1))
    return result


def squared_distances(x: Float[np.ndarray, "n F"], y: Float[np.ndarray, "m F"]) -> Float[np.ndarray, "n m"]:
    """Return squared Euclidean distances, in float64: those of near environments are differences of near numbers."""
    x, y = x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
    squares = np.einsum("nf,nf->n", x, x)[:, None] + np.einsum("mf,mf->m", y, y) - 2.0 * (x @ y.T)
    return np.maximum(squares, 0.0, out=squares)


def _split(
    vectors: Float[np.ndarray, "environments F"], offsets: Int[np.ndarray, " structures+1"]
) -> list[Float[np.ndarray, "own F"]]:
    """One array a structure."""
    return [vectors[a:b].astype(np.float64) for a, b in pairwise(offsets)]


def _package(name: str) -> ModuleType:
    """Import a part of the package quests."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ParameterError(
            f"method 'quests' needs the package `quests` with what it depends on ({error}): "
            "`pip install quests`, or take method 'entropy', which needs no package"
        ) from error
