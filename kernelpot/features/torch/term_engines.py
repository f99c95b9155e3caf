"""Rows and energies of every sort of term on a device of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.descriptors.grid import DeviceBatch, DeviceTable
from kernelpot.descriptors.radial import hermite, hermite_slope
from kernelpot.features.kernel_map import EnergyForm, KernelMap
from kernelpot.features.linear_map import LinearForm, LinearMap
from kernelpot.features.torch.described import VOIGT, DeviceRows, EnvironmentEngine, EnvironmentState
from kernelpot.features.two_body_map import TwoBodyForm, TwoBodyMap
from kernelpot.linalg.devices import pieces, working_bytes
from kernelpot.run import count


@dataclass(frozen=True, eq=False)
class KernelEngine:
    """A `KernelMap` on a device; kernels and energies are float64 whatever the descriptor's precision."""

    features: KernelMap
    environments: EnvironmentEngine  # of its descriptor

    @cached_property
    def inducing(self) -> tuple[Float[Tensor, "m f"], ...]:
        """Inducing environments that those of each species are compared with."""
        seen = [partners.inducing for partners in self.features.partners]
        there = [torch.as_tensor(z, device=self.environments.device) for z in seen[: 1 if self.kappa else None]]
        return tuple(there * (len(seen) // len(there)))

    @cached_property
    def kappa(self) -> tuple[Float[Tensor, " m"], ...]:
        """Coupling of each species with the inducing environments; nothing where there is none."""
        weights = [partners.kappa for partners in self.features.partners]
        return tuple(torch.as_tensor(one, device=self.environments.device) for one in weights if one is not None)

    @cached_property
    def whitening(self) -> tuple[Float[Tensor, "m d"], ...]:
        """Whitening of each block."""
        return tuple(torch.as_tensor(w, device=self.environments.device) for _, w in self.features.blocks)

    def describe(self, there: DeviceBatch) -> EnvironmentState:
        """Describe a batch."""
        return self.environments.describe(there)

    def values(self, state: EnvironmentState) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[Tensor, "a m"]]]:
        """Yield the atoms of each species, its columns, and their kernel values."""
        for a, partners in enumerate(self.features.partners):
            atoms, mine = self.environments.atoms_of(state.there, a)
            values = self.features.kernel.value(state.x[mine] @ self.inducing[a].T)
            yield atoms, partners.columns, values * self.kappa[a] if self.kappa else values

    def local_prior(self, state: EnvironmentState) -> Float[Tensor, " atoms"]:
        """k(x, x) = 1 of unit vectors."""
        return torch.ones_like(state.norm)

    def add_rows(self, state: EnvironmentState, rows: DeviceRows) -> None:
        """Add this term's rows to its columns.

        ∂k(x_i, z)/∂r = k'(x_i·z) zᵀ(I - x_i x_iᵀ) ∂p_i/∂r /|p_i|: one matrix product of all derivatives with Z for a
        piece of atoms, then scaled, summed over neighbours and scattered. Reverse mode would take M passes instead.
        """
        there = state.there
        rows.add_values(there, self.values(state))
        if rows.forces is None:
            return
        widest = max(len(z) for z in self.inducing)
        for grid, change in self.environments.changes(state, widest, normalise=True):
            x = state.x[grid.start : grid.stop]
            for a, mine in there.atoms_of(grid.start, grid.stop):
                z = self.inducing[a]
                slope = self.features.kernel.slope(x[mine] @ z.T)
                slope = (slope * self.kappa[a] if self.kappa else slope).to(change.dtype)
                product = torch.matmul(change[mine], z.to(change.dtype).T).mul_(slope[:, None, None])
                self.environments.scatter(grid, mine, product, there, rows.columns(self.features.partners[a].columns))

    def carried(self, rows: Float[Tensor, "rows m"]) -> Float[Tensor, " rows"]:
        """Return the squared features of rows: the part of the prior variance that inducing environments carry."""
        result = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for (here, _), white in zip(self.features.blocks, self.whitening, strict=True):
            result += (rows[:, here] @ white).square().sum(1)
        return result

    def placed(self, form: EnergyForm) -> DeviceForm:
        """Put an energy on the device."""
        device = self.environments.device
        weights = tuple(torch.as_tensor(alpha, device=device) for alpha in form.weights)
        collapsed = tuple(None if part is None else torch.as_tensor(part, device=device) for part in form.collapsed)
        there = replace(form, inducing=self.inducing, weights=weights, collapsed=collapsed)
        return DeviceForm(self.environments, there, normalise=True)


@dataclass(frozen=True, eq=False)
class LinearEngine:
    """A `LinearMap` on a device."""

    features: LinearMap
    environments: EnvironmentEngine  # of its descriptor

    def describe(self, there: DeviceBatch) -> EnvironmentState:
        """Describe a batch."""
        return self.environments.describe(there)

    def values(self, state: EnvironmentState) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[Tensor, "a m"]]]:
        """Yield the atoms of each species, its columns, and their vectors."""
        for a in range(len(self.features.species)):
            atoms, mine = self.environments.atoms_of(state.there, a)
            x = state.x[mine]
            yield atoms, self.features.block(a), x if self.features.normalise else x * state.norm[mine, None]

    def local_prior(self, state: EnvironmentState) -> Float[Tensor, " atoms"]:
        """Squared length of every atom's features."""
        lengths = torch.as_tensor(self.features.lengths, device=state.norm.device)[state.there.elements]
        return ((1.0 if self.features.normalise else state.norm) / lengths).square()

    def add_rows(self, state: EnvironmentState, rows: DeviceRows) -> None:
        """Add this term's rows to its columns: vectors and their derivatives, summed."""
        there = state.there
        rows.add_values(there, self.values(state))
        if rows.forces is None:
            return
        for grid, change in self.environments.changes(state, 0, normalise=self.features.normalise):
            for a, mine in there.atoms_of(grid.start, grid.stop):
                self.environments.scatter(grid, mine, change[mine], there, rows.columns(self.features.block(a)))

    def placed(self, form: LinearForm) -> DeviceForm:
        """Put an energy on the device."""
        there = LinearForm(torch.as_tensor(form.weights, device=self.environments.device))
        return DeviceForm(self.environments, there, normalise=self.features.normalise)


@dataclass(frozen=True, eq=False)
class DeviceForm:
    """An energy that is a function of environments, in float64 tensors."""

    environments: EnvironmentEngine
    form: EnergyForm | LinearForm
    normalise: bool

    def local_and_pairs(self, state: EnvironmentState) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        return self.environments.energies_and_pairs(state, self.form.of_species, normalise=self.normalise)


@dataclass(frozen=True, eq=False)
class PairState:
    """Pairs of a batch within the cutoff, with the block of columns that each belongs to."""

    there: DeviceBatch
    pair: Int[Tensor, " inside"]  # numbers of the pairs
    block: Int[Tensor, " inside"]  # of the unordered pair of elements


@dataclass(frozen=True, eq=False)
class PairEngine:
    """A `TwoBodyMap` on a device, in float64: it costs next to nothing."""

    features: TwoBodyMap
    device: str  # PyTorch's name of the device

    @cached_property
    def _table(self) -> DeviceTable:
        table = self.features.descriptor.table
        return DeviceTable.make(table.nodes, table.step, self.device, torch.float64)

    @cached_property
    def _blocks(self) -> Int[Tensor, "species species"]:
        return torch.as_tensor(self.features.blocks, device=self.device)

    def describe(self, there: DeviceBatch) -> PairState:
        """Find the pairs within the cutoff."""
        pair = torch.nonzero(there.distances < self.features.cutoff).squeeze(1)
        elements = there.elements
        return PairState(there, pair, self._blocks[elements[there.first[pair]], elements[there.second[pair]]])

    def _parts(self, state: PairState, columns: int) -> Iterator[tuple[int, Int[Tensor, " some"]]]:
        """Yield each block with its pairs, in pieces that fit the device."""
        budget = working_bytes(self.device, count())
        for block in range(self.features.n_columns // self.features.n_functions):
            mine = state.pair[state.block == block]
            for start, stop in pieces(len(mine), 8.0 * columns, budget):
                yield block, mine[start:stop]

    def values(self, state: PairState) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[Tensor, "a m"]]]:
        """Yield all atoms with all functions."""
        there, n = state.there, self.features.n_functions
        result = torch.zeros((there.batch.n_atoms, self.features.n_columns), dtype=torch.float64, device=self.device)
        for block, pair in self._parts(state, 8 + 2 * n):
            places, t = self._table.places(there.distances[pair])
            half = self._table.read(places, 0.5 * torch.stack(hermite(t), 1))
            result[:, block * n : (block + 1) * n].index_add_(0, there.first[pair], half)
        yield np.arange(there.batch.n_atoms), slice(0, self.features.n_columns), result

    def local_prior(self, state: PairState) -> Float[Tensor, " atoms"]:
        """Squared length of every atom's features."""
        ((_, _, local),) = self.values(state)
        return local.square().sum(1)

    def add_rows(self, state: PairState, rows: DeviceRows) -> None:
        """Add this term's rows to its columns: half of every pair's functions, with their derivatives."""
        there, n = state.there, self.features.n_functions
        ((_, _, local),) = self.values(state)
        rows.energy.index_add_(0, there.structure, local)
        if rows.forces is None:
            return
        for block, pair in self._parts(state, 20 + 6 * n):
            here = slice(block * n, (block + 1) * n)
            first, second, r = there.first[pair], there.second[pair], there.distances[pair]
            places, t = self._table.places(r)
            slope = self._table.read(places, 0.5 / self._table.step * torch.stack(hermite_slope(t), 1))
            vectors = there.vectors[pair]
            u = vectors / r[:, None]
            for c in range(3):
                along = slope * u[:, c, None]
                rows.forces[c, :, here].index_add_(0, first, along)
                rows.forces[c, :, here].index_add_(0, second, along, alpha=-1.0)
            if rows.virial is None:
                continue
            for v, (a, b) in enumerate(VOIGT):
                # By atoms first: many pairs adding to one structure wait for each other.
                by_atom = torch.zeros_like(rows.forces[0, :, here])
                by_atom.index_add_(0, first, slope * (u[:, a] * vectors[:, b])[:, None])
                rows.virial[:, v, here].index_add_(0, there.structure, by_atom)

    def placed(self, form: TwoBodyForm) -> PairForm:
        """Put pair energies on the device."""
        tables = torch.as_tensor(form.tables, device=self.device)
        return PairForm(self, tables.reshape(len(tables), -1))


@dataclass(frozen=True, eq=False)
class PairForm:
    """`TwoBodyForm` on a device."""

    engine: PairEngine
    # e, h e', h² e'' of each node, one after another, for each pair of elements; eV
    tables: Float[Tensor, "blocks nodes_times_3"]

    def local_and_pairs(self, state: PairState) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "pairs 3"]]:
        """Return every atom's half of its pair energies, eV, with the derivative by each pair vector, eV/Å."""
        there, table = state.there, self.engine._table
        local = torch.zeros(there.batch.n_atoms, dtype=torch.float64, device=there.device)
        pairs = torch.zeros((len(there.batch.first), 3), dtype=torch.float64, device=there.device)
        r = there.distances[state.pair]
        places, t = table.places(r)
        read = self.tables[state.block[:, None], places]
        local.index_add_(0, there.first[state.pair], 0.5 * (torch.stack(hermite(t), 1) * read).sum(1))
        slope = 0.5 / table.step * (torch.stack(hermite_slope(t), 1) * read).sum(1)
        pairs[state.pair] = (slope / r)[:, None] * there.vectors[state.pair]
        return local, pairs
