"""The kernel matrix of all labels of a training set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.features.force_kernel import CHUNK_BYTES, Block, DerivativeMap, Frames, block, derivatives
from kernelpot.linalg.dense import Triangle
from kernelpot.linalg.devices import computing
from kernelpot.progress import track
from kernelpot.run import ordered


@dataclass(frozen=True, eq=False)
class Layout:
    """Which row of the matrix is which label: energies first, then forces, structure by structure."""

    energy: Int[np.ndarray, " structures"]  # row of each structure's energy; -1 where it is none of the labels
    # first row of each structure's forces, atoms first, then x, y, z; -1 where they are none of the labels
    forces: Int[np.ndarray, " structures"]
    coordinates: Int[np.ndarray, " structures"]  # force components of each structure

    @classmethod
    def of(
        cls,
        order: Int[np.ndarray, " structures"],
        has_energy: np.ndarray,
        has_forces: np.ndarray,
        coordinates: Int[np.ndarray, " structures"],
    ) -> Layout:
        """Give numbers to the labels that are there, structures in this order."""
        energy, forces = np.full(len(order), -1), np.full(len(order), -1)
        with_energy, with_forces = order[has_energy[order]], order[has_forces[order]]
        energy[with_energy] = np.arange(len(with_energy))
        sizes = coordinates[with_forces]
        forces[with_forces] = len(with_energy) + np.cumsum(sizes) - sizes
        return cls(energy, forces, coordinates)

    @property
    def n_energies(self) -> int:
        """Rows of energies."""
        return int((self.energy >= 0).sum())

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return self.n_energies + int(self.coordinates[self.forces >= 0].sum())

    def force_rows(self, structure: int) -> slice:
        """Rows of a structure's forces."""
        start = int(self.forces[structure])
        return slice(start, start + int(self.coordinates[structure]))


Terms = Sequence[tuple[DerivativeMap, Sequence[Frames]]]
"""Each term with its structures, in groups of one composition; the groups of all terms are the same."""


def fill_lower(matrix: Any, terms: Terms, layout: Layout) -> None:
    """Write the lower triangle of the labels' prior covariance, E0 and noise left out.

    Nothing larger than one block, of one structure with some of those before it, is held beside the matrix. What is
    above the diagonal is partly written too, and means nothing. The matrix holds zeros, a `Triangle` or a tensor where
    the frames are; structures, group by group, stand in the layout's order.
    """
    work = [(g, s) for g, group in enumerate(terms[0][1]) for s in range(len(group))]

    def row(piece: tuple[int, int]) -> None:
        g, s = piece
        # PyTorch's mode without gradients belongs to a thread: every one that writes into the matrix enters it.
        with nullcontext() if isinstance(matrix, Triangle) else computing(str(matrix.device)):
            for h in range(g + 1):
                _fill_row(matrix, terms, layout, (g, s), (h, s + 1 if h == g else len(terms[0][1][h])))

    for _ in track(ordered(row, work), "kernel", total=len(work)):
        pass


def _fill_row(matrix: Any, terms: Terms, layout: Layout, left: tuple[int, int], right: tuple[int, int]) -> None:
    """Write the blocks of one structure with the first `right[1]` of a group."""
    (g, s), (h, end) = left, right
    step = chunk_length([(maps, groups[h]) for maps, groups in terms], terms[0][1][g])
    for start in range(0, end, step):
        chosen = slice(start, min(start + step, end))
        total: Block | None = None
        for part, groups in terms:
            found = block(part.kernel, groups[g].take(slice(s, s + 1)), groups[h].take(chosen))
            found = found.times(part.kernel.amplitude**2)
            total = found if total is None else total.plus(found)
        if total is not None:
            _write(matrix, layout, int(terms[0][1][g].index[s]), terms[0][1][h].index[chosen], total)


def chunk_length(terms: Sequence[tuple[DerivativeMap, Frames]], left: Frames) -> int:
    """Return how many structures of a group one block may hold."""
    each = max(
        x.shape[1] * own.shape[1] * group.n_coordinates + x.shape[1] * group.n_coordinates * own.shape[2]
        for _, group in terms
        for x, own in zip(left.x, group.x, strict=True)
    )
    return max(1, CHUNK_BYTES // max(8 * each, 1))


def _write(matrix: Any, layout: Layout, one: int, others: Int[np.ndarray, " t"], found: Block) -> None:
    """Write a block; the labels that its other structures have stand side by side in the matrix."""
    row = slice(int(layout.energy[one]), int(layout.energy[one]) + 1)
    mine = layout.force_rows(one)
    known = np.flatnonzero(layout.energy[others] >= 0)
    if len(known):
        columns = _run(layout.energy[others[known]], 1)
        if row.start >= 0:
            matrix[row, columns] = found.value[known][None]
        if mine.start >= 0:
            matrix[mine, columns] = -found.d_value[:, known]
    known = np.flatnonzero(layout.forces[others] >= 0)
    if len(known):
        columns = _run(layout.forces[others[known]], int(layout.coordinates[others[0]]))
        if row.start >= 0:
            matrix[columns, row] = -found.value_d[known].reshape(-1, 1)
        if mine.start >= 0:
            matrix[mine, columns] = found.d_d[:, known].reshape(len(found.d_d), -1)


def _run(firsts: Int[np.ndarray, " k"], width: int) -> slice:
    return slice(int(firsts[0]), int(firsts[-1]) + width)


def group_by_composition(numbers: Sequence[np.ndarray], species: Sequence[int]) -> list[list[int]]:
    """Return places of structures, those of one composition together, in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for k, z in enumerate(numbers):
        groups.setdefault(tuple(int(np.count_nonzero(z == a)) for a in species), []).append(k)
    return list(groups.values())


ENVIRONMENT_BYTES = 50_000_000
"""Working set of kernel values between environments of a batch and those of training."""


@dataclass(frozen=True, eq=False)
class TrainingForm:
    """e(x) = amplitude² Σ_j [α_j k(x·x_j) + k'(x·x_j) x·v_j] over training environments j of the centre's species.

    v_j = -Σ_b J_jb α_b gathers the weights of all forces that the environment acts on, so that a prediction costs
    products with 2 vectors for each training environment, whatever the number of force labels.
    """

    map: DerivativeMap  # descriptor, kernel and projection
    points: tuple[Float[np.ndarray, "n q"], ...]  # x_j of each species
    weights: tuple[Float[np.ndarray, " n"], ...]  # α_j of each species: that of its structure's energy
    directions: tuple[Float[np.ndarray, "n q"], ...]  # v_j of each species
    device: str | None = None  # None: NumPy; else PyTorch's name of the device that the products are computed on

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
        described = self.map.describe(batch)
        energy = np.zeros(batch.n_atoms)
        gradient = np.zeros_like(described.x)
        for a, (z, columns) in enumerate(zip(self.map.species, self.map.columns, strict=True)):
            mine = np.flatnonzero(batch.numbers == z)
            step = max(1, ENVIRONMENT_BYTES // (8 * max(1, len(self.points[a]))))
            for start in range(0, len(mine), step):
                atoms = mine[start : start + step]
                energy[atoms], slope = self._species(a, described.x[atoms] @ columns)
                gradient[atoms] = slope @ columns.T
        return energy, described.pull(gradient)

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
