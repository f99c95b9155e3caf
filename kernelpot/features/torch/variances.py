"""Posterior variances on a device of PyTorch: rows never leave it, and the residual is made there too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kernelpot.features.feature_map import counts
from kernelpot.features.prior import energy_sums, virial_sums
from kernelpot.features.torch.described import VOIGT, DeviceRows, EnvironmentEngine, EnvironmentState
from kernelpot.features.torch.kernel_rows import KernelEngine
from kernelpot.kernels import Kernel
from kernelpot.linalg.devices import computing, pieces, working_bytes
from kernelpot.run import count


class DeviceMap(Protocol):
    """What of a `TorchMap` is needed here."""

    @property
    def device(self) -> str:
        """PyTorch's name of the device."""

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, sorted."""

    @property
    def n_columns(self) -> int:
        """Raw columns."""

    @property
    def scales(self) -> tuple[float, ...]:
        """Of the terms."""

    @property
    def starts(self) -> list[int]:
        """First raw column of each term."""

    @property
    def engines(self) -> tuple[Any, ...]:
        """One for each term, in float64."""

    def device_rows(self, described: Any, *, derivatives: bool, stress: bool) -> tuple[tuple[Any, ...], DeviceRows]:
        """Return rows on the device, with what the engines made them from."""


@dataclass(frozen=True, eq=False)
class TorchVariances:
    """What `Uncertainty` computes, on the device of its feature map.

    Attributes
    ----------
    features
        The map.
    projection
        P with |Pᵀ[row; E0 counts]|² the posterior variance of a label less its residual.
    shrinkage
        V with |Vᵀ[k; e]|² what a local energy's variance lost to the data.
    amplitude
        eV.
    """

    features: DeviceMap
    projection: Float[Tensor, "m_plus_species d"]
    shrinkage: Float[Tensor, "m_plus_species d"]
    amplitude: float

    @classmethod
    def make(
        cls,
        features: DeviceMap,
        projection: Float[np.ndarray, "m_plus_species d"],
        shrinkage: Float[np.ndarray, "m_plus_species d"],
        amplitude: float,
    ) -> TorchVariances:
        """Put the matrices on the device."""
        there = [torch.as_tensor(matrix, device=features.device) for matrix in (projection, shrinkage)]
        return cls(features, there[0], there[1], amplitude)

    def local_seen(self, described: Any) -> Float[np.ndarray, " atoms"]:
        """Return what the data took off the prior variance of every atom's energy."""
        features = self.features
        with computing(features.device):
            seen = self.shrinkage[features.n_columns + described.exact[0].there.elements]
            for engine, part, start in zip(features.engines, described.exact, features.starts, strict=True):
                for atoms, here, values in engine.values(part):
                    mine = torch.as_tensor(atoms, device=features.device)
                    seen.index_add_(0, mine, values @ self.shrinkage[start + here.start : start + here.stop])
            return seen.square().sum(1).cpu().numpy()

    def labelled(
        self, described: Any
    ) -> tuple[Float[np.ndarray, " structures"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "structures 6"]]:
        """Return the variances of total energies (eV²), force components and stress components."""
        features, batch = self.features, described.batch
        with computing(features.device):
            parts, rows = features.device_rows(described, derivatives=True, stress=True)
            composition = torch.as_tensor(counts(batch, features.species), device=features.device)
            energy = self._seen(rows.energy, composition)
            forces = self._seen(_given(rows.forces).flatten(0, 1)).view(3, -1)
            virial = self._seen(_given(rows.virial).flatten(0, 1)).view(-1, 6)
            for engine, part, start, scale in zip(
                features.engines, parts, features.starts, features.scales, strict=True
            ):
                if not isinstance(engine, KernelEngine):
                    continue
                factor = (self.amplitude * scale) ** 2
                known = engine.environments, part, engine.features.kernel
                for total, block, prior in (
                    (energy, rows.energy, energy_prior(*known)),
                    (forces, _given(rows.forces), forces_prior(*known)),
                    (virial, _given(rows.virial), stress_prior(*known)),
                ):
                    carried = self._carried(engine, block.flatten(0, -2), start).view(prior.shape)
                    total += factor * (prior - carried).clamp_(min=0.0)
            volumes = torch.as_tensor(batch.volumes, device=features.device)[:, None]
            stress = virial / volumes**2
            return energy.cpu().numpy(), forces.T.contiguous().cpu().numpy(), stress.cpu().numpy()

    def _seen(
        self, rows: Float[Tensor, "rows m"], composition: Float[Tensor, "rows species"] | None = None
    ) -> Float[Tensor, " rows"]:
        m = self.features.n_columns
        result = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        budget = working_bytes(self.features.device, count())
        for start, stop in pieces(len(rows), 16.0 * self.projection.shape[1], budget):
            projected = rows[start:stop] @ self.projection[:m]
            if composition is not None:
                projected += composition[start:stop] @ self.projection[m:]
            result[start:stop] = projected.square().sum(1)
        return result

    def _carried(self, engine: KernelEngine, rows: Float[Tensor, "rows m"], start: int) -> Float[Tensor, " rows"]:
        """Return the squared features of rows: the part of the prior variance that inducing environments carry."""
        result = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for here, white in zip(engine.features.slices, engine.whitening, strict=True):
            result += (rows[:, start + here.start : start + here.stop] @ white).square().sum(1)
        return result


def _given(rows: Tensor | None) -> Tensor:
    if rows is None:
        raise ValueError("these rows were not asked for")
    return rows


CENTRES = 1024


def energy_prior(engine: EnvironmentEngine, state: EnvironmentState, kernel: Kernel) -> Float[Tensor, " structures"]:  # noqa: ARG001
    """Return 1ᵀK1 of each structure."""
    result: Tensor = energy_sums(kernel, state.x, state.there.batch, state.there.species, CENTRES)
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
        slope, curvature = kernel.slope(dots) * same, kernel.curvature(dots) * same
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
    virial = torch.empty((n_atoms, 6, size), dtype=torch.float64, device=engine.device)
    for grid, change in engine.changes(state, size, normalise=True):
        r = (grid.u * grid.r).view(3, grid.n_atoms, grid.slots).transpose(0, 1).to(change.dtype)
        outer = torch.matmul(r[:, None], change).to(torch.float64)
        for v, (a, b) in enumerate(VOIGT):
            virial[grid.start : grid.stop, v] = 0.5 * (outer[:, a, b] + outer[:, b, a])
    result: Tensor = virial_sums(kernel, state.x, virial, there.batch, there.species, CENTRES)
    return result
