"""The choice of inducing environments among those of unlabelled structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular
from scipy.optimize import isotonic_regression

from kernelpot.data.batch import Batch, over_batches
from kernelpot.data.stream import sizes_of
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.errors import ParameterError
from kernelpot.features.vectors import unit
from kernelpot.kernels import DotKernel, DotProduct
from kernelpot.linalg.subsets import cur, farthest_points, in_order

if TYPE_CHECKING:
    from ase import Atoms

FEWEST_PER_SPECIES = 50
DISTINCT = 1e-6
SAMPLE = 1000
"""Environments of a species that stand for all where their residual variance is summed."""
JITTER = 1e-10
"""Added to the diagonal of a kernel matrix of nearly equal environments."""
SCATTER = 1e6
"""Makes the digits behind it look drawn, and leaves nine for round-off to spoil."""
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


def allot(n: int, lacks: Sequence[Float[np.ndarray, " m_plus_1"]]) -> Int[np.ndarray, " species"]:
    """Share n inducing environments so that what all species lack, Σ_a R_a(m_a), is least; at least one each.

    `lacks` holds R_a(0), R_a(1), … of each species, up to all that it has. The largest falls of their convex minorants
    are taken, which is exact where R_a is convex (Fox (1966), marginal allocation).
    """
    if n < len(lacks):
        raise ParameterError(f"`n_inducing` must be at least one for each of {len(lacks)} species, got {n}.")
    falls = [isotonic_regression(-np.diff(lack), increasing=False).x for lack in lacks]
    # The first of each species is its own; falls never grow along a species, so that a stable order takes them in turn.
    owner = np.repeat(np.arange(len(falls)), [len(fall) - 1 for fall in falls])
    order = np.argsort(-np.concatenate([fall[1:] for fall in falls]), kind="stable")
    return 1 + np.bincount(owner[order[: n - len(lacks)]], minlength=len(lacks))


def lack_of(x: Float[np.ndarray, "n f"], most: int, kernel: DotKernel, seed: int) -> Float[np.ndarray, " m_plus_1"]:
    """Return Σ_i k(x_i, x_i) - k(x_i, Z) K_ZZ⁻¹ k(Z, x_i) for Z the first 0, 1, … of at most `most` farthest points.

    The sum runs over a sample, scaled up to all environments. From one Cholesky factor: K_ZZ = L Lᵀ makes the m-th row
    of L⁻¹ k(Z, x) what the m-th point takes away (Fine and Scheinberg (2001)).
    """
    z = x[farthest_points(x, min(most, len(x)), seed=seed, tol=DISTINCT)]
    sample = x if len(x) <= SAMPLE else x[np.random.default_rng(seed).permutation(len(x))[:SAMPLE]]
    k = kernel.value(z @ z.T)
    k[np.diag_indices_from(k)] += JITTER
    seen = solve_triangular(np.linalg.cholesky(k), kernel.value(z @ sample.T), lower=True, check_finite=False)
    taken = np.concatenate([[0.0], np.cumsum(np.einsum("ms,ms->m", seen, seen))])
    result: np.ndarray = np.maximum(len(sample) * float(kernel.value(np.ones(1))[0]) - taken, 0.0)
    return result * (len(x) / len(sample))


def residual_shares(
    found: Sequence[Float[np.ndarray, "n f"]], n: int, kernel: DotKernel, seed: int
) -> Int[np.ndarray, " species"]:
    """Share n inducing environments over species by the prior variance of local energies that is left over."""
    available = np.array([len(x) for x in found])
    # Most species stay below thrice an equal share; where the others have too few, any number may be needed.
    most = -(-3 * n // len(found))
    most = most if np.minimum(most, available).sum() >= n else n
    return allot(n, [lack_of(x, most, kernel, seed) for x in found])


def choose_inducing(
    descriptor: Descriptor,
    structures: Sequence[Atoms],
    n: int,
    *,
    method: str,
    seed: int,
    kernel: DotKernel | None = None,
) -> tuple[Float[np.ndarray, "m f"], ...]:
    """Choose up to n distinct environments, shared over the species of their centres.

    "fps", "cur" and "random" share by environment counts; "residual" are the farthest points of "fps", shared by what
    each species lacks under the kernel.
    """
    species = descriptor.species or ()
    found = environments_of(descriptor, structures, species, seed)
    if method == "residual" and len(species) > 1:
        shares = residual_shares(found, n, DotProduct(2) if kernel is None else kernel, seed)
    else:
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
    if method in ("fps", "residual"):
        chosen = farthest_points(x, k, seed=seed, tol=DISTINCT)
    elif method == "cur":
        chosen = cur(x, k, seed=seed)
    else:
        chosen = np.random.default_rng(seed).permutation(len(x))[:k]
    return np.ascontiguousarray(x[chosen])


def environments_of(
    descriptor: Descriptor, structures: Sequence[Atoms], species: tuple[int, ...], seed: int
) -> list[Float[np.ndarray, "n f"]]:
    """Return the unit vectors of every species' environments, thinned where they would not fit in memory.

    Their order, and what is drawn, depend on the set alone, not on the order of structures and atoms.
    """
    total = int(sizes_of(structures).sum())
    parts: list[list[np.ndarray]] = [[] for _ in species]

    def described(batch: Batch, _: int) -> tuple[np.ndarray, np.ndarray]:
        return batch.numbers, unit(descriptor.environments(batch).vectors)[0]

    for numbers, x in over_batches(described, structures, descriptor.cutoff, "environments"):
        kept_share = min(1.0, POOL_BYTES / (total * x.shape[1] * 8))
        for a, z in enumerate(species):
            mine = np.flatnonzero(numbers == z)
            if kept_share < 1.0:
                mine = mine[_draws(x[mine], seed) < kept_share]
            parts[a].append(x[mine])
    result = [np.concatenate(p) for p in parts]
    result = [x[in_order(x)] for x in result]
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


def _draws(x: Float[np.ndarray, "n f"], seed: int) -> Float[np.ndarray, " n"]:
    """Return a number from 0 to 1 for each vector, as if drawn, that the vector alone decides."""
    along = x @ np.random.default_rng(seed).standard_normal(x.shape[1])
    result: np.ndarray = np.modf(np.abs(along) * SCATTER)[0]
    return result
