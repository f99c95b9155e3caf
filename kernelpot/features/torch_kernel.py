"""Rows and energies of a kernel map on a device of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.descriptors.device_batch import DeviceBatch
from kernelpot.descriptors.neighbour_grid import NeighbourGrid
from kernelpot.descriptors.soap import SOAP
from kernelpot.descriptors.soap_engine import SoapEngine
from kernelpot.features.gradients import EnergyForm
from kernelpot.features.kernel_map import KernelMap
from kernelpot.linalg.devices import pieces, working_bytes
from kernelpot.threads import count

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True, eq=False)
class DeviceRows:
    """Rows over the raw columns of all terms, filled by each term in its own columns; derivatives only where wanted.

    Attributes
    ----------
    energy
        Σ_i k(x_i, Z).
    forces
        -∂/∂r of the total energy, the axis first.
    virial
        ∂/∂ε of the total energy, ASE's Voigt order.
    """

    energy: Float[Tensor, "structures m"]
    forces: Float[Tensor, "3 atoms m"] | None
    virial: Float[Tensor, "structures 6 m"] | None

    @classmethod
    def empty(cls, there: DeviceBatch, n_columns: int, *, derivatives: bool, stress: bool) -> DeviceRows:
        """Make room."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=there.device)

        n = len(there.batch)
        return cls(
            zeros(n, n_columns),
            zeros(3, there.batch.n_atoms, n_columns) if derivatives else None,
            zeros(n, 6, n_columns) if derivatives and stress else None,
        )

    def columns(self, start: int, stop: int) -> DeviceRows:
        """Return a view of some columns."""
        parts = (part if part is None else part[..., start:stop] for part in (self.energy, self.forces, self.virial))
        return DeviceRows(*parts)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class KernelState:
    """Environments of a batch on a device.

    Attributes
    ----------
    there
        The batch.
    x, norm
        Unit vectors with the lengths that were taken out, float64.
    c
        Density coefficients.
    grid
        Neighbours of all atoms, where one piece holds them all.
    """

    there: DeviceBatch
    x: Float[Tensor, "atoms f"]
    norm: Float[Tensor, " atoms"]
    c: Float[Tensor, "atoms lm k"]
    grid: NeighbourGrid | None


@dataclass(frozen=True, eq=False)
class KernelEngine:
    """A `KernelMap` on a device.

    Expansion, spectrum and their derivatives run in `dtype`; unit vectors, kernels, energies and all sums over atoms
    in float64.

    Attributes
    ----------
    features
        The map.
    soap
        Engine of its descriptor.
    """

    features: KernelMap
    soap: SoapEngine

    @classmethod
    def make(cls, features: KernelMap, device: str, dtype: torch.dtype) -> KernelEngine:
        """Put a map on a device."""
        return cls(features, SoapEngine(cast(SOAP, features.descriptor), device, dtype))

    @property
    def _device(self) -> str:
        return self.soap.device

    @cached_property
    def _inducing(self) -> list[Float[Tensor, "m f"]]:
        return [torch.as_tensor(z, device=self._device) for z in self.features.inducing]

    @cached_property
    def _inducing_rough(self) -> list[Float[Tensor, "m f"]]:
        return [z.to(self.soap.dtype) for z in self._inducing]

    def _slices(self) -> list[slice]:
        starts = self.features.starts
        return [slice(int(starts[a]), int(starts[a + 1])) for a in range(len(starts) - 1)]

    def describe(self, there: DeviceBatch) -> KernelState:
        """Describe a batch in pieces that fit the device."""
        self.soap.soap.check_reach(there.batch)
        cuts = list(self._pieces(there))
        parts, grid = [], None
        for start, stop in cuts:
            grid = self.soap.grid(there, start, stop)
            c = self.soap.coefficients(grid, there.elements[start:stop])
            p = self.soap.spectrum(c).to(torch.float64)
            norm = torch.linalg.vector_norm(p, dim=1)
            parts.append((p / norm[:, None], norm, c))
        x, norm, c = (part[0] if len(cuts) == 1 else torch.cat(part) for part in zip(*parts, strict=True))
        return KernelState(there, x, norm, c, grid if len(cuts) == 1 else None)

    def _pieces(self, there: DeviceBatch) -> Iterator[tuple[int, int]]:
        budget = working_bytes(self._device, count())
        return pieces(there.batch.n_atoms, self.soap.value_bytes(there), budget)

    def _grid(self, state: KernelState, start: int, stop: int) -> NeighbourGrid:
        if state.grid is not None and (start, stop) == (state.grid.start, state.grid.stop):
            return state.grid
        return self.soap.grid(state.there, start, stop)

    def values(self, state: KernelState) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[Tensor, "a m"]]]:
        """Yield the atoms of each species, its columns, and their kernel values."""
        for a, columns in enumerate(self._slices()):
            atoms = np.flatnonzero(state.there.species == a)
            x = state.x if len(atoms) == len(state.x) else state.x[torch.as_tensor(atoms, device=self._device)]
            yield atoms, columns, (x @ self._inducing[a].T) ** self.features.kernel.zeta

    def add_rows(self, state: KernelState, rows: DeviceRows) -> None:
        """Add this term's rows to its columns.

        ∂k(x_i, z)/∂r = k'(x_i·z) zᵀ(I - x_i x_iᵀ) ∂p_i/∂r /|p_i|: one matrix product of all derivatives with Z for a
        piece of atoms, then scaled, summed over neighbours and scattered. Reverse mode would take M passes instead.
        """
        there = state.there
        for atoms, columns, values in self.values(state):
            rows.energy[:, columns].index_add_(0, there.structure[torch.as_tensor(atoms, device=self._device)], values)
        if rows.forces is None:
            return
        widest = max(len(z) for z in self.features.inducing)
        budget = working_bytes(self._device, count())
        for start, stop in pieces(there.batch.n_atoms, self.soap.jacobian_bytes(there, widest), budget):
            grid = self._grid(state, start, stop)
            x, norm = state.x[start:stop], state.norm[start:stop]
            change = self.soap.jacobian(grid, state.c[start:stop])
            rough = x.to(change.dtype)
            along = torch.matmul(change, rough[:, None, :, None])
            change.addcmul_(along, rough[:, None, None, :], value=-1.0)
            for a, mine in there.atoms_of(start, stop):
                factor = self._slope(x[mine] @ self._inducing[a].T) / norm[mine, None]
                part = change if isinstance(mine, slice) else change[mine]
                product = torch.matmul(part, self._inducing_rough[a].T).mul_(factor.to(part.dtype)[:, None, None])
                self._scatter(grid, mine, product.to(torch.float64), self._slices()[a], there, rows)

    def _scatter(
        self,
        grid: NeighbourGrid,
        mine: Tensor | slice,
        product: Float[Tensor, "n 3 slots m"],
        columns: slice,
        there: DeviceBatch,
        rows: DeviceRows,
    ) -> None:
        """Add ∂k/∂r of some centres' slots to the forces on both ends and to the virial of their structures."""
        if rows.forces is None:
            return
        centres = torch.arange(grid.start, grid.stop, device=self._device)[mine]
        target = grid.target.view(grid.n_atoms, grid.slots)[mine].flatten()
        own = product.sum(2)
        for c in range(3):
            rows.forces[c, :, columns].index_add_(0, target, product[:, c].flatten(0, 1), alpha=-1.0)
            rows.forces[c, :, columns].index_add_(0, centres, own[:, c])
        if rows.virial is None:
            return
        r = (grid.u * grid.r).view(3, grid.n_atoms, grid.slots).transpose(0, 1)[mine]
        outer = torch.matmul(r[:, None], product)
        structure = there.structure[centres]
        for v, (a, b) in enumerate(VOIGT):
            part = outer[:, a, b] if a == b else 0.5 * (outer[:, a, b] + outer[:, b, a])
            rows.virial[:, v, columns].index_add_(0, structure, part)

    def _slope(self, dots: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        zeta = self.features.kernel.zeta
        return torch.ones_like(dots) if zeta == 1 else zeta * dots ** (zeta - 1)

    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool) -> KernelForm:
        """Return the energy with these weights of kernel values."""
        return KernelForm.make(self, EnergyForm.from_weights(self.features, weights, collapse=collapse))


@dataclass(frozen=True, eq=False)
class KernelForm:
    """`EnergyForm` on a device.

    Attributes
    ----------
    engine
        Of the map.
    form
        The form on the host, which says what path is taken.
    collapsed, weights
        v, A or None of each species, and its weights α; float64.
    """

    engine: KernelEngine
    form: EnergyForm
    collapsed: tuple[Float[Tensor, "f k"] | None, ...]
    weights: tuple[Float[Tensor, " m"], ...]

    @classmethod
    def make(cls, engine: KernelEngine, form: EnergyForm) -> KernelForm:
        """Put a form on the engine's device."""
        device = engine.soap.device
        collapsed = tuple(None if part is None else torch.as_tensor(part, device=device) for part in form.collapsed)
        weights = tuple(torch.as_tensor(form.weights[columns], device=device) for columns in engine._slices())
        return cls(engine, form, collapsed, weights)

    def local_and_pairs(self, state: KernelState) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        engine, there = self.engine, state.there
        local = torch.zeros(there.batch.n_atoms, dtype=torch.float64, device=there.device)
        pairs = torch.zeros((len(there.batch.first), 3), dtype=torch.float64, device=there.device)
        for start, stop in engine._pieces(there):
            x, norm, c = state.x[start:stop], state.norm[start:stop], state.c[start:stop]
            gradient = torch.empty_like(x)
            for a, mine in there.atoms_of(start, stop):
                energy, slope = self._species(a, x[mine])
                local[start:stop][mine] = energy
                gradient[mine] = slope
            along = (gradient * x).sum(1, keepdim=True)
            raw = (gradient - along * x) / norm[:, None]
            grid = engine._grid(state, start, stop)
            part = engine.soap.vjp(grid, engine.soap.spectrum_vjp(c, raw.to(c.dtype)))
            pairs[grid.pair] = part.to(torch.float64)
        return local, pairs

    def _species(self, a: int, x: Float[Tensor, "n f"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n f"]]:
        form, engine = self.collapsed[a], self.engine
        zeta = engine.features.kernel.zeta
        if form is None:
            z, alpha = engine._inducing[a], self.weights[a]
            dots = x @ z.T
            return dots**zeta @ alpha, (engine._slope(dots) * alpha) @ z
        if zeta == 1:
            return x @ form[:, 0], form[:, 0].expand_as(x)
        half = x @ form
        return (half * x).sum(1), 2.0 * half
