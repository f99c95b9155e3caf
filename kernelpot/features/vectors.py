"""Vectors of environments: of unit length, with their derivatives, and summed over atoms and neighbours."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from kernelpot.data.batch import Batch
from kernelpot.descriptors.protocol import Environments
from kernelpot.descriptors.soap.rows import Wanted
from kernelpot.features.feature_map import Rows


@dataclass(frozen=True, eq=False)
class DescribedBatch:
    """A batch whose environments are described once, for everything that follows."""

    batch: Batch
    environments: Environments
    x: Float[np.ndarray, "atoms f"]  # unit vectors, or the vectors themselves where not normalised
    norm: Float[np.ndarray, " atoms"]
    species: Int[np.ndarray, " atoms"]
    normalised: bool = True

    @classmethod
    def of(
        cls, batch: Batch, environments: Environments, species: Sequence[int], *, normalise: bool = True
    ) -> DescribedBatch:
        """Take what a descriptor made of a batch."""
        x, norm = unit(environments.vectors)
        places = np.searchsorted(species, batch.numbers)
        return cls(batch, environments, x if normalise else environments.vectors, norm, places, normalise)

    def by_vectors(self, gradient: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "atoms f"]:
        """Return dE/d(vector as the descriptor made it), given dE/dx."""
        return unit_vjp(gradient, self.x, self.norm) if self.normalised else gradient

    def pull(self, gradient: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "pairs 3"]:
        """Return dE/d(pair vector), given dE/dx."""
        return self.environments.vjp(self.by_vectors(gradient))


class SpeciesRows(NamedTuple):
    """What the environments of one species give to the rows over some raw columns."""

    atoms: Int[np.ndarray, " a"]
    columns: slice
    values: Float[np.ndarray, "a m"]
    slopes: Float[np.ndarray, "a m"] | float  # derivative of a value by the dot product with its inducing environment
    inducing: Float[np.ndarray, "m f"] | None  # None: the columns are the components themselves
    dots: Float[np.ndarray, "a m"] | None = None  # of unit vectors with inducing environments
    squares: list[np.ndarray] | None = None  # what `SOAP.squares` made of these, where derivatives go that way


def unit(
    vectors: Float[np.ndarray, "atoms f"],
) -> tuple[Float[np.ndarray, "atoms f"], Float[np.ndarray, " atoms"]]:
    """Return x = p/|p| and |p|; the centre's own density keeps |p| above zero."""
    norm = np.sqrt(np.einsum("if,if->i", vectors, vectors))
    return vectors / norm[:, None], norm


def unit_vjp(
    gradient: Float[np.ndarray, "atoms f"], x: Float[np.ndarray, "atoms f"], norm: Float[np.ndarray, " atoms"]
) -> Float[np.ndarray, "atoms f"]:
    """Return dE/dp = (I - x xᵀ) dE/dx / |p|."""
    along = np.einsum("if,if->i", gradient, x)
    result: np.ndarray = (gradient - along[:, None] * x) / norm[:, None]
    return result


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"})
def unit_jacobian(rows: Any, centre: Any, x: Any, norm: Any) -> Any:
    """Turn rows[r, c, f] = dp/d… of centre[r] into dx/d… = (I - x xᵀ) dp/|p|, in place."""
    for r in range(rows.shape[0]):
        i = centre[r]
        scale = 1.0 / norm[i]
        for c in range(rows.shape[1]):
            along = 0.0
            for f in range(rows.shape[2]):
                along += rows[r, c, f] * x[i, f]
            for f in range(rows.shape[2]):
                rows[r, c, f] = scale * (rows[r, c, f] - along * x[i, f])


def rows_of(described: DescribedBatch, kinds: Collection[str], parts: Sequence[SpeciesRows], step: int) -> Rows:
    """Return the rows of a batch, the derivatives of `step` centres at a time.

    Forces and stresses need ∂k(x_i, z)/∂r = k'(x_i·z) zᵀ ∂x_i/∂r: one matrix product of all derivatives with Z per
    chunk of centres, at 2·3·(neighbours + 1)·F·M operations an atom, then a weighted scatter; or where all parts have
    `squares`, by way of the density (`descriptors.soap.rows`).
    """
    batch, m = described.batch, parts[-1].columns.stop
    energy = np.zeros((len(batch), m))
    for part in parts:
        add_runs(energy[:, part.columns], batch.structure[part.atoms], part.values)
    if not {"forces", "stress"} & set(kinds):
        return Rows(energy, None, None)
    forces = np.zeros((3 * batch.n_atoms, m)) if "forces" in kinds else None
    stress = np.zeros((6 * len(batch), m)) if "stress" in kinds else None
    if all(part.squares is not None for part in parts):
        _by_density(described, parts, forces, stress)
    else:
        _expand(described, parts, step, forces, stress)
    if stress is not None:
        stress /= np.repeat(batch.volumes, 6)[:, None]
    return Rows(energy, forces, stress)


def _by_density(
    described: DescribedBatch, parts: Sequence[SpeciesRows], forces: np.ndarray | None, virial: np.ndarray | None
) -> None:
    """Add derivatives to forces and virials, species together that see the same inducing environments."""
    environments: Any = described.environments
    alike: dict[int, list[SpeciesRows]] = {}
    for part in parts:
        if len(part.atoms):
            alike.setdefault(part.columns.start, []).append(part)
    for first, mine in alike.items():
        atoms, dots, slopes = (np.concatenate([getattr(one, k) for one in mine]) for k in ("atoms", "dots", "slopes"))
        wanted = Wanted(atoms, dots, slopes, described.norm, described.x)
        environments.add_products(mine[0].squares, wanted, forces, virial, first)


def _expand(
    described: DescribedBatch, parts: Sequence[SpeciesRows], step: int, forces: np.ndarray | None,
    virial: np.ndarray | None,
) -> None:  # fmt: skip
    """Add derivatives to forces and virials from those of the vectors."""
    batch = described.batch
    slopes = np.zeros((batch.n_atoms, max(part.values.shape[1] for part in parts)))
    for part in parts:
        slopes[part.atoms, : part.values.shape[1]] = part.slopes
    for start in range(0, batch.n_atoms, step):
        here = slice(start, min(batch.n_atoms, start + step))
        moved = described.environments.displacements(here.start, here.stop)
        species = described.species[here]
        if described.normalised:
            x, norm = described.x[here], described.norm[here]
            unit_jacobian(moved.rows, moved.centre, x, norm)
            unit_jacobian(moved.virial, np.arange(len(x)), x, norm)
        for a in np.unique(species):
            z, columns = parts[a].inducing, parts[a].columns
            mine = np.flatnonzero(species == a)
            ours = np.flatnonzero(species[moved.centre] == a)
            mine_slopes = slopes[here, : columns.stop - columns.start]
            if forces is not None:
                scatter(
                    _product(moved.rows, ours, z), moved.centre[ours], moved.target[ours],
                    mine_slopes, -1.0, forces.reshape(batch.n_atoms, 3, -1)[:, :, columns],
                )  # fmt: skip
            if virial is not None:
                scatter(
                    _product(moved.virial, mine, z), mine, batch.structure[here][mine],
                    mine_slopes, 1.0, virial.reshape(len(batch), 6, -1)[:, :, columns],
                )  # fmt: skip


def _product(rows: Float[np.ndarray, "rows c f"], chosen: np.ndarray, z: Float[np.ndarray, "m f"] | None) -> np.ndarray:
    """Multiply the chosen derivative rows with the inducing environments of their species."""
    part = rows if len(chosen) == len(rows) else rows[chosen]
    return part if z is None else (part.reshape(-1, part.shape[2]) @ z.T).reshape(len(chosen), rows.shape[1], len(z))


def add_runs(total: Float[np.ndarray, "n m"], index: np.ndarray, values: Float[np.ndarray, "a m"]) -> None:
    """Add values[a] to total[index[a]] for a sorted index, one run at a time."""
    if len(index):
        begins = np.flatnonzero(np.concatenate([[True], index[1:] != index[:-1]]))
        total[index[begins]] += np.add.reduceat(values, begins, axis=0)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"})
def scatter(product: Any, centre: Any, target: Any, slopes: Any, sign: Any, result: Any) -> Any:
    """Add sign · slopes[centre, m] · product[row, c, m] to result[target, c, m]."""
    for r in range(product.shape[0]):
        i, j = centre[r], target[r]
        for c in range(product.shape[1]):
            for m in range(product.shape[2]):
                result[j, c, m] += sign * slopes[i, m] * product[r, c, m]


def gather_pairs(
    batch: Batch, pairs: Float[np.ndarray, "pairs 3"]
) -> tuple[Float[np.ndarray, "atoms 3"], Float[np.ndarray, "structures 6"]]:
    """Add up dE/d(pair vector) to forces and stresses.

    Force on j: -∂E/∂r_j; stress: (1/V) ∂E/∂ε with symmetric strain, NaN where there is no volume.
    """
    forces = np.zeros((batch.n_atoms, 3))
    virial = np.zeros((len(batch), 6))
    _gather(pairs, batch.vectors, batch.first, batch.second, batch.structure, forces, virial)
    return forces, virial / batch.volumes[:, None]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"})
def _gather(pairs: Any, vectors: Any, first: Any, second: Any, structure: Any, forces: Any, virial: Any) -> Any:
    for p in range(len(first)):
        i, j = first[p], second[p]
        s = structure[i]
        for x in range(3):
            forces[i, x] += pairs[p, x]
            forces[j, x] -= pairs[p, x]
            virial[s, x] += vectors[p, x] * pairs[p, x]
        virial[s, 3] += 0.5 * (vectors[p, 1] * pairs[p, 2] + vectors[p, 2] * pairs[p, 1])
        virial[s, 4] += 0.5 * (vectors[p, 0] * pairs[p, 2] + vectors[p, 2] * pairs[p, 0])
        virial[s, 5] += 0.5 * (vectors[p, 0] * pairs[p, 1] + vectors[p, 1] * pairs[p, 0])
