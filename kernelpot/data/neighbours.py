"""Pairs of atoms within a distance, by vesin's cell list or, where that fails, by a k-d tree."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from ase import Atoms

MOST_BINS = 50_000
"""Bins of a cell list; vesin divides by zero, which ends the process, somewhere beyond 100,000 of them."""

CROWD = 20_000
"""Of an atom; a cutoff of 12 Å has 600 in copper. Beyond, pairs fill memory, and the unit of a length is wrong."""

FLAT = 0.2
"""Height of a cell over the reach below which its most compact shape is looked for."""

FREE_BINS, BINS_OF_AN_ATOM = 200, 2
"""Bins that a small system may have, and for each atom: dilute systems spend their time on empty ones."""


def neighbours(
    atoms: Atoms, reach: float
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Int[np.ndarray, "pairs 3"]]:
    """Return all pairs i, j with the lattice translation of j, both ways and images included, sorted by i.

    Systems that fill their space go to vesin. Others, such as two clusters far apart or a sheet wider than a thousand
    Å, go to a k-d tree of the atoms and the images around them: linear in atoms and neighbours at any extent.
    """
    cell, pbc = atoms.cell.array, np.asarray(atoms.pbc, dtype=bool)
    turn = None
    if pbc.any() and _completed(cell, pbc)[1][pbc].min() < FLAT * reach:
        # A needle of a cell: its most compact one has the same atoms and far fewer images within reach.
        from ase.geometry import minkowski_reduce

        cell, turn = minkowski_reduce(cell, pbc)
    i, j, images = _found(atoms.positions, cell, pbc, reach)
    return i, j, images if turn is None else images @ turn.astype(images.dtype)


def _found(
    positions: Float[np.ndarray, "atoms 3"], cell: Float[np.ndarray, "3 3"], pbc: np.ndarray, reach: float
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Int[np.ndarray, "pairs 3"]]:
    """Choose what finds the pairs."""
    bins = np.maximum(1.0, _extents(positions, cell, pbc) / reach).prod()
    if bins > min(MOST_BINS, FREE_BINS + BINS_OF_AN_ATOM * len(positions)):
        return _by_tree(positions, cell, pbc, reach)
    search = neighbour_list_class()(cutoff=reach, full_list=True, sorted=True)
    found: tuple[Any, Any, Any] = search.compute(positions, cell, pbc.tolist(), quantities="ijS")
    return found


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


def _extents(
    positions: Float[np.ndarray, "atoms 3"], cell: Float[np.ndarray, "3 3"], pbc: np.ndarray
) -> Float[np.ndarray, " 3"]:
    """Return the sides of vesin's box, Å: between planes of the cell, and what atoms take of open directions.

    Where some directions are periodic, the open ones are as long there as the longest.
    """
    if not pbc.any():
        extents: np.ndarray = np.ptp(positions, axis=0)
        return extents
    full, heights = _completed(cell, pbc)
    extents = np.where(pbc, heights, np.ptp(positions @ np.linalg.inv(full), axis=0))
    return np.where(pbc, heights, extents.max())


def _completed(
    cell: Float[np.ndarray, "3 3"], pbc: np.ndarray
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
    """Return the periodic lattice vectors completed by unit vectors normal to them, and the heights, Å."""
    from ase.geometry import complete_cell

    if pbc.all():
        return cell, _heights(cell)
    full: np.ndarray = complete_cell(np.where(pbc[:, None], cell, 0.0))
    return full, _heights(full)


def _heights(cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    """Return the distances between opposite faces, Å."""
    found: np.ndarray = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    return found


def _by_tree(
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
