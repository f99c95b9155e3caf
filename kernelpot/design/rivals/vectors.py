"""What rivals look at: mean descriptors or environment vectors of structures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.environments import Subset
from kernelpot.design.information import Information
from kernelpot.errors import DataError, ParameterError

Rival = Callable[[Information, Int[np.ndarray, " heads"], int, Information | None, int], Int[np.ndarray, " order"]]
"""``rival(info, heads, n, existing, seed)`` ranks n of the distinct candidates `heads`, the first choice first."""


def means(info: Information, heads: Int[np.ndarray, " heads"], method: str) -> Float[np.ndarray, "heads F"]:
    """Mean descriptors of the candidates.

    Raises
    ------
    ParameterError
        If there are none.
    """
    if not info.means.shape[1]:
        raise ParameterError(f"method {method!r} compares mean descriptors, but `info.means` has no columns")
    return info.means[heads]


def known_means(existing: Information | None) -> Float[np.ndarray, "known F"] | None:
    """Mean descriptors of what exists already, None where nothing does."""
    return existing.means if existing is not None and len(existing) else None


def units(X: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n F"]:
    """Vectors divided by their lengths; those of no length stay zero."""
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    result: np.ndarray = X / np.where(lengths > 0, lengths, 1.0)
    return result


def environments(
    info: Information, heads: Int[np.ndarray, " heads"], method: str
) -> tuple[Float[np.ndarray, "environments F"], Int[np.ndarray, " heads+1"]]:
    """Environment vectors of the candidates, those of candidate h in ``vectors[offsets[h]:offsets[h + 1]]``.

    Raises
    ------
    ParameterError
        If there are none, or vectors and offsets do not agree.
    DataError
        If a vector is not finite.
    """
    if info.environments is None:
        raise ParameterError(
            f"method {method!r} compares environments, but `environments` of the pool or of what exists is None; "
            "information made by a prepared model has them"
        )
    vectors, offsets = Subset(info.environments, heads)()
    if vectors.ndim != 2 or offsets.shape != (len(heads) + 1,) or (np.diff(offsets) < 1).any():
        raise ParameterError("`environments` must give every structure at least one row of a two-dimensional array")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        s = heads[np.searchsorted(offsets, bad[0], side="right") - 1]
        raise DataError(f"structure {s} has an environment vector that is not finite: set it aside")
    return vectors, offsets


def known_environments(
    existing: Information | None, method: str
) -> tuple[Float[np.ndarray, "environments F"], Int[np.ndarray, " known+1"]] | None:
    """Environment vectors of what exists already, None where nothing does."""
    if existing is None or not len(existing):
        return None
    return environments(existing, np.arange(len(existing)), method)


def shuffled(heads: Int[np.ndarray, " heads"], seed: int) -> Int[np.ndarray, " heads"]:
    """Candidates in the seed's order, so that the seed breaks ties where the lowest index wins."""
    return np.random.default_rng(seed).permutation(heads)
