"""Refusal of structures that no potential can use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from kernelpot.errors import DataError, SpeciesError

if TYPE_CHECKING:
    from ase import Atoms

SOURCE = "kernelpot_source"
"""Name in `atoms.info` of the file and number (from 0) a structure was read from, e.g. "train.xyz@5"."""

OVERLAP = 0.1
"""Distance in Å below which two atoms are taken for a mistake; the shortest bond, in H2, has 0.74 Å."""

EXTENT = 1e5
"""Largest coordinate or cell vector in Å; beyond it neighbour lists overflow, and units are wrong."""

HEAVIEST = 118


def place(atoms: Atoms, number: int, source: str | None = None) -> str:
    """Name a structure for messages."""
    if SOURCE in atoms.info:
        return str(atoms.info[SOURCE])
    return f"structure {number} (from 0)" if source is None else f"{source}@{number}"


def validate(structures: Sequence[Atoms], source: str | None = None) -> None:
    """Check the geometry of every structure."""
    for number, atoms in enumerate(structures):
        check_structure(atoms, place(atoms, number, source))


def check_structure(atoms: Atoms, where: str) -> None:
    """Check the geometry of one structure.

    Refused are: no atoms, dummy elements, coordinates or cell vectors that are not finite or longer than
    `EXTENT`, periodic directions whose cell vectors span no volume, and atoms closer than `OVERLAP` to
    another atom or to a periodic image.
    """
    positions, cell, pbc = np.asarray(atoms.positions), np.asarray(atoms.cell), np.asarray(atoms.pbc)
    if len(positions) == 0:
        raise DataError(f"{where}: a structure must have atoms, found none; remove it.")
    wrong = np.flatnonzero((atoms.numbers < 1) | (atoms.numbers > HEAVIEST))
    if wrong.size:
        raise DataError(
            f"{where}: atomic numbers must be 1 to {HEAVIEST}, atom {wrong[0]} has {atoms.numbers[wrong[0]]}; "
            "name its element or remove the dummy atom."
        )
    if not np.isfinite(cell).all():
        raise DataError(f"{where}: cell vectors must be finite, found {cell.tolist()}; repair the file.")
    wrong = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if wrong.size:
        raise DataError(
            f"{where}: positions must be finite, atom {wrong[0]} is at {positions[wrong[0]].tolist()}; "
            "repair or remove the structure."
        )
    largest = max(float(np.abs(positions).max()), float(np.abs(cell).max()))
    if largest > EXTENT:
        raise DataError(
            f"{where}: coordinates and cell vectors must be below {EXTENT:g} Å, found {largest:.4g}; "
            "check the units, or move the atoms into the cell."
        )
    points, owner = positions, np.arange(len(positions))
    if pbc.any():
        points, owner = _with_images(positions, cell, pbc, where)
    if len(points) < 2:
        return
    # A tree, as a cell list this fine needs millions of bins for a dilute structure.
    pairs = cKDTree(points).query_pairs(OVERLAP, output_type="ndarray")
    if len(pairs):
        distances = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
        worst = int(np.argmin(distances))
        first, second = sorted(int(owner[k]) for k in pairs[worst])
        raise DataError(
            f"{where}: atoms must be at least {OVERLAP} Å apart, atoms {first} and {second} (or images) "
            f"are {distances[worst]:.3g} Å apart; remove duplicated atoms, or check the cell and the units."
        )


def _heights(cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    return 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)


def _with_images(
    positions: Float[np.ndarray, "atoms 3"], cell: Float[np.ndarray, "3 3"], pbc: np.ndarray, where: str
) -> tuple[Float[np.ndarray, "points 3"], Int[np.ndarray, " points"]]:
    """Wrap the atoms, add images just beyond the upper faces, and tell which atom each point belongs to."""
    from ase.geometry import complete_cell, minkowski_reduce

    vectors = np.where(pbc[:, None], cell, 0.0)
    spread = np.linalg.svd(vectors[pbc], compute_uv=False)
    if spread[-1] <= 1e-10 * max(float(spread[0]), 1.0):
        flags = "".join("T" if flag else "F" for flag in pbc)
        raise DataError(
            f"{where}: periodic directions (pbc {flags}) must span a volume, found the cell {cell.tolist()}; "
            "give the cell, or set pbc=False."
        )
    # Completed by unit vectors normal to the periodic ones.
    full: Float[np.ndarray, "3 3"] = complete_cell(vectors)
    if _heights(full)[pbc].min() < OVERLAP:
        # A valid crystal may come in a needle of a cell: judge its most compact one.
        full = complete_cell(minkowski_reduce(vectors, pbc)[0])
        if (height := _heights(full)[pbc].min()) < OVERLAP:
            raise DataError(
                f"{where}: periodic images must be at least {OVERLAP} Å apart, found planes {height:.3g} Å "
                f"apart in the cell {cell.tolist()}; check the units of the cell."
            )
    scaled = positions @ np.linalg.inv(full)
    scaled[:, pbc] -= np.floor(scaled[:, pbc])
    owner = np.arange(len(positions))
    margins = OVERLAP / _heights(full)
    for axis in np.flatnonzero(pbc):
        near = scaled[:, axis] <= margins[axis]
        scaled = np.vstack([scaled, scaled[near] + np.eye(3)[axis]])
        owner = np.concatenate([owner, owner[near]])
    return scaled @ full, owner


def check_species(structures: Sequence[Atoms], known: Sequence[int]) -> None:
    """Refuse elements that a model has never seen, and say where they are."""
    from ase.data import chemical_symbols

    for number, atoms in enumerate(structures):
        strange = sorted({int(z) for z in atoms.numbers} - set(known))
        if strange and strange[0] > 0 and strange[-1] <= HEAVIEST:
            names = ", ".join(chemical_symbols[z] for z in strange)
            usable = ", ".join(chemical_symbols[z] for z in known)
            raise SpeciesError(
                f"{place(atoms, number)}: element {names} was never seen by this model (it knows {usable}); "
                "fit with structures that contain it."
            )
