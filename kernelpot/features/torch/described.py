"""Environments on a device of PyTorch, their derivatives in pieces that fit it, and where these add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.descriptors.grid import DescriptorEngine, DeviceBatch, NeighbourGrid
from kernelpot.features.prior import Coupling, energy_sums, virial_sums
from kernelpot.kernels import DotKernel
from kernelpot.linalg.devices import pieces, working_bytes
from kernelpot.run import count

CENTRES = 1024
"""Rows of a block of kernel values at a time."""

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True, eq=False)
class DeviceRows:
    """Rows over the raw columns of all terms, filled by each term in its own columns; derivatives only where wanted."""

    energy: Float[Tensor, "structures m"]  # Σ_i of the columns' local values
    forces: Float[Tensor, "3 atoms m"] | None  # -∂/∂r of the total energy, the axis first
    virial: Float[Tensor, "structures 6 m"] | None  # ∂/∂ε of the total energy, ASE's Voigt order

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

    def add_values(
        self, there: DeviceBatch, found: Iterator[tuple[Int[np.ndarray, " a"], slice, Float[Tensor, "a m"]]]
    ) -> None:
        """Add local values of atoms to the energies of their structures."""
        for atoms, columns, values in found:
            owner = there.structure[torch.as_tensor(atoms, device=there.device)]
            self.energy[:, columns].index_add_(0, owner, values)

    def columns(self, here: slice) -> DeviceRows:
        """Return a view of some columns."""
        forces = None if self.forces is None else self.forces[..., here]
        virial = None if self.virial is None else self.virial[..., here]
        return DeviceRows(self.energy[:, here], forces, virial)


@dataclass(frozen=True, eq=False)
class EnvironmentState:
    """Environments of a batch on a device."""

    there: DeviceBatch
    x: Float[Tensor, "atoms f"]  # unit vectors, float64
    norm: Float[Tensor, " atoms"]  # lengths that were taken out, float64
    c: Float[Tensor, "atoms ..."]  # what the descriptor's engine keeps of each atom: density coefficients of SOAP
    grid: NeighbourGrid | None  # neighbours of all atoms, where one piece holds them all


@dataclass(frozen=True, eq=False)
class EnvironmentEngine:
    """What terms of one descriptor share on a device: environments, the chain rule from these to forces and virials."""

    # of the descriptor, in its own precision; unit vectors and all sums over atoms are float64
    engine: DescriptorEngine

    @property
    def device(self) -> str:
        """PyTorch's name of the device."""
        return self.engine.device

    def describe(self, there: DeviceBatch) -> EnvironmentState:
        """Describe a batch in pieces that fit the device."""
        self.engine.check_reach(there.batch)
        cuts = list(self._pieces(there))
        parts, grid = [], None
        for start, stop in cuts:
            grid = self.engine.grid(there, start, stop)
            p, c = self.engine.describe(grid, there.elements[start:stop])
            p = p.to(torch.float64)
            norm = torch.linalg.vector_norm(p, dim=1)
            parts.append((p / norm[:, None], norm, c))
        x, norm, c = (part[0] if len(cuts) == 1 else torch.cat(part) for part in zip(*parts, strict=True))
        return EnvironmentState(there, x, norm, c, grid if len(cuts) == 1 else None)

    def _pieces(self, there: DeviceBatch) -> Iterator[tuple[int, int]]:
        return pieces(there.batch.n_atoms, self.engine.value_bytes(there), working_bytes(self.device, count()))

    def _grid(self, state: EnvironmentState, start: int, stop: int) -> NeighbourGrid:
        if state.grid is not None and (start, stop) == (state.grid.start, state.grid.stop):
            return state.grid
        return self.engine.grid(state.there, start, stop)

    def atoms_of(self, there: DeviceBatch, a: int) -> tuple[np.ndarray, Tensor | slice]:
        """Return the atoms of a species, on the host and as an index on the device."""
        atoms = np.flatnonzero(there.species == a)
        if len(atoms) == len(there.species):
            return atoms, slice(0, len(atoms))
        return atoms, torch.as_tensor(atoms, device=self.device)

    def changes(
        self, state: EnvironmentState, columns: int, *, normalise: bool
    ) -> Iterator[tuple[NeighbourGrid, Float[Tensor, "n 3 slots f"]]]:
        """Yield ∂x/∂r of every slot (bare where not normalised), with room for products with that many columns."""
        there = state.there
        budget = working_bytes(self.device, count())
        for start, stop in pieces(there.batch.n_atoms, self.engine.jacobian_bytes(there, columns), budget):
            grid, c = self._grid(state, start, stop), state.c[start:stop]
            if not normalise:
                yield grid, self.engine.changes(grid, c, None)
                continue
            change = self.engine.changes(grid, c, state.norm[start:stop])
            x = state.x[start:stop].to(change.dtype)
            along = torch.matmul(change.flatten(1, 2), x[:, :, None]).view(*change.shape[:3], 1)
            yield grid, change.addcmul_(along, x[:, None, None, :], value=-1.0)

    def scatter(
        self,
        grid: NeighbourGrid,
        mine: Tensor | slice,
        product: Float[Tensor, "n 3 slots m"],
        there: DeviceBatch,
        rows: DeviceRows,
    ) -> None:
        """Add derivatives by the slots of some centres to the forces on both ends and to the virial of structures."""
        if rows.forces is None:
            return
        product = product.to(torch.float64)
        centres = torch.arange(grid.start, grid.stop, device=self.device)[mine]
        n_atoms, m = rows.forces.shape[1:]
        forces = rows.forces.view(3 * n_atoms, m)
        axis = n_atoms * torch.arange(3, device=self.device)
        target = grid.target.view(grid.n_atoms, 1, grid.slots)[mine] + axis[:, None]
        forces.index_add_(0, target.flatten(), product.flatten(0, 2), alpha=-1.0)
        forces.index_add_(0, (centres[:, None] + axis).flatten(), product.sum(2).flatten(0, 1))
        if rows.virial is None:
            return
        r = (grid.u * grid.r).view(3, grid.n_atoms, grid.slots).transpose(0, 1)[mine]
        outer = torch.matmul(r[:, None], product)
        structure = there.structure[centres]
        for v, (a, b) in enumerate(VOIGT):
            part = outer[:, a, b] if a == b else 0.5 * (outer[:, a, b] + outer[:, b, a])
            rows.virial[:, v].index_add_(0, structure, part)

    def energies_and_pairs(
        self,
        state: EnvironmentState,
        local: Callable[[int, Float[Tensor, "n f"]], tuple[Float[Tensor, " n"], Float[Tensor, "n f"]]],
        *,
        normalise: bool,
    ) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "pairs 3"]]:
        """Return every atom's energy with the derivative of their sum by each pair vector."""
        there = state.there
        energy = torch.zeros(there.batch.n_atoms, dtype=torch.float64, device=there.device)
        pairs = torch.zeros((len(there.batch.first), 3), dtype=torch.float64, device=there.device)
        for start, stop in self._pieces(there):
            x, norm, c = state.x[start:stop], state.norm[start:stop, None], state.c[start:stop]
            vectors = x if normalise else x * norm
            gradient = torch.empty_like(x)
            for a, mine in there.atoms_of(start, stop):
                energy[start:stop][mine], gradient[mine] = local(a, vectors[mine])
            if normalise:
                gradient = (gradient - (gradient * x).sum(1, keepdim=True) * x) / norm
            grid = self._grid(state, start, stop)
            pairs[grid.pair] = self.engine.pull(grid, c, gradient.to(c.dtype)).to(torch.float64)
        return energy, pairs

    # ---- prior variances under the full kernel

    def energy_prior(
        self, state: EnvironmentState, kernel: DotKernel, coupling: Coupling = None
    ) -> Float[Tensor, " structures"]:
        """Return 1ᵀK1 of each structure."""
        result: Tensor = energy_sums(kernel, state.x, state.there.batch, state.there.species, CENTRES, coupling)
        return result

    def forces_prior(
        self, state: EnvironmentState, kernel: DotKernel, coupling: Coupling = None
    ) -> Float[Tensor, "3 atoms"]:
        """Return the prior variance of every force component.

        Σ_ij k'' (J_i·x_j)(J_j·x_i) + k' J_i·J_j over the centres i, j that the atom moves, J_i = ∂x_i/∂r: its
        neighbours, whose derivatives are made from the atom's own list looked at backwards, and itself.
        """
        there = state.there
        result = torch.zeros((3, there.batch.n_atoms), dtype=torch.float64, device=self.device)
        identity = np.eye(int(there.species.max(initial=0)) + 1)
        kappa = torch.as_tensor(identity if coupling is None else coupling, device=self.device)
        slots = there.most_neighbours * min(2, self.engine.n_elements) + 1
        each = 6 * slots + 2 * state.x.shape[1] + 2 * state.c[0].numel()
        per_atom = 3 * self.engine.jacobian_bytes(there, 0) + 8.0 * slots * each
        for start, stop in pieces(there.batch.n_atoms, per_atom, working_bytes(self.device, count())):
            grid = self.engine.grid(there, start, stop)
            neighbours = grid.target.view(grid.n_atoms, grid.slots)
            own = torch.arange(start, stop, device=self.device)[:, None]
            centres = torch.cat([neighbours, own], dim=1)
            x = state.x[centres]
            moved = self.engine.backwards(grid, there, state.c)
            itself = self.engine.changes(grid, state.c[start:stop], None).sum(2, keepdim=True).neg_()
            j = torch.cat([moved, itself], dim=2).to(torch.float64)
            j -= (j * x[:, None]).sum(-1, keepdim=True) * x[:, None]
            j /= state.norm[centres][:, None, :, None]
            kind = there.elements[centres]
            same = kappa[kind[:, :, None], kind[:, None, :]]
            dots = torch.matmul(x, x.transpose(1, 2))
            slope, curvature = kernel.slope(dots) * same, kernel.curvature(dots) * same
            for c in range(3):
                jc = j[:, c]
                total = slope * torch.matmul(jc, jc.transpose(1, 2))
                if kernel.form != 1:
                    along = torch.matmul(jc, x.transpose(1, 2))
                    total += curvature * along * along.transpose(1, 2)
                result[c, start:stop] = total.sum((1, 2))
        return result

    def stress_prior(
        self, state: EnvironmentState, kernel: DotKernel, coupling: Coupling = None
    ) -> Float[Tensor, "structures 6"]:
        """Return the prior variance of every component of ∂E/∂ε; over the squared volume, of the stress."""
        there = state.there
        n_atoms, size = state.x.shape
        virial = torch.empty((n_atoms, 6, size), dtype=torch.float64, device=self.device)
        for grid, change in self.changes(state, size, normalise=True):
            r = (grid.u * grid.r).view(3, grid.n_atoms, grid.slots).transpose(0, 1).to(change.dtype)
            outer = torch.matmul(r[:, None], change).to(torch.float64)
            for v, (a, b) in enumerate(VOIGT):
                virial[grid.start : grid.stop, v] = 0.5 * (outer[:, a, b] + outer[:, b, a])
        result: Tensor = virial_sums(kernel, state.x, virial, there.batch, there.species, CENTRES, coupling)
        return result
