"""Rivals that choose by the entropy of environments."""

from __future__ import annotations

import importlib
from itertools import pairwise
from types import ModuleType

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.information import Information
from kernelpot.design.rivals.vectors import environments, known_environments, shuffled
from kernelpot.errors import ParameterError
from kernelpot.progress import track

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

    Raises
    ------
    ParameterError
        If the package is not installed.
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

    Parameters
    ----------
    vectors
        Environments of the candidates.
    seed
        Draws the sample.
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
    """Entropy of every structure's environments among themselves.

    Parameters
    ----------
    vectors, offsets
        Environments of all structures.
    h
        Bandwidth.
    """
    parts = _split(vectors, offsets)
    return np.array([np.log(len(x)) - log_densities(x, x, h).mean() for x in parts])


def log_densities(
    x: Float[np.ndarray, "n F"], reference: Float[np.ndarray, "m F"], h: float
) -> Float[np.ndarray, " n"]:
    """Return ``log Σ_j exp(-|x - x_j|²/2h²)`` for every x, without underflow.

    Parameters
    ----------
    x, reference
        Vectors; products are made in their own precision.
    h
        Bandwidth.
    """
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
    """Return squared Euclidean distances, in float64: those of near environments are differences of near numbers.

    Parameters
    ----------
    x, y
        Vectors.
    """
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
