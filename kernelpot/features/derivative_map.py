"""A kernel on a descriptor whose environments come with their derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.descriptors.protocol import Descriptor, Environments
from kernelpot.features.derivative_kernel import Frames
from kernelpot.features.inducing import chunks
from kernelpot.features.normalise import unit, unit_jacobian, unit_vjp
from kernelpot.features.reduction import reductions
from kernelpot.kernels import DotProduct, Gaussian
from kernelpot.progress import track
from kernelpot.record import Named, Record
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_PER_BATCH = 64


@dataclass(frozen=True, eq=False)
class Reduced:
    """Environments of a batch, projected.

    Attributes
    ----------
    environments
        As the descriptor made them.
    unit
        Unit vectors, all components.
    norm
        Lengths before.
    """

    environments: Environments
    unit: Float[np.ndarray, "atoms f"]
    norm: Float[np.ndarray, " atoms"]


@dataclass(frozen=True, eq=False)
class DerivativeMap(Record):
    """One term of the local energy's prior.

    Attributes
    ----------
    descriptor
        With its species.
    kernel
        Of two projected unit vectors; zero between centres of different species.
    columns
        What the unit vectors of each centre species are projected on.
    """

    descriptor: Annotated[Descriptor, Named("descriptor")]
    kernel: Annotated[DotProduct | Gaussian, Named("kernel")]
    columns: tuple[Float[np.ndarray, "f q"], ...]

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

    def describe(self, batch: Batch) -> Reduced:
        """Describe a batch."""
        environments = self.descriptor.environments(batch)
        return Reduced(environments, *unit(environments.vectors))

    def pairs(self, reduced: Reduced, gradient: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "pairs 3"]:
        """Return dE/d(pair vector), given dE/d(unit vector), eV/Å."""
        return reduced.environments.vjp(unit_vjp(gradient, reduced.unit, reduced.norm))

    def frames(self, structures: Sequence[Atoms], index: Sequence[int]) -> Frames:
        """Describe structures of one composition with all derivatives; `index` says where they come from."""

        def part(piece: tuple[int, int]) -> Frames:
            begin, end = piece
            batch = Batch.from_structures(structures[begin:end], self.descriptor.cutoff)
            return self.frames_of(batch, np.asarray(index[begin:end]))

        parts = list(ordered(part, track(list(chunks(structures, ATOMS_PER_BATCH)), "derivatives")))
        return Frames(
            np.concatenate([p.index for p in parts]),
            tuple(np.concatenate(x) for x in zip(*(p.x for p in parts), strict=True)),
            tuple(np.concatenate(j) for j in zip(*(p.j for p in parts), strict=True)),
        )

    def frames_of(self, batch: Batch, index: Int[np.ndarray, " structures"]) -> Frames:
        """Describe a batch of structures of one composition with all derivatives."""
        reduced = self.describe(batch)
        moved = reduced.environments.displacements(0, batch.n_atoms)
        unit_jacobian(moved.rows, moved.centre, reduced.unit, reduced.norm)
        n_structures, n_atoms = len(batch), int(batch.sizes[0])
        xs: list[Any] = []
        js: list[Any] = []
        for z, columns in zip(self.species, self.columns, strict=True):
            mine = np.flatnonzero(batch.numbers == z)
            shape = (n_structures, len(mine) // n_structures)
            xs.append((reduced.unit[mine] @ columns).reshape(*shape, columns.shape[1]))
            place = np.zeros(batch.n_atoms, dtype=np.int64)
            place[mine] = np.arange(len(mine))
            rows = np.flatnonzero(batch.numbers[moved.centre] == z)
            j = np.zeros((len(mine), n_atoms, 3, columns.shape[1]))
            # One row for each centre with each atom that moves it.
            j[place[moved.centre[rows]], moved.target[rows] % n_atoms] = moved.rows[rows] @ columns
            js.append(j.reshape(*shape, 3 * n_atoms, columns.shape[1]))
        return Frames(index, tuple(xs), tuple(js))
