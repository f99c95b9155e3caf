"""Pair energies as a Gaussian process of the distance, one for each pair of elements, at finite rank."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit

from kernelpot.data.batch import Batch
from kernelpot.descriptors.loops import FASTMATH, hermite_slopes, hermite_weights
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.features.feature_map import FiniteRank, Rows, Single
from kernelpot.record import Record


class PairList(NamedTuple):
    """What the loops read of a batch; `block` numbers the unordered pair of elements."""

    vectors: Float[np.ndarray, "pairs 3"]
    distance: Float[np.ndarray, " pairs"]
    block: Int[np.ndarray, " pairs"]
    first: Int[np.ndarray, " pairs"]
    second: Int[np.ndarray, " pairs"]


@dataclass(frozen=True, eq=False)
class TwoBodyDescribed:
    """A batch with the distance of every pair and the block of columns that it belongs to."""

    batch: Batch
    species: Int[np.ndarray, " atoms"]
    pairs: PairList


@dataclass(frozen=True, eq=False)
class TwoBodyMap(FiniteRank, Single, Record):
    """E = Σ_pairs e_ab(r), with e_ab = Σ_k w_k φ_k(r) and w ~ N(0, I); every atom owns half of its pairs.

    The prior of e_ab is f(r) f(r') exp(-(r - r')²/2ℓ²) seen from a grid of distances so dense that nothing is left out
    (see `TwoBody`): the finite rank is the prior itself, and there is no residual variance.
    """

    descriptor: TwoBody  # with its species set

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, sorted."""
        return self.descriptor.species or ()

    @property
    def cutoff(self) -> float:
        """Reach, Å."""
        return self.descriptor.cutoff

    @property
    def n_functions(self) -> int:
        """Functions of each pair of elements."""
        return self.descriptor.n_functions

    @property
    def n_columns(self) -> int:
        """Functions of all pairs of elements."""
        n = len(self.species)
        return self.n_functions * n * (n + 1) // 2

    @property
    def n_inducing(self) -> int:
        """Distances on a grid stand in for environments; none of these is counted."""
        return 0

    @property
    def n_weights(self) -> int:
        """The columns are features already."""
        return self.n_columns

    @cached_property
    def blocks(self) -> Int[np.ndarray, "species species"]:
        """Number of the block of every unordered pair of elements."""
        n = len(self.species)
        blocks = np.zeros((n, n), np.int64)
        blocks[np.triu_indices(n)] = np.arange(n * (n + 1) // 2)
        return np.maximum(blocks, blocks.T)

    def describe(self, batch: Batch) -> TwoBodyDescribed:
        """Find every pair's elements and distance."""
        species = self.descriptor.channels(batch.numbers)
        block = self.blocks[species[batch.first], species[batch.second]]
        distance = np.linalg.norm(batch.vectors, axis=1)
        return TwoBodyDescribed(batch, species, PairList(batch.vectors, distance, block, batch.first, batch.second))

    def thin(self, described: TwoBodyDescribed) -> bool:  # noqa: ARG002
        """Pairs are all there is."""
        return True

    def around(self, described: TwoBodyDescribed, atoms: Int[np.ndarray, " some"], *, thin: bool) -> TwoBodyDescribed:
        """Return the part of one structure that some atoms' forces and energies need, these atoms first."""
        return self.describe(described.batch.surroundings(atoms, thin=thin)[0])

    def rows(self, described: TwoBodyDescribed, kinds: Collection[str]) -> Rows:
        """Return the rows of a batch: half of every pair's functions, with their derivatives."""
        batch, table = described.batch, self.descriptor.table
        shape = (self.n_columns,)
        energy = np.zeros((len(batch), *shape))
        wanted = bool({"forces", "stress"} & set(kinds))
        forces = np.zeros((batch.n_atoms if wanted else 0, 3, *shape))
        virial = np.zeros((len(batch) if wanted else 0, 6, *shape))
        _rows(1.0 / table.step, table.nodes, self.cutoff, described.pairs, batch.structure, energy, forces, virial)
        if not wanted:
            return Rows(energy, None, None)
        stress = virial / batch.volumes[:, None, None]
        return Rows(
            energy,
            forces.reshape(-1, *shape) if "forces" in kinds else None,
            stress.reshape(-1, *shape) if "stress" in kinds else None,
        )

    def whiten(self, rows: Float[np.ndarray, "rows m"]) -> Float[np.ndarray, "rows d"]:
        """Return the rows: the columns are features already."""
        return rows

    def unwhiten(self, weights: Float[np.ndarray, "d ..."]) -> Float[np.ndarray, "m ..."]:
        """Return the weights: the columns are features already."""
        return weights

    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool = True) -> TwoBodyForm:  # noqa: ARG002
        """Return the pair energies with these weights: one function for each pair of elements."""
        nodes = self.descriptor.table.nodes
        tables = np.einsum("kcn,bn->bkc", nodes, weights.reshape(-1, self.n_functions))
        return TwoBodyForm(np.ascontiguousarray(tables), 1.0 / self.descriptor.table.step, self.cutoff)

    def local_values(
        self, described: TwoBodyDescribed
    ) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[np.ndarray, "a columns"]]]:
        """Yield all atoms with all functions."""
        batch, table = described.batch, self.descriptor.table
        values = np.zeros((batch.n_atoms, self.n_columns))
        none = np.zeros((0, 3, self.n_columns))
        atoms = np.arange(batch.n_atoms)
        _rows(1.0 / table.step, table.nodes, self.cutoff, described.pairs, atoms, values, none, none)
        yield atoms, slice(0, self.n_columns), values

    def local_prior(self, described: TwoBodyDescribed) -> Float[np.ndarray, " atoms"]:
        """Squared length of every atom's features."""
        ((_, _, values),) = self.local_values(described)
        return np.einsum("id,id->i", values, values)

    def weights_of(self, number: int) -> Bool[np.ndarray, " d"]:
        """Tell which features belong to pairs that hold an element."""
        a, b = np.triu_indices(len(self.species))
        z = np.asarray(self.species)
        return np.repeat((z[a] == number) | (z[b] == number), self.n_functions)

    def shares(self) -> str:
        """Say how many functions of the distance there are."""
        pairs = self.n_columns // self.n_functions
        return f"pairs {pairs} x {self.n_functions} functions of the distance"


@dataclass(frozen=True, eq=False)
class TwoBodyForm:
    """Pair energies as one table for each pair of elements."""

    tables: Float[np.ndarray, "blocks nodes 3"]  # e, h e', h² e'' at each node with step h, eV
    inverse_step: float  # Å⁻¹
    cutoff: float

    @property
    def paths(self) -> tuple[str, ...]:
        """One table."""
        return ("table",)

    def local_and_pairs(
        self, described: TwoBodyDescribed
    ) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's half of its pair energies, eV, and their derivative by each pair vector, eV/Å."""
        batch = described.batch
        local, pairs = np.zeros(batch.n_atoms), np.zeros((len(batch.first), 3))
        _form(self.inverse_step, self.tables, self.cutoff, described.pairs, local, pairs)
        return local, pairs


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _rows(
    inverse_step: Any, nodes: Any, cutoff: Any, pairs: Any, owner: Any, energy: Any, forces: Any, virial: Any
) -> Any:
    """Add ½ φ of every pair to energy[owner of its first atom], and its derivatives to forces and virial, if wanted."""
    vectors, distance, block, first, second = pairs
    size, wanted = nodes.shape[2], len(forces) > 0
    for p in range(len(first)):
        r = distance[p]
        if r >= cutoff:
            continue
        i, j = first[p], second[p]
        k = min(int(r * inverse_step), nodes.shape[0] - 2)
        t = r * inverse_step - k
        value, slope = hermite_weights(t), hermite_slopes(t)
        base = block[p] * size
        x, y, z = vectors[p, 0] / r, vectors[p, 1] / r, vectors[p, 2] / r
        for n in range(size):
            e, g = 0.0, 0.0
            for c in range(3):
                e += value[c] * nodes[k, c, n] + value[3 + c] * nodes[k + 1, c, n]
                g += slope[c] * nodes[k, c, n] + slope[3 + c] * nodes[k + 1, c, n]
            q = base + n
            energy[owner[i], q] += 0.5 * e
            if not wanted:
                continue
            g *= 0.5 * inverse_step
            for c, u in enumerate((x, y, z)):
                forces[i, c, q] += g * u
                forces[j, c, q] -= g * u
            s, gr = owner[i], g * r
            for c, uu in enumerate((x * x, y * y, z * z, y * z, x * z, x * y)):
                virial[s, c, q] += gr * uu


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _form(inverse_step: Any, tables: Any, cutoff: Any, pairs: Any, local: Any, along: Any) -> Any:
    vectors, distance, block, first, _ = pairs
    for p in range(len(first)):
        r = distance[p]
        if r >= cutoff:
            continue
        k = min(int(r * inverse_step), tables.shape[1] - 2)
        t = r * inverse_step - k
        value, slope = hermite_weights(t), hermite_slopes(t)
        a, b = tables[block[p], k], tables[block[p], k + 1]
        e, g = 0.0, 0.0
        for c in range(3):
            e += value[c] * a[c] + value[3 + c] * b[c]
            g += slope[c] * a[c] + slope[3 + c] * b[c]
        local[first[p]] += 0.5 * e
        for c in range(3):
            along[p, c] = 0.5 * inverse_step * g * vectors[p, c] / r
