"""The choice of inducing environments among those of unlabelled structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch, over_batches
from kernelpot.data.stream import sizes_of
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.errors import ParameterError
from kernelpot.features.vectors import unit
from kernelpot.linalg.subsets import cur, farthest_points

if TYPE_CHECKING:
    from ase import Atoms

FEWEST_PER_SPECIES = 50
DISTINCT = 1e-6
POOL_BYTES = 1_000_000_000
"""Memory for candidate environments; beyond it every species is thinned at random, with the model's seed."""


def share_out(n: int, available: Int[np.ndarray, " species"]) -> Int[np.ndarray, " species"]:
    """Share n inducing environments over species by environment count, at least min(50, available) each."""
    least = np.minimum(FEWEST_PER_SPECIES, available)
    if n < len(available):
        raise ParameterError(f"`n_inducing` must be at least one for each of {len(available)} species, got {n}.")
    n = min(n, int(available.sum()))
    if n < least.sum():
        least = np.minimum(available, n // len(available))
    share = np.minimum(least, available)
    while share.sum() < n:
        open_ = share < available
        left = n - share.sum()
        weight = np.where(open_, np.maximum(available / available.sum() * n - share, 1e-9), 0.0)
        step = np.minimum(np.floor(left * weight / weight.sum()).astype(np.int64), available - share)
        if step.sum() == 0:
            step = np.zeros_like(share)
            step[int(np.argmax(weight))] = 1
        share = share + step
    return share


def choose_inducing(
    descriptor: Descriptor, structures: Sequence[Atoms], n: int, *, method: str, seed: int
) -> tuple[Float[np.ndarray, "m f"], ...]:
    """Choose up to n distinct environments, by "fps", "cur" or "random", shared over the species of their centres."""
    species = descriptor.species or ()
    found = environments_of(descriptor, structures, species, seed)
    shares = share_out(n, np.array([len(x) for x in found]))
    return tuple(_subset(x, int(k), method, seed) for x, k in zip(found, shares, strict=True))


def given_inducing(
    descriptor: Descriptor, structures: Sequence[Atoms], environments: Sequence[tuple[int, int]]
) -> tuple[Float[np.ndarray, "m f"], ...]:
    """Take the environments that are named, as (structure, atom) places counted from 0."""
    wanted: dict[int, list[int]] = {}
    for s, i in environments:
        if not 0 <= s < len(structures) or not 0 <= i < len(structures[s]):
            raise ParameterError(
                f"`environments` names atom {i} of structure {s}, which does not exist; both count from 0."
            )
        wanted.setdefault(int(s), []).append(int(i))
    vectors, numbers = [], []
    for s, atoms in wanted.items():
        if len(set(atoms)) < len(atoms):
            raise ParameterError(f"`environments` names an atom of structure {s} twice; name each once.")
        batch = Batch.from_structures([structures[s]], descriptor.cutoff)
        vectors.append(unit(descriptor.environments(batch).vectors)[0][atoms])
        numbers.append(batch.numbers[atoms])
    x, z = np.concatenate(vectors), np.concatenate(numbers)
    for species in descriptor.species or ():
        if not (z == species).any():
            raise ParameterError(f"`environments` names no atom of atomic number {species}; each species needs one.")
    return tuple(np.ascontiguousarray(x[z == species]) for species in descriptor.species or ())


def more_inducing(
    descriptor: Descriptor,
    structures: Sequence[Atoms],
    inducing: Sequence[Float[np.ndarray, "m f"]],
    n: int,
    *,
    seed: int,
) -> tuple[Float[np.ndarray, "m f"], ...]:
    """Return the inducing environments with up to n more, each the farthest from all that are there."""
    found = environments_of(descriptor, structures, descriptor.species or (), seed)
    # Room for all that is new; those that coincide with what is there already drop out by their distance.
    shares = share_out(n, np.array([len(x) for x in found]))
    result = []
    for z, x, k in zip(inducing, found, shares, strict=True):
        both = np.concatenate([z, x])
        order = farthest_points(both, min(len(both), len(z) + int(k)), first=np.arange(len(z)), tol=DISTINCT)
        result.append(np.ascontiguousarray(both[order]))
    return tuple(result)


def _subset(x: Float[np.ndarray, "n f"], k: int, method: str, seed: int) -> Float[np.ndarray, "m f"]:
    if method == "fps":
        chosen = farthest_points(x, k, seed=seed, tol=DISTINCT)
    elif method == "cur":
        chosen = cur(x, k, seed=seed)
    else:
        chosen = np.random.default_rng(seed).permutation(len(x))[:k]
    return np.ascontiguousarray(x[chosen])


def environments_of(
    descriptor: Descriptor, structures: Sequence[Atoms], species: tuple[int, ...], seed: int
) -> list[Float[np.ndarray, "n f"]]:
    """Return the unit vectors of every species' environments, thinned where they would not fit in memory."""
    rng = np.random.default_rng(seed)
    total = int(sizes_of(structures).sum())
    parts: list[list[np.ndarray]] = [[] for _ in species]

    def described(batch: Batch, _: int) -> tuple[np.ndarray, np.ndarray]:
        return batch.numbers, unit(descriptor.environments(batch).vectors)[0]

    for numbers, x in over_batches(described, structures, descriptor.cutoff, "environments"):
        kept_share = min(1.0, POOL_BYTES / (total * x.shape[1] * 8))
        for a, z in enumerate(species):
            mine = np.flatnonzero(numbers == z)
            if kept_share < 1.0:
                mine = mine[rng.random(len(mine)) < kept_share]
            parts[a].append(x[mine])
    result = [np.concatenate(p) for p in parts]
    for a, x in enumerate(result):
        if len(x) == 0:
            raise ParameterError(f"no environment of atomic number {species[a]} was left to choose from.")
    return result


def mean_vectors(descriptor: Descriptor, structures: Sequence[Atoms]) -> Float[np.ndarray, "structures f"]:
    """Return each structure's mean unit vector."""

    def mean(batch: Batch, _: int) -> Float[np.ndarray, "structures f"]:
        x = unit(descriptor.environments(batch).vectors)[0]
        return np.add.reduceat(x, batch.offsets[:-1], axis=0) / batch.sizes[:, None]

    return np.concatenate(list(over_batches(mean, structures, descriptor.cutoff)))


@dataclass(frozen=True, eq=False)
class EnvironmentVectors:
    """The unit vectors of all environments of structures, described again at every call.

    They are kept in float32, as a pool of 10,000 structures of 32 atoms has 0.3 GB of them at 252 components; what
    compares them cuts at a relative 1e-6, above that precision.
    """

    descriptor: Descriptor  # with its species set
    structures: tuple[Atoms, ...]  # in the order of the offsets

    def __call__(self) -> tuple[Float[np.ndarray, "environments f"], Int[np.ndarray, " structures+1"]]:
        """Return ``(vectors, offsets)``; structure s has ``vectors[offsets[s]:offsets[s + 1]]``."""

        def described(batch: Batch, _: int) -> Float[np.ndarray, "atoms f"]:
            return unit(self.descriptor.environments(batch).vectors)[0].astype(np.float32)

        offsets = np.concatenate([[0], np.cumsum([len(atoms) for atoms in self.structures])]).astype(np.int64)
        parts = over_batches(described, self.structures, self.descriptor.cutoff, "environments")
        return np.concatenate(list(parts)), offsets
