"""Many structures as one frozen set of flat arrays with their neighbour pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.check import check_structure, place
from kernelpot.data.neighbours import CROWD, expected, neighbours
from kernelpot.data.stream import ATOMS_PER_CHUNK, chunks
from kernelpot.errors import DataError, ParameterError
from kernelpot.progress import track
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

Result = TypeVar("Result")

FLAT = 1e-12
"""Volume, as a share of the product of the lattice vectors' lengths, below which a cell has none."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Structures, flattened: one row per atom and one per neighbour pair.

    Pairs are complete (both i→j and j→i, periodic images included) and sorted by their first atom, so that the
    neighbours of atom i are the slice ``pair_offsets[i]:pair_offsets[i + 1]``.
    """

    positions: Float[np.ndarray, "atoms 3"]  # Cartesian positions, Å
    cells: Float[np.ndarray, "structures 3 3"]  # Lattice vectors as rows, Å; zero where a structure has none
    pbc: Bool[np.ndarray, "structures 3"]  # Periodic directions
    numbers: Int[np.ndarray, " atoms"]  # Atomic numbers
    offsets: Int[np.ndarray, " structures_plus_1"]  # Atoms of structure s are ``offsets[s]:offsets[s + 1]``
    first: Int[np.ndarray, " pairs"]  # first, second: Atom indices of each pair, counted over the whole batch
    second: Int[np.ndarray, " pairs"]
    shifts: Float[np.ndarray, "pairs 3"]  # Cartesian translation of the second atom's image, Å
    pair_offsets: Int[np.ndarray, " atoms_plus_1"]  # Pairs of atom i are ``pair_offsets[i]:pair_offsets[i + 1]``
    cutoff: float  # Every pair up to this distance was there when the list was made, Å

    @classmethod
    def from_structures(cls, structures: Sequence[Atoms], cutoff: float, *, skin: float = 0.0, start: int = 0) -> Batch:
        """Check the structures, flatten them, find the pairs."""
        if len(structures) == 0:
            raise ParameterError(
                "`structures` must hold at least one structure, got none; check the selection that made it."
            )
        if not np.isfinite(cutoff) or cutoff <= 0:
            raise ParameterError(f"`cutoff` must be positive and in Å, got {cutoff}; SOAP usually takes 4 to 6.")
        if not np.isfinite(skin) or skin < 0:
            raise ParameterError(f"`skin` must be zero or positive and in Å, got {skin}; 0.5 is usual in dynamics.")
        reach = float(cutoff) + float(skin)
        sizes, first, second, shifts = [], [], [], []
        n_atoms = 0
        for number, atoms in enumerate(structures, start):
            check_structure(atoms, place(atoms, number))
            if (many := expected(atoms, reach)) > CROWD:
                raise DataError(
                    f"{place(atoms, number)}: a cutoff must give an atom fewer than {CROWD:,} neighbours, "
                    f"{reach:g} Å gives about {many:,.0f}; choose a smaller one, and check the units of the cell."
                )
            i, j, images = neighbours(atoms, reach)
            first.append(i.astype(np.int64) + n_atoms)
            second.append(j.astype(np.int64) + n_atoms)
            shifts.append(images.astype(np.float64) @ atoms.cell.array)
            sizes.append(len(atoms))
            n_atoms += len(atoms)
        first_all = np.concatenate(first)
        counts = np.bincount(first_all, minlength=n_atoms)
        return cls(
            positions=np.concatenate([atoms.positions for atoms in structures]).astype(np.float64),
            cells=np.stack([np.asarray(atoms.cell.array, dtype=np.float64) for atoms in structures]),
            pbc=np.stack([np.asarray(atoms.pbc, dtype=bool) for atoms in structures]),
            numbers=np.concatenate([atoms.numbers for atoms in structures]).astype(np.int64),
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            first=first_all,
            second=np.concatenate(second),
            shifts=np.concatenate(shifts),
            pair_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            cutoff=reach,
        )

    def __len__(self) -> int:
        """Count the structures."""
        return len(self.offsets) - 1

    @property
    def n_atoms(self) -> int:
        """Number of atoms in all structures."""
        return len(self.numbers)

    @cached_property
    def sizes(self) -> Int[np.ndarray, " structures"]:
        """Atoms of each structure."""
        return np.diff(self.offsets)

    @cached_property
    def structure(self) -> Int[np.ndarray, " atoms"]:
        """Structure that each atom belongs to."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @cached_property
    def vectors(self) -> Float[np.ndarray, "pairs 3"]:
        """Vector from the first to the second atom of each pair, Å."""
        return self.positions[self.second] - self.positions[self.first] + self.shifts

    @cached_property
    def volumes(self) -> Float[np.ndarray, " structures"]:
        """Cell volume, Å³; NaN where the three lattice vectors span none."""
        return cell_volumes(self.cells)

    def moved(self, positions: Float[np.ndarray, "atoms 3"]) -> Batch:
        """Return the same pairs at new positions (cells unchanged)."""
        result = replace(self, positions=np.ascontiguousarray(positions, dtype=np.float64))
        # What does not depend on positions, and is a good part of a step of a few atoms.
        for name in ("sizes", "structure", "volumes"):
            vars(result)[name] = getattr(self, name)
        return result

    def take(self, start: int, stop: int) -> Batch:
        """Return structures ``start:stop`` as a batch of their own."""
        a, b = int(self.offsets[start]), int(self.offsets[stop])
        p, q = int(self.pair_offsets[a]), int(self.pair_offsets[b])
        return Batch(
            positions=self.positions[a:b],
            cells=self.cells[start:stop],
            pbc=self.pbc[start:stop],
            numbers=self.numbers[a:b],
            offsets=self.offsets[start : stop + 1] - a,
            first=self.first[p:q] - a,
            second=self.second[p:q] - a,
            shifts=self.shifts[p:q],
            pair_offsets=self.pair_offsets[a : b + 1] - p,
            cutoff=self.cutoff,
        )

    def tensors(self, device: str = "cpu") -> dict[str, Any]:
        """Return positions, numbers, pairs and shifts as PyTorch tensors on a device."""
        import torch

        names = ("positions", "numbers", "offsets", "first", "second", "shifts")
        return {name: torch.as_tensor(getattr(self, name), device=device) for name in names}

    def sum_per_structure(self, per_atom: Float[np.ndarray, " atoms"]) -> Float[np.ndarray, " structures"]:
        """Add up a per-atom quantity over each structure."""
        return np.bincount(self.structure, weights=per_atom, minlength=len(self))

    def counts(self, species: Sequence[int]) -> Float[np.ndarray, "structures species"]:
        """Count the atoms of each species in each structure: the columns that carry E0."""
        return np.stack([self.sum_per_structure((self.numbers == z).astype(float)) for z in species], axis=1)

    def surroundings(self, atoms: Int[np.ndarray, " some"], *, thin: bool = False) -> tuple[Batch, np.ndarray]:
        """Return the part of one structure that some atoms' forces depend on, and the numbers of its atoms.

        The atoms come first, as a structure of their own before the others. The environments of the atoms and of their
        neighbours are whole; what only completes them has no neighbours itself. `thin` leaves that out, with all pairs
        that hold none of the atoms.
        """
        number = np.full(self.n_atoms, -1)
        number[atoms] = np.arange(len(atoms))
        near = np.unique(self.second[self._pairs_of(atoms)])
        centres = np.concatenate([atoms, near[number[near] < 0]])
        pairs = self._pairs_of(centres)
        if thin:
            pairs = pairs[(number[self.first[pairs]] >= 0) | (number[self.second[pairs]] >= 0)]
        number[centres] = np.arange(len(centres))
        beyond = np.unique(self.second[pairs])
        kept = np.concatenate([centres, beyond[number[beyond] < 0]])
        number[kept] = np.arange(len(kept))
        first, offsets = number[self.first[pairs]], np.unique([0, len(atoms), len(kept)])
        part = Batch(
            positions=self.positions[kept],
            cells=np.repeat(self.cells, len(offsets) - 1, axis=0),
            pbc=np.repeat(self.pbc, len(offsets) - 1, axis=0),
            numbers=self.numbers[kept],
            offsets=offsets,
            first=first,
            second=number[self.second[pairs]],
            shifts=self.shifts[pairs],
            pair_offsets=np.concatenate([[0], np.cumsum(np.bincount(first, minlength=len(kept)))]),
            cutoff=self.cutoff,
        )
        return part, kept

    def _pairs_of(self, atoms: Int[np.ndarray, " some"]) -> Int[np.ndarray, " pairs"]:
        """Return the pairs of some atoms, one atom after another."""
        begins, counts = self.pair_offsets[atoms], self.pair_offsets[atoms + 1] - self.pair_offsets[atoms]
        return np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())


def over_batches(
    work: Callable[[Batch, int], Result],
    structures: Sequence[Atoms],
    cutoff: float,
    label: str = "",
    *,
    n_atoms: int = ATOMS_PER_CHUNK,
) -> Iterator[Result]:
    """Yield ``work(batch, number of its first structure)`` for runs of structures in order, computed by threads.

    A label shows progress under this name.
    """

    def part(piece: tuple[int, int]) -> Result:
        return work(Batch.from_structures(structures[slice(*piece)], cutoff, start=piece[0]), piece[0])

    pieces = list(chunks(structures, n_atoms))
    yield from ordered(part, track(pieces, label) if label else pieces)


def cell_volumes(cells: Float[np.ndarray, "structures 3 3"]) -> Float[np.ndarray, " structures"]:
    """Return the volumes of cells, Å³; NaN where the three lattice vectors span none."""
    volume = np.abs(np.linalg.det(cells))
    # The determinant of a flat cell is round-off, not zero.
    box = np.prod(np.linalg.norm(cells, axis=2), axis=1)
    return np.where(volume > FLAT * box, volume, np.nan)
