"""Rows and energies of pair terms on a device of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.descriptors.grid import DeviceBatch, DeviceTable
from kernelpot.descriptors.radial import hermite, hermite_slope
from kernelpot.features.torch.described import VOIGT, DeviceRows
from kernelpot.features.two_body_map import TwoBodyForm, TwoBodyMap
from kernelpot.linalg.devices import pieces, working_bytes
from kernelpot.run import count


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
