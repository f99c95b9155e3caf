"""The kernel between energies and forces of whole structures, with exact second derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch, over_batches
from kernelpot.data.stream import chunks
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.features.vectors import DescribedBatch, unit, unit_jacobian
from kernelpot.kernels import DotProduct, Gaussian
from kernelpot.progress import track
from kernelpot.record import Named, Record

if TYPE_CHECKING:
    from ase import Atoms

CHUNK_BYTES = 16_000_000
"""Working set of one block on a CPU."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Structures of one composition, described with their derivatives: NumPy arrays, or tensors on a device."""

    index: Int[np.ndarray, " structures"]  # places of the structures in the list that they come from
    x: tuple[Any, ...]  # vectors of the environments, one array (structures, centres, f) for each centre species
    # their derivatives by every coordinate of the structure, Å⁻¹: arrays (structures, centres, 3 atoms, f)
    j: tuple[Any, ...]

    def __len__(self) -> int:
        """Count the structures."""
        return len(self.index)

    @property
    def n_coordinates(self) -> int:
        """Three for each atom of a structure."""
        return int(self.j[0].shape[2])

    def on(self, device: str) -> Frames:
        """Return the same as float64 tensors on a device of PyTorch."""
        import torch

        x, j = (tuple(torch.as_tensor(part, device=device) for part in parts) for parts in (self.x, self.j))
        return Frames(self.index, x, j)

    def take(self, chosen: slice) -> Frames:
        """Return a run of the structures."""
        return Frames(self.index[chosen], tuple(x[chosen] for x in self.x), tuple(j[chosen] for j in self.j))


@dataclass(frozen=True, eq=False)
class Block:
    """Kernel of one structure's labels with several's, at amplitude 1; ``_d`` is ∂/∂r, so forces have minus it."""

    value: Float[Any, " t"]  # ⟨E, E_t⟩
    value_d: Float[Any, "t b"]  # ⟨E, ∂E_t/∂r_b⟩
    d_value: Float[Any, "a t"]  # ⟨∂E/∂r_a, E_t⟩
    d_d: Float[Any, "a t b"]  # ⟨∂E/∂r_a, ∂E_t/∂r_b⟩

    def times(self, factor: float) -> Block:
        """Return every part multiplied by a number."""
        return Block(*(factor * part for part in self._parts))

    def plus(self, other: Block) -> Block:
        """Return the sum of two kernels."""
        return Block(*(one + two for one, two in zip(self._parts, other._parts, strict=True)))

    @property
    def _parts(self) -> tuple[Any, ...]:
        return self.value, self.value_d, self.d_value, self.d_d


def block(kernel: DotProduct | Gaussian, left: Frames, right: Frames) -> Block:
    """Return the kernel of one structure (`left` holds it alone) with each of `right`.

    With s = x_i·x_j and E = Σ_i e(x_i): ⟨∂E, ∂E'⟩ = Σ_ij k'(s) J_i·J_j + k''(s) (J_i·x_j)(x_i·J_j) over centres of one
    species. The first term is Σ_i J_i·W_i with W_i = Σ_j k'(s) J_j, so that pairs of centres cost a few operations and
    the products with F one per centre.
    """
    total: Block | None = None
    for x, j, x_right, j_right in zip(left.x, left.j, right.x, right.j, strict=True):
        if x.shape[1] and x_right.shape[1]:
            part = _species(kernel, x[0], j[0], x_right, j_right)
            total = part if total is None else total.plus(part)
    if total is None:
        n, a, b = len(right), left.n_coordinates, right.n_coordinates
        zeros = np.zeros if isinstance(left.x[0], np.ndarray) else left.x[0].new_zeros
        return Block(zeros(n), zeros((n, b)), zeros((a, n)), zeros((a, n, b)))
    return total


def derivatives(kernel: DotProduct | Gaussian, s: Any) -> tuple[Any, Any, Any]:
    """Return the kernel of dot products with its first two derivatives, for arrays and tensors alike."""
    value = kernel.value(s)
    if isinstance(kernel, Gaussian):
        return value, value / kernel.length**2, value / kernel.length**4
    return value, kernel.slope(s), kernel.curvature(s)


def _species(kernel: DotProduct | Gaussian, x: Any, j: Any, x_right: Any, j_right: Any) -> Block:
    """Return the four parts of a block from the centres of one species."""
    n, a, f = j.shape
    t, m, b, _ = j_right.shape
    s = (x_right.reshape(t * m, f) @ x.T).reshape(t, m, n)
    value, slope, curvature = derivatives(kernel, s)
    # ∂s/∂r on either side: (t, a, n, m) and (t, n, m, b).
    left = (j.reshape(n * a, f) @ x_right.reshape(t * m, f).T).reshape(n, a, t, m).swapaxes(0, 2)
    right = (j_right.reshape(t * m * b, f) @ x.T).reshape(t, m, b, n).swapaxes(2, 3).swapaxes(1, 2)
    weight = slope.swapaxes(1, 2)
    right = right.reshape(t, n * m, b)
    value_d = (weight.reshape(t, 1, n * m) @ right)[:, 0]
    d_value = (left.reshape(t, a, n * m) @ weight.reshape(t, n * m, 1))[..., 0]
    bent = left * curvature.swapaxes(1, 2)[:, None]
    d_d = (bent.reshape(t, a, n * m) @ right).swapaxes(0, 1)
    return Block(value.sum(1).sum(1), value_d, d_value.swapaxes(0, 1), d_d + _inner(j, weight, j_right))


def _inner(j: Any, weight: Any, j_right: Any) -> Any:
    """Return Σ_ij weight[t, i, j] J_i[a]·J_tj[b]."""
    n, a, f = j.shape
    t, m, b, _ = j_right.shape
    if not isinstance(j, np.ndarray):
        w = (weight @ j_right.reshape(t, m, b * f)).reshape(t, n, b, f)
        w = w.swapaxes(0, 1).reshape(n, t * b, f)
        return (j @ w.swapaxes(1, 2)).sum(0).reshape(a, t, b)
    w = np.empty((n, t, b * f))
    # Written centre by centre, so that the products below see whole matrices.
    np.matmul(weight, j_right.reshape(t, m, b * f), out=w.swapaxes(0, 1))
    total = np.zeros((a, t * b))
    for one, other in zip(j, w, strict=True):
        total += one @ other.reshape(t * b, f).T
    return total.reshape(a, t, b)


ATOMS_PER_BATCH = 64


@dataclass(frozen=True, eq=False)
class DerivativeMap(Record):
    """One term of the local energy's prior."""

    descriptor: Annotated[Descriptor, Named("descriptor")]  # with its species
    kernel: Annotated[DotProduct | Gaussian, Named("kernel")]  # zero between species
    columns: tuple[Float[np.ndarray, "f q"], ...]  # what the unit vectors of each centre species are projected on

    @classmethod
    def from_structures(
        cls, descriptor: Descriptor, kernel: DotProduct | Gaussian, structures: Sequence[Atoms], tolerance: float
    ) -> Self:
        """Choose the columns from training structures; see `reductions`."""
        return cls(descriptor, kernel, reductions(descriptor, structures, tolerance))

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, sorted."""
        return self.descriptor.species or ()

    def describe(self, batch: Batch) -> DescribedBatch:
        """Describe a batch."""
        return DescribedBatch.of(batch, self.descriptor.environments(batch), self.species)

    def frames(self, structures: Sequence[Atoms], index: Sequence[int]) -> Frames:
        """Describe structures of one composition with all derivatives; `index` says where they come from."""

        def part(batch: Batch, start: int) -> Frames:
            return self.frames_of(batch, np.asarray(index[start : start + len(batch)]))

        cutoff = self.descriptor.cutoff
        parts = list(over_batches(part, structures, cutoff, "derivatives", n_atoms=ATOMS_PER_BATCH))
        return Frames(
            np.concatenate([p.index for p in parts]),
            tuple(np.concatenate(x) for x in zip(*(p.x for p in parts), strict=True)),
            tuple(np.concatenate(j) for j in zip(*(p.j for p in parts), strict=True)),
        )

    def frames_of(self, batch: Batch, index: Int[np.ndarray, " structures"]) -> Frames:
        """Describe a batch of structures of one composition with all derivatives."""
        described = self.describe(batch)
        moved = described.environments.displacements(0, batch.n_atoms)
        unit_jacobian(moved.rows, moved.centre, described.x, described.norm)
        n_structures, n_atoms = len(batch), int(batch.sizes[0])
        xs: list[Any] = []
        js: list[Any] = []
        for z, columns in zip(self.species, self.columns, strict=True):
            mine = np.flatnonzero(batch.numbers == z)
            shape = (n_structures, len(mine) // n_structures)
            xs.append((described.x[mine] @ columns).reshape(*shape, columns.shape[1]))
            place = np.zeros(batch.n_atoms, dtype=np.int64)
            place[mine] = np.arange(len(mine))
            rows = np.flatnonzero(batch.numbers[moved.centre] == z)
            j = np.zeros((len(mine), n_atoms, 3, columns.shape[1]))
            # One row for each centre with each atom that moves it.
            j[place[moved.centre[rows]], moved.target[rows] % n_atoms] = moved.rows[rows] @ columns
            js.append(j.reshape(*shape, 3 * n_atoms, columns.shape[1]))
        return Frames(index, tuple(xs), tuple(js))


ENVIRONMENTS = 2000
"""Environments of a species, at the most, whose derivatives decide."""


def reductions(
    descriptor: Descriptor, structures: Sequence[Atoms], tolerance: float
) -> tuple[Float[np.ndarray, "f q"], ...]:
    """Return orthonormal columns for each centre species, on which unit vectors and their derivatives lie.

    The eigenvectors of Σ xxᵀ / Σ|x|² + Σ JJᵀ / Σ|J|², largest first, until what is left of its trace is `tolerance` of
    the whole; 0 keeps every direction that there is. The kernel of the projected vectors is a kernel still, so that
    forces stay exact derivatives. Of many structures, evenly spaced ones are looked at (`ENVIRONMENTS`).
    """
    species = descriptor.species or ()
    most = max(np.mean([np.count_nonzero(atoms.numbers == z) for atoms in structures]) for z in species)
    step = max(1, int(len(structures) * most // ENVIRONMENTS))
    chosen = structures[::step]
    # A species that is nowhere in the thinned list still needs its columns.
    missing = set(species) - {int(z) for atoms in chosen for z in atoms.numbers}
    chosen = [*chosen, *(atoms for atoms in structures if missing & {int(z) for z in atoms.numbers})]
    moments: list[np.ndarray] = []
    sizes = np.zeros((len(species), 2))
    for start, stop in track(list(chunks(chosen, ATOMS_PER_BATCH)), "reduction"):
        batch = Batch.from_structures(chosen[start:stop], descriptor.cutoff)
        environments = descriptor.environments(batch)
        x, norm = unit(environments.vectors)
        moved = environments.displacements(0, batch.n_atoms)
        unit_jacobian(moved.rows, moved.centre, x, norm)
        moments = moments or [np.zeros((2, x.shape[1], x.shape[1])) for _ in species]
        for a, z in enumerate(species):
            for k, part in enumerate((x[batch.numbers == z], moved.rows[batch.numbers[moved.centre] == z])):
                flat = part.reshape(-1, x.shape[1])
                moments[a][k] += flat.T @ flat
                sizes[a, k] += np.einsum("rf,rf->", flat, flat)
    return tuple(_columns(m, size, tolerance) for m, size in zip(moments, sizes, strict=True))


def _columns(
    moments: Float[np.ndarray, "2 f f"], sizes: Float[np.ndarray, " 2"], tolerance: float
) -> Float[np.ndarray, "f q"]:
    # A lone atom has no derivatives.
    total = sum(m / size for m, size in zip(moments, sizes, strict=True) if size > 0.0)
    values, vectors = np.linalg.eigh(total)
    lost = np.cumsum(np.maximum(values, 0.0)) / np.maximum(values, 0.0).sum()
    kept = lost > max(tolerance, 1e-14)
    return np.ascontiguousarray(vectors[:, kept][:, ::-1])
