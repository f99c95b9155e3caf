"""Prior covariances under the full kernel: between total energies, and within one atom's force or one stress."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.features.kernel_space import Described, KernelSpace
from kernelpot.features.normalise import unit_jacobian
from kernelpot.features.rows import add_runs
from kernelpot.kernels import Kernel

CENTRES = 256
GRAM_BYTES = 200_000_000
"""Most memory for the second moments of structures, where these replace the double sum over atoms."""


def energy_covariance(features: KernelSpace, left: Described, right: Described) -> Float[np.ndarray, "left right"]:
    """Return 1ᵀK1 between structures: the prior covariance of their total energies at amplitude 1.

    Σ_ij k(x_i, y_j) over pairs of one species. zeta 2 is Σ (XᵀX)·(YᵀY), F² operations an atom and a pair of
    structures, taken where it is cheaper.
    """
    result = np.zeros((len(left.batch), len(right.batch)))
    for a in range(len(features.species)):
        i, j = np.flatnonzero(left.species == a), np.flatnonzero(right.species == a)
        s, t = left.batch.structure[i], right.batch.structure[j]
        x, y = left.x[i], right.x[j]
        f, n = x.shape[1], len(np.unique(s)) * len(np.unique(t))
        cheaper = f * (len(x) + len(y) + n) < len(x) * len(y)
        if features.kernel.form == 2 and cheaper and 8 * f * f * sum(result.shape) < GRAM_BYTES:
            result += _moments(x, s, len(left.batch)) @ _moments(y, t, len(right.batch)).T
            continue
        for start in range(0, len(x), CENTRES):
            block = slice(start, start + CENTRES)
            columns = np.zeros((len(right.batch), len(x[block])))
            add_runs(columns, t, features.kernel.value(y @ x[block].T))
            add_runs(result, s[block], columns.T)
    return result


def force_covariance(features: KernelSpace, described: Described, atom: int) -> Float[np.ndarray, "3 3"]:
    """Return the prior covariance of one atom's force at amplitude 1; the diagonal is that of `forces_prior`."""
    batch = described.batch
    near = batch.first[batch.second == atom]
    rows, centres = [], []
    for centre in np.unique(np.append(near, atom)).tolist():
        moved = described.environments.displacements(centre, centre + 1)
        part = np.ascontiguousarray(moved.rows[moved.target == atom])
        here = slice(centre, centre + 1)
        unit_jacobian(part, np.zeros(len(part), dtype=np.int64), described.x[here], described.norm[here])
        rows.append(part)
        centres += [centre] * len(part)
    return _over_species(features, described, np.array(centres), np.concatenate(rows))


def stress_covariance(features: KernelSpace, described: Described, structure: int) -> Float[np.ndarray, "6 6"]:
    """Return the prior covariance of one structure's stress at amplitude 1; NaN where there is no volume."""
    batch = described.batch
    start, stop = int(batch.offsets[structure]), int(batch.offsets[structure + 1])
    virial = np.empty((stop - start, 6, described.x.shape[1]))
    for a in range(start, stop, CENTRES):
        b = min(stop, a + CENTRES)
        part = described.environments.displacements(a, b).virial
        unit_jacobian(part, np.arange(b - a), described.x[a:b], described.norm[a:b])
        virial[a - start : b - start] = part
    return _over_species(features, described, np.arange(start, stop), virial) / batch.volumes[structure] ** 2


def surroundings(batch: Batch, atom: int) -> tuple[Batch, int]:
    """Return the part of a structure that one atom's force depends on, and the atom's number in it.

    The environments of the atom and of its neighbours are whole; what only completes them has no neighbours itself.

    Parameters
    ----------
    batch
        One structure.
    atom
        Number of the atom.
    """
    centres = np.unique(np.append(batch.second[batch.first == atom], atom))
    pairs = np.isin(batch.first, centres)
    kept = np.unique(np.concatenate([centres, batch.second[pairs]]))
    first = np.searchsorted(kept, batch.first[pairs])
    counts = np.bincount(first, minlength=len(kept))
    part = Batch(
        positions=batch.positions[kept],
        cells=batch.cells,
        pbc=batch.pbc,
        numbers=batch.numbers[kept],
        offsets=np.array([0, len(kept)]),
        first=first,
        second=np.searchsorted(kept, batch.second[pairs]),
        shifts=batch.shifts[pairs],
        pair_offsets=np.concatenate([[0], np.cumsum(counts)]),
        cutoff=batch.cutoff,
    )
    return part, int(np.searchsorted(kept, atom))


def _moments(
    x: Float[np.ndarray, "n f"], structure: Int[np.ndarray, " n"], n_structures: int
) -> Float[np.ndarray, "structures f*f"]:
    """Return XᵀX of every structure, flat."""
    ends = np.searchsorted(structure, np.arange(n_structures + 1))
    parts = [x[ends[s] : ends[s + 1]] for s in range(n_structures)]
    return np.stack([(part.T @ part).ravel() for part in parts])


def _over_species(
    features: KernelSpace, described: Described, centres: Int[np.ndarray, " n"], j: Float[np.ndarray, "n c f"]
) -> Float[np.ndarray, "c c"]:
    result = np.zeros((j.shape[1], j.shape[1]))
    species = described.species[centres]
    for a in np.unique(species):
        mine = np.flatnonzero(species == a)
        result += _mixed(features.kernel, described.x[centres[mine]], j[mine])
    return result


def _mixed(kernel: Kernel, x: Float[np.ndarray, "n f"], j: Float[np.ndarray, "n c f"]) -> Float[np.ndarray, "c c"]:
    """Σ_ab k''(x_a·x_b) (j_a^c·x_b)(j_b^d·x_a) + k'(x_a·x_b) j_a^c·j_b^d, in blocks of rows a."""
    n, c, f = j.shape
    result = np.zeros((c, c))
    flat = j.reshape(n, c * f)
    for start in range(0, n, CENTRES):
        block = slice(start, start + CENTRES)
        dots = x[block] @ x.T
        mean = (kernel.slope(dots) @ flat).reshape(-1, c, f)
        result += np.einsum("acf,adf->cd", j[block], mean)
        if kernel.form != 1:
            curvature = kernel.curvature(dots)
            along = np.stack([curvature * (j[block, d] @ x.T) for d in range(c)])
            back = np.stack([x[block] @ j[:, d].T for d in range(c)])
            result += np.einsum("cab,dab->cd", along, back)
    return result
