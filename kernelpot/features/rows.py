"""The rows that structures give: energies, forces and stresses as linear functionals of the kernel weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from jaxtyping import Float
from numba import njit

from kernelpot.features.feature_map import Rows
from kernelpot.features.kernel_space import Described, KernelSpace
from kernelpot.features.normalise import unit_jacobian

SCRATCH_BYTES = 12_000_000
"""Rough size of one chunk's product of derivatives with inducing environments, so that it stays in cache."""


def make_rows(features: KernelSpace, described: Described, kinds: Collection[str]) -> Rows:
    """Return the rows of a batch.

    Forces and stresses need ∂k(x_i, z)/∂r = k'(x_i·z) zᵀ ∂x_i/∂r: one matrix product of all derivatives with Z per
    chunk of centres, at 2·3·(neighbours + 1)·F·M operations an atom, then a weighted scatter.
    """
    batch = described.batch
    n_inducing = features.n_inducing
    energy = np.zeros((len(batch), n_inducing))
    slopes = np.zeros((batch.n_atoms, max(len(z) for z in features.inducing)))
    for a, (atoms, dots) in enumerate(features.dots(described)):
        columns = slice(features.starts[a], features.starts[a + 1])
        add_runs(energy[:, columns], batch.structure[atoms], features.kernel.value(dots))
        slopes[atoms, : dots.shape[1]] = features.kernel.slope(dots)
    if not {"forces", "stress"} & set(kinds):
        return Rows(energy, None, None)
    forces = np.zeros((batch.n_atoms, 3, n_inducing))
    stress = np.zeros((len(batch), 6, n_inducing))
    for start, stop in _chunks(features, described):
        moved = described.environments.displacements(start, stop)
        x, norm = described.x[start:stop], described.norm[start:stop]
        everyone = np.arange(stop - start)
        unit_jacobian(moved.rows, moved.centre, x, norm)
        unit_jacobian(moved.virial, everyone, x, norm)
        species = described.species[start:stop]
        for a in np.unique(species):
            z = features.inducing[a]
            mine = np.flatnonzero(species == a)
            ours = np.flatnonzero(species[moved.centre] == a)
            first, last = int(features.starts[a]), int(features.starts[a + 1])
            scatter(
                _product(moved.rows, ours, z), moved.centre[ours], moved.target[ours],
                slopes[start:stop, : len(z)], -1.0, forces[:, :, first:last],
            )  # fmt: skip
            scatter(
                _product(moved.virial, mine, z), mine, batch.structure[start:stop][mine],
                slopes[start:stop, : len(z)], 1.0, stress[:, :, first:last],
            )  # fmt: skip
    stress /= batch.volumes[:, None, None]
    return Rows(
        energy,
        forces.reshape(-1, n_inducing) if "forces" in kinds else None,
        stress.reshape(-1, n_inducing) if "stress" in kinds else None,
    )


def add_runs(total: Float[np.ndarray, "n m"], index: np.ndarray, values: Float[np.ndarray, "a m"]) -> None:
    """Add values[a] to total[index[a]] for a sorted index, one run at a time."""
    if len(index):
        begins = np.flatnonzero(np.concatenate([[True], index[1:] != index[:-1]]))
        total[index[begins]] += np.add.reduceat(values, begins, axis=0)


def _chunks(features: KernelSpace, described: Described) -> list[tuple[int, int]]:
    """Cut the atoms so that a chunk's product with the inducing environments stays in cache."""
    batch = described.batch
    per_atom = 3 * (len(batch.first) / max(batch.n_atoms, 1) + 3) * (features.n_inducing + described.x.shape[1]) * 8
    size = max(1, int(SCRATCH_BYTES / per_atom))
    return [(a, min(batch.n_atoms, a + size)) for a in range(0, batch.n_atoms, size)]


def _product(rows: Float[np.ndarray, "rows c f"], chosen: np.ndarray, z: Float[np.ndarray, "m f"]) -> np.ndarray:
    """Multiply the chosen derivative rows with the inducing environments of their species."""
    part = rows if len(chosen) == len(rows) else rows[chosen]
    return (part.reshape(-1, part.shape[2]) @ z.T).reshape(len(chosen), rows.shape[1], len(z))


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"})
def scatter(product: Any, centre: Any, target: Any, slopes: Any, sign: Any, result: Any) -> Any:
    """Add sign · slopes[centre, m] · product[row, c, m] to result[target, c, m]."""
    for r in range(product.shape[0]):
        i, j = centre[r], target[r]
        for c in range(product.shape[1]):
            for m in range(product.shape[2]):
                result[j, c, m] += sign * slopes[i, m] * product[r, c, m]
