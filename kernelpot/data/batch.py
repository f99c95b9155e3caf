"""Many structures as one frozen set of flat arrays with their neighbour pairs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from kernelpot.data.check import check_structure, place
from kernelpot.data.stream import ATOMS_PER_CHUNK, chunks
from kernelpot.errors import DataError, ParameterError
from kernelpot.progress import track
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

Result = TypeVar("Result")

FLAT = 1e-12
"""Volume, as a share of the product of the lattice vectors' lengths, below which a cell has none."""


# ---- pairs of atoms within a distance, by vesin's cell list or, where that fails, by a k-d tree

MOST_BINS = 50_000
"""Bins of a cell list; vesin divides by zero, which ends the process, somewhere beyond 100,000 of them."""

CROWD = 20_000
"""Of an atom; a cutoff of 12 Å has 600 in copper. Beyond, pairs fill memory, and the unit of a length is wrong."""

FLAT = 0.2
"""Height of a cell over the reach below which its most compact shape is looked for."""

FREE_BINS, BINS_OF_AN_ATOM = 200, 2
"""Bins that a small system may have, and for each atom: dilute systems spend their time on empty ones."""


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


def neighbours(
    atoms: Atoms, reach: float
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Int[np.ndarray, "pairs 3"]]:
    """Return all pairs i, j with the lattice translation of j, both ways and images included, sorted by i.

    Systems that fill their space go to vesin. Others, such as two clusters far apart or a sheet wider than a thousand
    Å, go to a k-d tree of the atoms and the images around them: linear in atoms and neighbours at any extent.
    """
    positions, cell, pbc = atoms.positions, atoms.cell.array, np.asarray(atoms.pbc, dtype=bool)
    extents, turn = np.ptp(positions, axis=0), None
    if pbc.any():
        full, heights = _completed(cell, pbc)
        if heights[pbc].min() < FLAT * reach:
            # A needle of a cell: its most compact one has the same atoms and far fewer images within reach.
            from ase.geometry import minkowski_reduce

            cell, turn = minkowski_reduce(cell, pbc)
            full, heights = _completed(cell, pbc)
        # Where some directions are periodic, vesin makes its box as long in the open ones as it is anywhere.
        longest = np.where(pbc, heights, np.ptp(positions @ np.linalg.inv(full), axis=0)).max()
        extents = np.where(pbc, heights, longest)
    bins = np.maximum(1.0, extents / reach).prod()
    if bins > min(MOST_BINS, FREE_BINS + BINS_OF_AN_ATOM * len(atoms)):
        i, j, images = by_tree(positions, cell, pbc, reach)
    else:
        search = neighbour_list_class()(cutoff=reach, full_list=True, sorted=True)
        i, j, images = search.compute(positions, cell, pbc.tolist(), quantities="ijS")
    return i, j, images if turn is None else images @ turn.astype(images.dtype)


def expected(atoms: Atoms, reach: float) -> float:
    """Estimate how many neighbours an atom has within a reach, were the atoms spread evenly over their box."""
    cell, pbc = atoms.cell.array, np.asarray(atoms.pbc, dtype=bool)
    heights = _completed(cell, pbc)[1] if pbc.any() else np.ones(3)
    spans = 2.0 * reach / np.maximum(np.where(pbc, heights, np.ptp(atoms.positions, axis=0)), 1e-9)
    ball = (1.0, 1.0, np.pi / 4.0, np.pi / 6.0)[int(pbc.sum())]
    return float(len(atoms) * ball * np.where(pbc, spans, np.minimum(1.0, spans)).prod())


def lengths(
    atoms: Atoms, i: Int[np.ndarray, " pairs"], j: Int[np.ndarray, " pairs"], images: Int[np.ndarray, "pairs 3"]
) -> Float[np.ndarray, " pairs"]:
    """Return the distances of pairs, Å."""
    found: np.ndarray = np.linalg.norm(
        atoms.positions[j] - atoms.positions[i] + images.astype(np.float64) @ atoms.cell.array, axis=1
    )
    return found


def _completed(
    cell: Float[np.ndarray, "3 3"], pbc: np.ndarray
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
    """Return the periodic lattice vectors completed by unit vectors normal to them, and the heights, Å."""
    from ase.geometry import complete_cell

    full: np.ndarray = cell if pbc.all() else complete_cell(np.where(pbc[:, None], cell, 0.0))
    return full, 1.0 / np.linalg.norm(np.linalg.inv(full), axis=0)


def by_tree(
    positions: Float[np.ndarray, "atoms 3"], cell: Float[np.ndarray, "3 3"], pbc: np.ndarray, reach: float
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Int[np.ndarray, "pairs 3"]]:
    """Find pairs by a k-d tree of the wrapped atoms and one of these with their images up to the reach."""
    n = len(positions)
    turns = np.zeros((n, 3), dtype=np.int64)  # Lattice vectors that wrapping takes off an atom
    points, owner, shift = positions, np.arange(n), turns
    if pbc.any():
        full, heights = _completed(cell, pbc)
        share = positions @ np.linalg.inv(full)
        turns = np.where(pbc, np.floor(share), 0.0).astype(np.int64)
        share -= turns
        points = share @ full
        for axis in np.flatnonzero(pbc):
            margin = reach / heights[axis]
            steps = range(-int(np.ceil(margin)), int(np.ceil(margin)) + 1)
            near = [
                (k, np.flatnonzero((share[:, axis] + k >= -margin) & (share[:, axis] + k <= 1.0 + margin)))
                for k in steps
            ]
            step = np.concatenate([np.full(len(index), k) for k, index in near])
            index = np.concatenate([index for _, index in near])
            share, owner, shift = share[index], owner[index], shift[index]
            share[:, axis] += step
            shift[:, axis] += step
        images = share @ full
    else:
        images = points
    found = cKDTree(points).sparse_distance_matrix(cKDTree(images), reach, output_type="ndarray")
    i, image = found["i"], found["j"]
    j, moved = owner[image], shift[image]
    kept = (i != j) | moved.any(axis=1)
    i, j, moved = i[kept], j[kept], moved[kept]
    moved = moved + turns[i] - turns[j]
    order = np.lexsort((*moved.T[::-1], j, i))
    return i[order], j[order], moved[order]


@cache
def neighbour_list_class() -> Any:
    """Return `vesin.NeighborList`, imported without PyTorch.

    vesin imports PyTorch where it is installed, to accept tensors; the pairs of a `Batch` come from NumPy arrays, and
    PyTorch's 240 MiB would be half of a small fit's memory. A copy of vesin that does not know PyTorch is loaded and
    taken off the list of modules again, so that whoever imports vesin gets the whole one. Where PyTorch or vesin is
    loaded already, there is nothing to save.
    """
    if "torch" in sys.modules or "vesin" in sys.modules:
        from vesin import NeighborList

        return NeighborList
    # None in sys.modules makes an import fail like that of a module that is not installed.
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from vesin import NeighborList
    finally:
        del sys.modules["torch"]
        for name in [name for name in sys.modules if name.split(".")[0] == "vesin"]:
            del sys.modules[name]
    return NeighborList
