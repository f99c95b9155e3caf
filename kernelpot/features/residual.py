"""Prior variance of energies, forces and stresses under the full kernel: what the inducing environments cannot see."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from kernelpot.features.kernel_space import Described, KernelSpace
from kernelpot.features.normalise import unit_jacobian

CENTRES = 256
GROUP_BYTES = 400_000_000


def prior(features: KernelSpace, described: Described, kind: str) -> Float[np.ndarray, " rows"]:
    """Return the prior variance of every label of a kind at amplitude 1, flat."""
    of_kind = {"energy": energy_prior, "forces": forces_prior, "stress": stress_prior}[kind]
    return of_kind(features, described).ravel()


def energy_prior(features: KernelSpace, described: Described) -> Float[np.ndarray, " structures"]:
    """Return 1ᵀK1 of each structure: the prior variance of its total energy at amplitude 1.

    Minus the squared features it is the residual variance 1ᵀ(K - Q)1: N equal atoms far from Z give N².
    """
    batch, kernel = described.batch, features.kernel
    result = np.zeros(len(batch))
    for s, atoms in _by_structure_and_species(described):
        x = described.x[atoms]
        if kernel.form == 2 and x.shape[1] < len(x):
            result[s] += np.sum((x.T @ x) ** 2)
            continue
        for start in range(0, len(x), CENTRES):
            result[s] += kernel.value(x[start : start + CENTRES] @ x.T).sum()
    return result


def forces_prior(features: KernelSpace, described: Described) -> Float[np.ndarray, "atoms 3"]:
    """Return the prior variance of every force component at amplitude 1.

    The mixed second derivative Σ_ij ∂²k(x_i, x_j)/∂r∂r' at r = r', over the centres i, j that the atom moves:
    k'' (J_i·x_j)(J_j·x_i) + k' J_i·J_j with J_i = ∂x_i/∂r.
    """
    batch = described.batch
    result = np.zeros((batch.n_atoms, 3))
    per_target = 3 * 8 * described.x.shape[1] * (len(batch.first) / batch.n_atoms + 1)
    group = max(1, int(GROUP_BYTES / per_target))
    for start in range(0, batch.n_atoms, group):
        stop = min(batch.n_atoms, start + group)
        rows, centre, target = _rows_of_targets(described, start, stop)
        order = np.argsort(target, kind="stable")
        ends = np.searchsorted(target[order], np.arange(start, stop + 1))
        for atom in range(start, stop):
            mine = order[ends[atom - start] : ends[atom - start + 1]]
            for a in np.unique(described.species[centre[mine]]):
                of_a = mine[described.species[centre[mine]] == a]
                x = described.x[centre[of_a]]
                for c in range(3):
                    result[atom, c] += _mixed(features, x, rows[of_a, c])
    return result


def stress_prior(features: KernelSpace, described: Described) -> Float[np.ndarray, "structures 6"]:
    """Return the prior variance of every stress component at amplitude 1; NaN where there is no volume."""
    batch = described.batch
    result = np.zeros((len(batch), 6))
    virial = np.empty((batch.n_atoms, 6, described.x.shape[1]))
    for start, stop in _centre_chunks(batch.n_atoms):
        part = described.environments.displacements(start, stop).virial
        unit_jacobian(part, np.arange(stop - start), described.x[start:stop], described.norm[start:stop])
        virial[start:stop] = part
    for s, atoms in _by_structure_and_species(described):
        for v in range(6):
            result[s, v] += _mixed(features, described.x[atoms], virial[atoms, v])
    return result / batch.volumes[:, None] ** 2


def _mixed(features: KernelSpace, x: Float[np.ndarray, "n f"], j: Float[np.ndarray, "n f"]) -> float:
    """Σ_ab k''(x_a·x_b) (j_a·x_b)(j_b·x_a) + k'(x_a·x_b) j_a·j_b, in blocks of rows."""
    kernel, total = features.kernel, 0.0
    for start in range(0, len(x), CENTRES):
        block = slice(start, start + CENTRES)
        dots = x[block] @ x.T
        total += float(np.sum(kernel.slope(dots) * (j[block] @ j.T)))
        if kernel.form != 1:
            total += float(np.sum(kernel.curvature(dots) * (j[block] @ x.T) * (x[block] @ j.T)))
    return total


def _rows_of_targets(
    described: Described, start: int, stop: int
) -> tuple[Float[np.ndarray, "rows 3 f"], Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Return the derivatives of all unit vectors that atoms ``start:stop`` move."""
    batch = described.batch
    concerned = np.zeros(batch.n_atoms, dtype=bool)
    concerned[start:stop] = True
    concerned[batch.first[(batch.second >= start) & (batch.second < stop)]] = True
    rows, centres, targets = [], [], []
    for a, b in _centre_chunks(batch.n_atoms):
        if not concerned[a:b].any():
            continue
        moved = described.environments.displacements(a, b)
        kept = (moved.target >= start) & (moved.target < stop)
        part = np.ascontiguousarray(moved.rows[kept])
        unit_jacobian(part, moved.centre[kept], described.x[a:b], described.norm[a:b])
        rows.append(part)
        centres.append(moved.centre[kept] + a)
        targets.append(moved.target[kept])
    return np.concatenate(rows), np.concatenate(centres), np.concatenate(targets)


def _centre_chunks(n_atoms: int, size: int = 64) -> Iterator[tuple[int, int]]:
    for start in range(0, n_atoms, size):
        yield start, min(n_atoms, start + size)


def _by_structure_and_species(described: Described) -> Iterator[tuple[int, Int[np.ndarray, " atoms"]]]:
    offsets = described.batch.offsets
    for s in range(len(described.batch)):
        species = described.species[offsets[s] : offsets[s + 1]]
        for a in np.unique(species):
            yield s, offsets[s] + np.flatnonzero(species == a)
