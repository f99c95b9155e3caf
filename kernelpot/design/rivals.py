"""Simple ways to choose, to be compared with.

Each ranks candidates without looking at a criterion: at random, by farthest points or by k-means on mean descriptors
(the usual baselines of training-set selection).
"""

from __future__ import annotations

# ruff: noqa: ARG001 (rivals share one signature)
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.information import Information
from kernelpot.errors import ParameterError
from kernelpot.linalg.subsets import farthest_points, kmeans_medoids

Rival = Callable[[Information, Int[np.ndarray, " heads"], int, Information | None, int], Int[np.ndarray, " order"]]
"""``rival(info, heads, n, existing, seed)`` ranks n of the distinct candidates `heads`, the first choice first."""


def random(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Draw distinct candidates at random."""
    return np.random.default_rng(seed).permutation(heads)


def fps(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Choose the candidate farthest from all chosen and existing ones, from a random start where none exist."""
    means = _means(info, heads, "fps")
    if existing is None or not len(existing):
        return heads[farthest_points(means, n, seed=seed)]
    known = len(existing)
    joined = np.concatenate([existing.means, means])
    chosen = farthest_points(joined, known + n, first=np.arange(known))
    return heads[chosen[known:] - known]


def kmeans(
    info: Information, heads: Int[np.ndarray, " heads"], n: int, existing: Information | None, seed: int
) -> Int[np.ndarray, " order"]:
    """Choose the candidate nearest to each of n cluster centres; existing ones are not looked at."""
    return heads[kmeans_medoids(_means(info, heads, "kmeans"), n, seed=seed, n_init=10)]


RIVALS: Mapping[str, Rival] = {"random": random, "fps": fps, "kmeans": kmeans}


def _means(info: Information, heads: Int[np.ndarray, " heads"], method: str) -> Float[np.ndarray, "heads F"]:
    """Mean descriptors of the candidates."""
    if not info.means.shape[1]:
        raise ParameterError(f"method {method!r} compares mean descriptors, but `info.means` has no columns")
    return info.means[heads]
