"""Rows and energies of kernel maps and of linear maps on a device of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.descriptors.grid import DeviceBatch
from kernelpot.features.kernel_map import EnergyForm, KernelMap
from kernelpot.features.linear_map import LinearForm, LinearMap
from kernelpot.features.torch.described import DeviceRows, EnvironmentEngine, EnvironmentState


@dataclass(frozen=True, eq=False)
class KernelEngine:
    """A `KernelMap` on a device; kernels and energies are float64 whatever the descriptor's precision."""

    features: KernelMap
    environments: EnvironmentEngine  # of its descriptor

    @cached_property
    def inducing(self) -> tuple[Float[Tensor, "m f"], ...]:
        """Inducing environments of each species."""
        return tuple(torch.as_tensor(z, device=self.environments.device) for z in self.features.inducing)

    @cached_property
    def whitening(self) -> tuple[Float[Tensor, "m d"], ...]:
        """Whitening of each species."""
        return tuple(torch.as_tensor(w, device=self.environments.device) for w in self.features.whitening)

    def describe(self, there: DeviceBatch) -> EnvironmentState:
        """Describe a batch."""
        return self.environments.describe(there)

    def values(self, state: EnvironmentState) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[Tensor, "a m"]]]:
        """Yield the atoms of each species, its columns, and their kernel values."""
        for a, columns in enumerate(self.features.slices):
            atoms, mine = self.environments.atoms_of(state.there, a)
            yield atoms, columns, self.features.kernel.value(state.x[mine] @ self.inducing[a].T)

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
        widest = max(len(z) for z in self.features.inducing)
        for grid, change in self.environments.changes(state, widest, normalise=True):
            x = state.x[grid.start : grid.stop]
            for a, mine in there.atoms_of(grid.start, grid.stop):
                z = self.inducing[a]
                slope = self.features.kernel.slope(x[mine] @ z.T).to(change.dtype)
                product = torch.matmul(change[mine], z.to(change.dtype).T).mul_(slope[:, None, None])
                self.environments.scatter(grid, mine, product, there, rows.columns(self.features.slices[a]))

    def carried(self, rows: Float[Tensor, "rows m"]) -> Float[Tensor, " rows"]:
        """Return the squared features of rows: the part of the prior variance that inducing environments carry."""
        result = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for here, white in zip(self.features.slices, self.whitening, strict=True):
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
