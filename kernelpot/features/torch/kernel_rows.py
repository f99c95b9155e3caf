"""Rows and energies of kernel maps and of linear maps on a device of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.descriptors.grid import DeviceBatch
from kernelpot.features.gradients import EnergyForm
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.linear_map import LinearMap
from kernelpot.features.torch import dots as torch_dots
from kernelpot.features.torch.described import DeviceRows, EnvironmentEngine, EnvironmentState


@dataclass(frozen=True, eq=False)
class KernelEngine:
    """A `KernelMap` on a device; kernels and energies are float64 whatever the descriptor's precision.

    Attributes
    ----------
    features
        The map.
    environments
        Engine of its descriptor.
    """

    features: KernelMap
    environments: EnvironmentEngine

    @cached_property
    def inducing(self) -> list[Float[Tensor, "m f"]]:
        """Inducing environments of each species."""
        return [torch.as_tensor(z, device=self.environments.device) for z in self.features.inducing]

    @cached_property
    def whitening(self) -> list[Float[Tensor, "m d"]]:
        """Whitening of each species."""
        return [torch.as_tensor(w, device=self.environments.device) for w in self.features.whitening]

    @cached_property
    def slices(self) -> list[slice]:
        """Columns of each species."""
        starts = self.features.starts.tolist()
        return [slice(a, b) for a, b in pairwise(starts)]

    def describe(self, there: DeviceBatch) -> EnvironmentState:
        """Describe a batch."""
        return self.environments.describe(there)

    def values(self, state: EnvironmentState) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[Tensor, "a m"]]]:
        """Yield the atoms of each species, its columns, and their kernel values."""
        for a, columns in enumerate(self.slices):
            atoms, mine = self.environments.atoms_of(state.there, a)
            yield atoms, columns, torch_dots.value(self.features.kernel, state.x[mine] @ self.inducing[a].T)

    def local_prior(self, state: EnvironmentState) -> Float[Tensor, " atoms"]:
        """k(x, x) = 1 of unit vectors."""
        return torch.ones_like(state.norm)

    def add_rows(self, state: EnvironmentState, rows: DeviceRows) -> None:
        """Add this term's rows to its columns.

        ∂k(x_i, z)/∂r = k'(x_i·z) zᵀ(I - x_i x_iᵀ) ∂p_i/∂r /|p_i|: one matrix product of all derivatives with Z for a
        piece of atoms, then scaled, summed over neighbours and scattered. Reverse mode would take M passes instead.
        """
        there = state.there
        for atoms, columns, values in self.values(state):
            owner = there.structure[torch.as_tensor(atoms, device=there.device)]
            rows.energy[:, columns].index_add_(0, owner, values)
        if rows.forces is None:
            return
        widest = max(len(z) for z in self.features.inducing)
        for grid, change in self.environments.changes(state, widest, normalise=True):
            x = state.x[grid.start : grid.stop]
            for a, mine in there.atoms_of(grid.start, grid.stop):
                z, columns = self.inducing[a], self.slices[a]
                slope = self.slope(x[mine] @ z.T).to(change.dtype)
                product = torch.matmul(change[mine], z.to(change.dtype).T).mul_(slope[:, None, None])
                self.environments.scatter(grid, mine, product, there, rows.columns(columns.start, columns.stop))

    def slope(self, dots: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Return the kernel's derivative by the dot product."""
        return torch_dots.slope(self.features.kernel, dots)

    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool) -> KernelForm:
        """Return the energy with these weights of kernel values."""
        return self._placed(EnergyForm.from_weights(self.features, weights, collapse=collapse))

    def drawn_form(self, weights: Float[np.ndarray, " m"], rng: np.random.Generator, scale: float) -> KernelForm:
        """Return the energy with these weights, plus scale times a draw of what inducing environments cannot see."""
        return self._placed(self.features.drawn_form(weights, rng, scale))

    def _placed(self, form: EnergyForm) -> KernelForm:
        device = self.environments.device
        collapsed = tuple(None if part is None else torch.as_tensor(part, device=device) for part in form.collapsed)
        weights = tuple(torch.as_tensor(form.weights[columns], device=device) for columns in self.slices)
        return KernelForm(self, form.paths, collapsed, weights)


@dataclass(frozen=True, eq=False)
class KernelForm:
    """`EnergyForm` on a device.

    Attributes
    ----------
    engine
        Of the map.
    paths
        How each species is evaluated.
    collapsed, weights
        v, A or None of each species, and its weights α; float64.
    """

    engine: KernelEngine
    paths: tuple[str, ...]
    collapsed: tuple[Float[Tensor, "f k"] | None, ...]
    weights: tuple[Float[Tensor, " m"], ...]

    def local_and_pairs(self, state: EnvironmentState) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        return self.engine.environments.energies_and_pairs(state, self._species, normalise=True)

    def _species(self, a: int, x: Float[Tensor, "n f"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n f"]]:
        form, engine = self.collapsed[a], self.engine
        if form is None:
            z, alpha = engine.inducing[a], self.weights[a]
            dots = x @ z.T
            return torch_dots.value(engine.features.kernel, dots) @ alpha, (engine.slope(dots) * alpha) @ z
        if engine.features.kernel.form == 1:
            return x @ form[:, 0], form[:, 0].expand_as(x)
        half = x @ form
        return (half * x).sum(1), 2.0 * half


@dataclass(frozen=True, eq=False)
class LinearEngine:
    """A `LinearMap` on a device.

    Attributes
    ----------
    features
        The map.
    environments
        Engine of its descriptor.
    """

    features: LinearMap
    environments: EnvironmentEngine

    def describe(self, there: DeviceBatch) -> EnvironmentState:
        """Describe a batch."""
        return self.environments.describe(there)

    def _block(self, a: int) -> slice:
        return slice(a * self.features.n_features, (a + 1) * self.features.n_features)

    def values(self, state: EnvironmentState) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[Tensor, "a m"]]]:
        """Yield the atoms of each species, its columns, and their vectors."""
        for a in range(len(self.features.species)):
            atoms, mine = self.environments.atoms_of(state.there, a)
            x = state.x[mine]
            yield atoms, self._block(a), x if self.features.normalise else x * state.norm[mine, None]

    def local_prior(self, state: EnvironmentState) -> Float[Tensor, " atoms"]:
        """Squared length of every atom's features."""
        lengths = torch.as_tensor(self.features.lengths, device=state.norm.device)[state.there.elements]
        return ((1.0 if self.features.normalise else state.norm) / lengths).square()

    def add_rows(self, state: EnvironmentState, rows: DeviceRows) -> None:
        """Add this term's rows to its columns: vectors and their derivatives, summed."""
        there = state.there
        for atoms, columns, values in self.values(state):
            owner = there.structure[torch.as_tensor(atoms, device=there.device)]
            rows.energy[:, columns].index_add_(0, owner, values)
        if rows.forces is None:
            return
        for grid, change in self.environments.changes(state, 0, normalise=self.features.normalise):
            for a, mine in there.atoms_of(grid.start, grid.stop):
                here = self._block(a)
                self.environments.scatter(grid, mine, change[mine], there, rows.columns(here.start, here.stop))

    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool) -> LinearDeviceForm:  # noqa: ARG002
        """Return the energy with these weights."""
        blocks = weights.reshape(len(self.features.species), self.features.n_features)
        return LinearDeviceForm(self, torch.as_tensor(blocks, device=self.environments.device))

    def drawn_form(
        self,
        weights: Float[np.ndarray, " m"],
        rng: np.random.Generator,  # noqa: ARG002
        scale: float,  # noqa: ARG002
    ) -> LinearDeviceForm:
        """Return `form`: a linear map leaves nothing to be drawn."""
        return self.form(weights, collapse=True)


@dataclass(frozen=True, eq=False)
class LinearDeviceForm:
    """E_i = w_a·x_i, a the species of atom i.

    Attributes
    ----------
    engine
        Of the map.
    weights
        w of each species, float64.
    """

    engine: LinearEngine
    weights: Float[Tensor, "species f"]

    @property
    def paths(self) -> tuple[str, ...]:
        """One product for each species."""
        return ("linear",) * len(self.weights)

    def local_and_pairs(self, state: EnvironmentState) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        normalise = self.engine.features.normalise
        return self.engine.environments.energies_and_pairs(
            state, lambda a, x: (x @ self.weights[a], self.weights[a].expand_as(x)), normalise=normalise
        )
