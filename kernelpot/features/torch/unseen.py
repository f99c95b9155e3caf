"""Prior variances of labels under the full kernel, as in `kernelpot.features.residual`, on a device of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kernelpot.features.torch import dots as dots_of
from kernelpot.features.torch.described import VOIGT, EnvironmentEngine, EnvironmentState
from kernelpot.kernels import Kernel
from kernelpot.linalg.devices import pieces, working_bytes
from kernelpot.run import count

CENTRES = 1024


def energy_prior(engine: EnvironmentEngine, state: EnvironmentState, kernel: Kernel) -> Float[Tensor, " structures"]:
    """Return 1ᵀK1 of each structure."""
    result = torch.zeros(len(state.there.batch), dtype=torch.float64, device=engine.device)
    for s, atoms in _by_structure_and_species(engine, state):
        x = state.x[atoms]
        if kernel.form == 2 and x.shape[1] < len(x):
            result[s] += (x.T @ x).square().sum()
            continue
        for start in range(0, len(x), CENTRES):
            result[s] += dots_of.value(kernel, x[start : start + CENTRES] @ x.T).sum()
    return result


def forces_prior(engine: EnvironmentEngine, state: EnvironmentState, kernel: Kernel) -> Float[Tensor, "3 atoms"]:
    """Return the prior variance of every force component.

    Σ_ij k'' (J_i·x_j)(J_j·x_i) + k' J_i·J_j over the centres i, j that the atom moves, J_i = ∂x_i/∂r: its neighbours,
    whose derivatives are made from the atom's own list looked at backwards, and itself.
    """
    there = state.there
    result = torch.zeros((3, there.batch.n_atoms), dtype=torch.float64, device=engine.device)
    slots = there.most_neighbours * min(2, engine.engine.n_elements) + 1
    kept = state.c[0].numel()
    per_atom = 3 * engine.engine.jacobian_bytes(there, 0) + 8.0 * slots * (6 * slots + 2 * state.x.shape[1] + 2 * kept)
    for start, stop in pieces(there.batch.n_atoms, per_atom, working_bytes(engine.device, count())):
        grid = engine.engine.grid(there, start, stop)
        neighbours = grid.target.view(grid.n_atoms, grid.slots)
        own = torch.arange(start, stop, device=engine.device)[:, None]
        centres = torch.cat([neighbours, own], dim=1)
        x = state.x[centres]
        moved = engine.engine.backwards(grid, there, state.c)
        itself = engine.engine.changes(grid, state.c[start:stop], None).sum(2, keepdim=True).neg_()
        j = torch.cat([moved, itself], dim=2).to(torch.float64)
        j -= (j * x[:, None]).sum(-1, keepdim=True) * x[:, None]
        j /= state.norm[centres][:, None, :, None]
        kind = there.elements[centres]
        same = (kind[:, :, None] == kind[:, None, :]).to(torch.float64)
        dots = torch.matmul(x, x.transpose(1, 2))
        slope, curvature = dots_of.slope(kernel, dots) * same, dots_of.curvature(kernel, dots) * same
        for c in range(3):
            jc = j[:, c]
            total = slope * torch.matmul(jc, jc.transpose(1, 2))
            if kernel.form != 1:
                along = torch.matmul(jc, x.transpose(1, 2))
                total += curvature * along * along.transpose(1, 2)
            result[c, start:stop] = total.sum((1, 2))
    return result


def stress_prior(engine: EnvironmentEngine, state: EnvironmentState, kernel: Kernel) -> Float[Tensor, "structures 6"]:
    """Return the prior variance of every component of ∂E/∂ε; over the squared volume, of the stress."""
    there = state.there
    n_atoms, size = state.x.shape
    virial = torch.empty((6, n_atoms, size), dtype=torch.float64, device=engine.device)
    for grid, change in engine.changes(state, size, normalise=True):
        r = (grid.u * grid.r).view(3, grid.n_atoms, grid.slots).transpose(0, 1).to(change.dtype)
        outer = torch.matmul(r[:, None], change).to(torch.float64)
        for v, (a, b) in enumerate(VOIGT):
            virial[v, grid.start : grid.stop] = 0.5 * (outer[:, a, b] + outer[:, b, a])
    result = torch.zeros((len(there.batch), 6), dtype=torch.float64, device=engine.device)
    for s, atoms in _by_structure_and_species(engine, state):
        x = state.x[atoms]
        for v in range(6):
            j = virial[v, atoms]
            for start in range(0, len(x), CENTRES):
                block = slice(start, start + CENTRES)
                dots = x[block] @ x.T
                total = (dots_of.slope(kernel, dots) * (j[block] @ j.T)).sum()
                if kernel.form != 1:
                    total += (dots_of.curvature(kernel, dots) * (j[block] @ x.T) * (x[block] @ j.T)).sum()
                result[s, v] += total
    return result


def _by_structure_and_species(engine: EnvironmentEngine, state: EnvironmentState) -> Iterator[tuple[int, Tensor]]:
    batch, species = state.there.batch, state.there.species
    for s in range(len(batch)):
        start, stop = int(batch.offsets[s]), int(batch.offsets[s + 1])
        for a in np.unique(species[start:stop]):
            yield s, torch.as_tensor(start + np.flatnonzero(species[start:stop] == a), device=engine.device)
