"""Structures that belong together: duplicates by descriptor, runs of frames, and the folds that keep them whole."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

SAME = 1e-4
"""Distance of mean unit vectors below which structures of equal size count as the same."""

RUN = 5
"""Neighbouring frames of a list that stay in one fold."""


def duplicates(
    means: Float[np.ndarray, "structures f"], n_atoms: Int[np.ndarray, " structures"], tolerance: float = SAME
) -> Int[np.ndarray, " structures"]:
    """Find the groups of structures that are the same up to symmetry, and number them.

    Two structures are the same when they have as many atoms and their mean unit vectors lie within `tolerance`;
    groups are the connected components. Groups are numbered by their first member.

    Parameters
    ----------
    means
        Mean unit vector of each structure.
    n_atoms
        Atoms of each structure.
    tolerance
        Distance.
    """
    pairs = cKDTree(means).query_pairs(tolerance, output_type="ndarray")
    pairs = pairs[n_atoms[pairs[:, 0]] == n_atoms[pairs[:, 1]]]
    return _components(pairs, len(means))


def folds(
    groups: Int[np.ndarray, " structures"], n_folds: int, *, seed: int, run: int = RUN
) -> Int[np.ndarray, " structures"]:
    """Assign structures to folds of about equal size; duplicates and runs of neighbouring frames stay together.

    Runs are counted in distinct structures, by the first place of each in the list: were they counted in frames, a
    strained crystal and its repeats would chain a whole family into one fold.

    Parameters
    ----------
    groups
        Duplicate group of each structure, numbered by first member (frames of one trajectory stand together).
    n_folds
        Number of folds, at most the number of groups.
    seed
        Shuffles the runs.
    run
        Distinct structures of a run; fewer where the set is small.
    """
    length = max(1, min(run, (int(groups.max()) + 1) // (4 * n_folds)))
    blocks = groups // length
    sizes = np.bincount(blocks)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    load, fold_of_block = np.zeros(n_folds, np.int64), np.zeros(len(sizes), np.int64)
    for block in order:
        fold_of_block[block] = np.argmin(load)
        load[fold_of_block[block]] += sizes[block]
    result: np.ndarray = fold_of_block[blocks]
    return result


def _components(pairs: Int[np.ndarray, "links 2"], n: int) -> Int[np.ndarray, " n"]:
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return rank[inverse].astype(np.int64)
