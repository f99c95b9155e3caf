"""Structures that say the same thing twice."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kernelpot.design.information import Information
from kernelpot.errors import ParameterError


def duplicates(info: Information, *, tolerance: float = 1e-8) -> Int[np.ndarray, " structures"]:
    """Group structures that have equal mean descriptors and equal numbers of atoms.

    Parameters
    ----------
    info
        The structures. Without mean descriptors each is a group of its own.
    tolerance
        Largest distance of two mean descriptors, relative to the larger norm.

    Returns
    -------
    groups
        Group number of every structure, counted in the order of first members. Groups are chains: a member
        is within the tolerance of some other member.

    Raises
    ------
    ParameterError
        If `tolerance` is negative or not finite.
    """
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ParameterError(f"`tolerance` must be finite and not negative, got {tolerance}")
    n, F = info.means.shape
    if F == 0 or n == 0:
        return np.arange(n)
    pairs = _close_pairs(info.means, info.n_atoms, tolerance)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    first = np.unique(labels, return_index=True)[1]
    return np.argsort(np.argsort(first))[labels]


def _close_pairs(
    means: Float[np.ndarray, "structures F"], n_atoms: Int[np.ndarray, " structures"], tolerance: float
) -> Int[np.ndarray, "pairs 2"]:
    """Find all close pairs by a sweep along one random direction, on which close points stay close."""
    norms = np.sqrt(np.einsum("sf,sf->s", means, means))
    direction = np.random.default_rng(0).standard_normal(means.shape[1:])
    direction /= np.linalg.norm(direction)
    # Atom numbers come first: structures of different sizes are never neighbours in the order.
    along = means @ direction
    order = np.lexsort((along, n_atoms))
    along, size = along[order], n_atoms[order]
    # Room for round-off of the projection, so that exact copies are never missed.
    reach = (tolerance + 1e-13) * float(norms.max())
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for shift in range(1, len(order)):
        near = np.flatnonzero((along[shift:] - along[:-shift] <= reach) & (size[shift:] == size[:-shift]))
        if not len(near):
            break
        first, second = order[near], order[near + shift]
        distance = np.linalg.norm(means[first] - means[second], axis=1)
        close = distance <= tolerance * np.maximum(norms[first], norms[second])
        pairs.append(np.stack([first[close], second[close]], axis=1))
    return np.concatenate(pairs)
