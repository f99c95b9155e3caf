"""Groups of vectors that are the same up to round-off."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SAME = 1e-6
"""Relative distance below which mean descriptors count as equal: far above the round-off of coordinates in files."""


def equal_vectors(
    vectors: Float[np.ndarray, "n f"], sizes: Int[np.ndarray, " n"], tolerance: float = SAME
) -> Int[np.ndarray, " n"]:
    """Find the groups of equal vectors, and number them by their first member.

    Parameters
    ----------
    vectors
        One a thing, such as the mean descriptor of a structure.
    sizes
        Things of different sizes, such as numbers of atoms, are never equal.
    tolerance
        Largest distance of equal vectors, relative to the larger norm. Groups are chains: a member is within the
        tolerance of some other member.

    Returns
    -------
    groups
        Group number of every vector.
    """
    n, width = vectors.shape
    if n == 0 or width == 0:
        return np.arange(n)
    pairs = _close_pairs(vectors, sizes, tolerance)
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    first = np.unique(labels, return_index=True)[1]
    result: np.ndarray = np.argsort(np.argsort(first))[labels]
    return result


def _close_pairs(
    vectors: Float[np.ndarray, "n f"], sizes: Int[np.ndarray, " n"], tolerance: float
) -> Int[np.ndarray, "pairs 2"]:
    """Find all close pairs by a sweep along one random direction, on which close points stay close."""
    norms = np.sqrt(np.einsum("sf,sf->s", vectors, vectors))
    direction = np.random.default_rng(0).standard_normal(vectors.shape[1:])
    direction /= np.linalg.norm(direction)
    # Sizes come first: vectors of different sizes are never neighbours in the order.
    along = vectors @ direction
    order = np.lexsort((along, sizes))
    along, size = along[order], sizes[order]
    # Room for round-off of the projection, so that exact copies are never missed.
    reach = (tolerance + 1e-13) * float(norms.max())
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for shift in range(1, len(order)):
        near = np.flatnonzero((along[shift:] - along[:-shift] <= reach) & (size[shift:] == size[:-shift]))
        if not len(near):
            break
        first, second = order[near], order[near + shift]
        distance = np.linalg.norm(vectors[first] - vectors[second], axis=1)
        close = distance <= tolerance * np.maximum(norms[first], norms[second])
        pairs.append(np.stack([first[close], second[close]], axis=1))
    return np.concatenate(pairs)
