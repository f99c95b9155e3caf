"""Rivals that look at the environments of structures: at the volume of their vectors, or at their entropy."""

from __future__ import annotations

import importlib
from itertools import pairwise
from types import ModuleType

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.rivals.averages import Lot, Order
from kernelpot.errors import ParameterError
from kernelpot.linalg.volumes import maxvol
from kernelpot.progress import track

_PER_STRUCTURE = 10
_SAMPLE = 2000
_CHUNK = 1 << 24


def maxvol_environments(lot: Lot) -> Order:
    """Choose structures that hold environments of large volume.

    MaxVol on environments, as active learning of moment tensor potentials does it (Podryabinkin and Shapeev 2017): as
    many environments are chosen as the descriptor has components, but at most ten for each structure asked for, and
    ordered by a pivoted QR; structures come in the order of their first environment. (By the number of their
    environments, large disordered cells would crowd out every crystal, which has one environment.) Where that names
    fewer than n structures, a new round chooses among the environments of the rest. Existing environments count.
    """
    method, lot = "maxvol-environments", lot.shuffled()
    vectors, offsets = lot.environments(method)
    owner = np.repeat(np.arange(len(lot.heads)), np.diff(offsets))
    known = lot.known_environments(method)
    given = None if known is None else known[0]
    wanted = min(_PER_STRUCTURE * lot.n, vectors.shape[1])
    ranked = np.empty(0, dtype=np.int64)
    while len(ranked) < lot.n:
        rest = np.flatnonzero(~np.isin(owner, ranked))
        chosen = owner[rest[maxvol(vectors[rest], min(wanted, len(rest)), given=given)]]
        structures, first = np.unique(chosen, return_index=True)
        ranked = np.concatenate([ranked, structures[np.argsort(first)]])
    return lot.heads[ranked[: lot.n]]


def entropy(lot: Lot) -> Order:
    """Choose the structure whose environments are newest on average, again and again.

    The differential entropy of an environment with respect to those chosen and existing is
    ``dH(x) = -log Σ_j exp(-|x - x_j|²/2h²)`` (Schwalbe-Koda et al. 2025), and a structure counts with the mean over its
    environments. Where nothing is there at first, the structure of the largest entropy of its own begins,
    ``mean over x of -log mean over j of exp(-|x - x_j|²/2h²)``, j running over its own environments. The bandwidth h is
    that of `bandwidth`.
    """
    lot = lot.shuffled()
    vectors, offsets = lot.environments("entropy")
    known = lot.known_environments("entropy")
    h = bandwidth(vectors, lot.seed)
    logs = np.full(len(vectors), -np.inf)
    chosen: list[int] = []
    if known is None:
        own = [np.log(len(x)) - log_densities(x, x, h).mean() for x in _split(vectors, offsets)]
        chosen.append(int(np.argmax(own)))
        logs = log_densities(vectors, vectors[offsets[chosen[0]] : offsets[chosen[0] + 1]], h)
    else:
        for start in range(0, len(known[0]), 256):
            logs = np.logaddexp(logs, log_densities(vectors, known[0][start : start + 256], h))
    for _ in track(range(lot.n - len(chosen)), "choosing"):
        score = -np.add.reduceat(logs, offsets[:-1]) / np.diff(offsets)
        score[chosen] = -np.inf
        new = int(np.argmax(score))
        chosen.append(new)
        logs = np.logaddexp(logs, log_densities(vectors, vectors[offsets[new] : offsets[new + 1]], h))
    return lot.heads[chosen]


def quests(lot: Lot) -> Order:
    """Choose by the minimum set coverage of the package `quests` (Schwalbe-Koda et al. 2025), where it is installed.

    The package's own search (`msc`, or `msc_conditional` where something exists) is given our environment vectors and
    our bandwidth, that of `bandwidth`, as its default belongs to its own descriptor.
    """
    search, measures = _package("quests.compression.fps"), _package("quests.entropy")
    lot = lot.shuffled()
    vectors, offsets = lot.environments("quests")
    known = lot.known_environments("quests")
    h = bandwidth(vectors, lot.seed)
    parts = _split(vectors, offsets)
    own = np.array([measures.entropy(x, h=h) for x in parts])
    # Kernels of far environments underflow to 0, and their logarithm is what the package compares.
    with np.errstate(divide="ignore"):
        if known is None:
            chosen = search.msc(parts, own, lot.n, h=h)
        else:
            chosen = search.msc_conditional(parts, own, lot.n, _split(*known), h=h)
    return lot.heads[np.asarray(chosen, dtype=np.int64)]


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
            "`pip install 'kernelpot[rivals]'`, or take method 'entropy', which needs no package"
        ) from error
