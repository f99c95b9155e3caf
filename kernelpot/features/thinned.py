"""Feature maps without the inducing environments of some structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import block_diag

from kernelpot.data.batch import Batch
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.inducing import chunks
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.sum_map import SumMap
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

SAME = 1e-9
"""One minus the dot product of two unit vectors below which they are one environment."""

TOLERANCE = 1e-10
"""Eigenvalues below this share of the largest are dropped."""

Owners = list[list[Bool[np.ndarray, "m folds"]]]
"""For each term, for each species, which folds hold each inducing environment; no species for terms without any."""


def owners(features: FeatureMap, structures: Sequence[Atoms], fold: Int[np.ndarray, " structures"]) -> Owners:
    """Find the folds that each inducing environment of a map comes from."""
    return [_owners(term, structures, fold) for term in _terms(features)]


def without_fold(features: FeatureMap, own: Owners, fold: int) -> tuple[FeatureMap, Float[np.ndarray, "d e"]]:
    """Return the map without inducing environments that only this fold holds, and its features in the old ones.

    A kernel map without them is the old map projected on the span of what remains: φ(x)·φ(z) = k(x, z) for every
    inducing z, so that with an orthonormal basis V of the remaining φ(z), Vᵀφ are features of the smaller map.
    """
    found = [_without(term, mine, fold) for term, mine in zip(_terms(features), own, strict=True)]
    maps, bases = [m for m, _ in found], [b for _, b in found]
    if isinstance(features, SumMap):
        return replace(features, terms=tuple(maps)), block_diag(*bases)
    return maps[0], bases[0]


def _terms(features: FeatureMap) -> Sequence[FeatureMap]:
    return features.terms if isinstance(features, SumMap) else (features,)


def _owners(
    term: FeatureMap, structures: Sequence[Atoms], fold: Int[np.ndarray, " structures"]
) -> list[Bool[np.ndarray, "m folds"]]:
    if not isinstance(term, KernelMap):
        return []
    result = [np.zeros((len(z), int(fold.max()) + 1), dtype=bool) for z in term.inducing]

    def same(piece: tuple[int, int]) -> list[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]]:
        batch = Batch.from_structures(structures[slice(*piece)], term.cutoff, start=piece[0])
        found = []
        for atoms, dots in term.dots(term.describe(batch)):
            place, inducing = np.nonzero(dots > 1.0 - SAME)
            found.append((inducing, fold[piece[0] + batch.structure[atoms[place]]]))
        return found

    for found in ordered(same, list(chunks(structures))):
        for own, (inducing, where) in zip(result, found, strict=True):
            own[inducing, where] = True
    return result


def _without(
    term: FeatureMap, own: list[Bool[np.ndarray, "m folds"]], fold: int
) -> tuple[FeatureMap, Float[np.ndarray, "d e"]]:
    if not isinstance(term, KernelMap):
        return term, np.eye(term.n_weights)
    bases = []
    for z, whitening, mine in zip(term.inducing, term.whitening, own, strict=True):
        alone = mine[:, fold] & (mine.sum(axis=1) == 1)
        if not alone.any() or alone.all():
            bases.append(np.eye(whitening.shape[1]))
            continue
        features = term.kernel.value(z[~alone] @ z.T) @ whitening
        eigenvalues, vectors = np.linalg.eigh(features.T @ features)
        bases.append(vectors[:, eigenvalues > TOLERANCE * eigenvalues[-1]])
    pairs = zip(term.whitening, bases, strict=True)
    return replace(term, whitening=tuple(np.ascontiguousarray(w @ v) for w, v in pairs)), block_diag(*bases)
