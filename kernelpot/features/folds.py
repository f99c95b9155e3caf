"""Folds of structures that keep duplicates and runs of neighbouring frames whole."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

RUN = 5
"""Neighbouring frames of a list that stay in one fold."""


def runs(groups: Int[np.ndarray, " structures"], n_folds: int, *, run: int = RUN) -> Int[np.ndarray, " structures"]:
    """Return the run that each structure belongs to: what stays together, and counts as one independent witness."""
    length = max(1, min(run, (int(groups.max()) + 1) // (4 * n_folds)))
    result: np.ndarray = groups // length
    return result


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
    blocks = runs(groups, n_folds, run=run)
    sizes = np.bincount(blocks)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    load, fold_of_block = np.zeros(n_folds, np.int64), np.zeros(len(sizes), np.int64)
    for block in order:
        fold_of_block[block] = np.argmin(load)
        load[fold_of_block[block]] += sizes[block]
    result: np.ndarray = fold_of_block[blocks]
    return result
