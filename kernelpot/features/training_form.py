"""The energy of a kernel fit to energies and forces, as a function of an environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.features.derivative_kernel import Frames, derivatives
from kernelpot.features.derivative_map import DerivativeMap
from kernelpot.features.label_kernel import Layout
from kernelpot.linalg.devices import computing

ENVIRONMENT_BYTES = 50_000_000
"""Working set of kernel values between environments of a batch and those of training."""


@dataclass(frozen=True, eq=False)
class TrainingForm:
    """e(x) = amplitude² Σ_j [α_j k(x·x_j) + k'(x·x_j) x·v_j] over training environments j of the centre's species.

    v_j = -Σ_b J_jb α_b gathers the weights of all forces that the environment acts on, so that a prediction costs
    products with 2 vectors for each training environment, whatever the number of force labels.

    Attributes
    ----------
    map
        Descriptor, kernel and projection.
    points
        x_j of each species.
    weights
        α_j of each species: that of its structure's energy.
    directions
        v_j of each species.
    device
        None: NumPy; else PyTorch's name of the device that the products are computed on.
    """

    map: DerivativeMap
    points: tuple[Float[np.ndarray, "n q"], ...]
    weights: tuple[Float[np.ndarray, " n"], ...]
    directions: tuple[Float[np.ndarray, "n q"], ...]
    device: str | None = None

    @classmethod
    def from_weights(
        cls,
        term: DerivativeMap,
        groups: Sequence[Frames],
        layout: Layout,
        alpha: Float[np.ndarray, " rows"],
        device: str | None = None,
    ) -> TrainingForm:
        """Gather the weights of labels on the environments that they belong to."""
        points: list[list[np.ndarray]] = [[] for _ in term.species]
        weights: list[list[np.ndarray]] = [[] for _ in term.species]
        directions: list[list[np.ndarray]] = [[] for _ in term.species]
        for group in groups:
            energies = np.array([alpha[layout.energy[s]] if layout.energy[s] >= 0 else 0.0 for s in group.index])
            nothing = np.zeros(group.n_coordinates)
            forces = np.array([alpha[layout.force_rows(s)] if layout.forces[s] >= 0 else nothing for s in group.index])
            for a, (x, j) in enumerate(zip(group.x, group.j, strict=True)):
                x, j = _host(x), _host(j)
                n, q = x.shape[1:]
                points[a].append(x.reshape(len(x) * n, q))
                weights[a].append(np.repeat(energies, n))
                # One structure at a time: (1, coordinates) @ (n, coordinates, q).
                directions[a].append(-(forces[:, None, None, :] @ j)[:, :, 0].reshape(len(x) * n, q))
        x, alpha_e, v = (tuple(np.concatenate(part) for part in parts) for parts in (points, weights, directions))
        return cls(term, x, alpha_e, v, device)

    def local_and_pairs(self, batch: Batch) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        reduced = self.map.describe(batch)
        energy = np.zeros(batch.n_atoms)
        gradient = np.zeros_like(reduced.unit)
        for a, (z, columns) in enumerate(zip(self.map.species, self.map.columns, strict=True)):
            mine = np.flatnonzero(batch.numbers == z)
            step = max(1, ENVIRONMENT_BYTES // (8 * max(1, len(self.points[a]))))
            for start in range(0, len(mine), step):
                atoms = mine[start : start + step]
                energy[atoms], slope = self._species(a, reduced.unit[atoms] @ columns)
                gradient[atoms] = slope @ columns.T
        return energy, self.map.pairs(reduced, gradient)

    def _species(self, a: int, x: Float[np.ndarray, "i q"]) -> tuple[np.ndarray, np.ndarray]:
        if self.device is None:
            return self._products(x, self.points[a], self.weights[a], self.directions[a])
        import torch

        with computing(self.device):
            energy, gradient = self._products(torch.as_tensor(x, device=self.device), *self._placed[a])
            return energy.cpu().numpy(), gradient.cpu().numpy()

    @cached_property
    def _placed(self) -> list[tuple[Any, ...]]:
        import torch

        species = zip(self.points, self.weights, self.directions, strict=True)
        return [tuple(torch.as_tensor(part, device=self.device) for part in parts) for parts in species]

    def _products(self, x: Any, points: Any, weights: Any, directions: Any) -> tuple[Any, Any]:
        scale = self.map.kernel.amplitude**2
        value, slope, curvature = derivatives(self.map.kernel, x @ points.T)
        along = x @ directions.T
        energy = value @ weights + (slope * along).sum(1)
        gradient = (slope * weights + curvature * along) @ points + slope @ directions
        return scale * energy, scale * gradient


def _host(array: Any) -> np.ndarray:
    result: np.ndarray = array if isinstance(array, np.ndarray) else array.cpu().numpy()
    return result
