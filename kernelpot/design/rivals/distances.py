"""Rivals that spread out by distances of mean descriptors."""

from __future__ import annotations

# ruff: noqa: ARG001 (rivals share one signature)
import numpy as np
from jaxtyping import Int

from kernelpot.design.information import Information
from kernelpot.design.rivals.vectors import known_means, means
from kernelpot.linalg import subsets
from kernelpot.linalg.subsets import farthest_points, kmeans_medoids


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
    return heads[subsets.maximin(vectors, n, given=known_means(existing), seed=seed)]
