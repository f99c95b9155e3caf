"""Fewer components of environment vectors, by the directions that values and derivatives have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.features.inducing import chunks
from kernelpot.features.normalise import unit, unit_jacobian
from kernelpot.progress import track

if TYPE_CHECKING:
    from ase import Atoms

ENVIRONMENTS = 2000
"""Environments of a species, at the most, whose derivatives decide."""

ATOMS_PER_BATCH = 64


def reductions(
    descriptor: Descriptor, structures: Sequence[Atoms], tolerance: float
) -> tuple[Float[np.ndarray, "f q"], ...]:
    """Return orthonormal columns for each centre species, on which unit vectors and their derivatives lie.

    The eigenvectors of Σ xxᵀ / Σ|x|² + Σ JJᵀ / Σ|J|², largest first, until what is left of its trace is `tolerance` of
    the whole. The kernel of the projected vectors is a kernel still, so that forces stay exact derivatives.

    Parameters
    ----------
    descriptor
        With its species.
    structures
        Training structures; where they hold more than `ENVIRONMENTS` of a species, evenly spaced ones are looked at.
    tolerance
        Share of the squared lengths of values and derivatives together that may be lost; 0 keeps every direction
        that there is.
    """
    species = descriptor.species or ()
    most = max(np.mean([np.count_nonzero(atoms.numbers == z) for atoms in structures]) for z in species)
    step = max(1, int(len(structures) * most // ENVIRONMENTS))
    chosen = structures[::step]
    # A species that is nowhere in the thinned list still needs its columns.
    missing = set(species) - {int(z) for atoms in chosen for z in atoms.numbers}
    chosen = [*chosen, *(atoms for atoms in structures if missing & {int(z) for z in atoms.numbers})]
    moments: list[np.ndarray] = []
    sizes = np.zeros((len(species), 2))
    for start, stop in track(list(chunks(chosen, ATOMS_PER_BATCH)), "reduction"):
        batch = Batch.from_structures(chosen[start:stop], descriptor.cutoff)
        environments = descriptor.environments(batch)
        x, norm = unit(environments.vectors)
        moved = environments.displacements(0, batch.n_atoms)
        unit_jacobian(moved.rows, moved.centre, x, norm)
        moments = moments or [np.zeros((2, x.shape[1], x.shape[1])) for _ in species]
        for a, z in enumerate(species):
            for k, part in enumerate((x[batch.numbers == z], moved.rows[batch.numbers[moved.centre] == z])):
                flat = part.reshape(-1, x.shape[1])
                moments[a][k] += flat.T @ flat
                sizes[a, k] += np.einsum("rf,rf->", flat, flat)
    return tuple(_columns(m, size, tolerance) for m, size in zip(moments, sizes, strict=True))


def _columns(
    moments: Float[np.ndarray, "2 f f"], sizes: Float[np.ndarray, " 2"], tolerance: float
) -> Float[np.ndarray, "f q"]:
    # A lone atom has no derivatives.
    total = sum(m / size for m, size in zip(moments, sizes, strict=True) if size > 0.0)
    values, vectors = np.linalg.eigh(total)
    lost = np.cumsum(np.maximum(values, 0.0)) / np.maximum(values, 0.0).sum()
    kept = lost > max(tolerance, 1e-14)
    return np.ascontiguousarray(vectors[:, kept][:, ::-1])
