"""Refusal of structures that no potential can use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from kernelpot.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms
from dataclasses import dataclass

from vesin import NeighborList

from kernelpot.errors import ParameterError

SOURCE = "kernelpot_source"
"""Name in `atoms.info` of the file and number (from 0) a structure was read from, e.g. "train.xyz@5"."""

OVERLAP = 0.1
"""Distance in Å below which two atoms are taken for a mistake; the shortest bond, in H2, has 0.74 Å."""

EXTENT = 1e5
"""Largest coordinate or cell vector in Å; beyond it neighbour lists overflow, and units are wrong."""

HEAVIEST = 118


def place(atoms: Atoms, number: int, source: str | None = None) -> str:
    """Name a structure for messages.

    Parameters
    ----------
    atoms
        The structure; one that `kernelpot.read` made knows its file.
    number
        Its place in the list it came with, counted from 0.
    source
        Name of that list, where it has one.
    """
    if SOURCE in atoms.info:
        return str(atoms.info[SOURCE])
    return f"structure {number} (from 0)" if source is None else f"{source}@{number}"


def validate(structures: Sequence[Atoms], source: str | None = None) -> None:
    """Check the geometry of every structure.

    Parameters
    ----------
    structures
        Structures to check.
    source
        Name of the list for messages, e.g. a file.

    Raises
    ------
    DataError
        At the first structure that `check_structure` refuses.
    """
    for number, atoms in enumerate(structures):
        check_structure(atoms, place(atoms, number, source))


def check_structure(atoms: Atoms, where: str) -> None:
    """Check the geometry of one structure.

    Refused are: no atoms, dummy elements, coordinates or cell vectors that are not finite or longer than
    `EXTENT`, periodic directions whose cell vectors span no volume, and atoms closer than `OVERLAP` to
    another atom or to a periodic image.

    Parameters
    ----------
    atoms
        Structure to check; it may be periodic in any of the three directions.
    where
        Name of the structure, which begins the message.

    Raises
    ------
    DataError
        If any check fails.
    """
    positions, cell, pbc = np.asarray(atoms.positions), np.asarray(atoms.cell), np.asarray(atoms.pbc)
    if len(positions) == 0:
        raise DataError(f"{where}: a structure must have atoms, found none; remove it.")
    _check_numbers(atoms.numbers, where)
    _check_finite(positions, cell, where)
    if not pbc.any():
        _check_overlap(positions, np.arange(len(positions)), where)
        return
    cell = _periodic_cell(cell, pbc, where)
    _check_overlap(*_with_images(positions, cell, pbc), where)


def _check_numbers(numbers: Int[np.ndarray, " atoms"], where: str) -> None:
    wrong = np.flatnonzero((numbers < 1) | (numbers > HEAVIEST))
    if wrong.size:
        raise DataError(
            f"{where}: atomic numbers must be 1 to {HEAVIEST}, atom {wrong[0]} has {numbers[wrong[0]]}; "
            "name its element or remove the dummy atom."
        )


def _check_finite(positions: Float[np.ndarray, "atoms 3"], cell: Float[np.ndarray, "3 3"], where: str) -> None:
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


def _periodic_cell(cell: Float[np.ndarray, "3 3"], pbc: np.ndarray, where: str) -> Float[np.ndarray, "3 3"]:
    """Return the periodic cell vectors, completed by unit vectors normal to them; heights ≥ `OVERLAP`."""
    from ase.geometry import complete_cell, minkowski_reduce

    vectors = np.where(pbc[:, None], cell, 0.0)
    spread = np.linalg.svd(vectors[pbc], compute_uv=False)
    if spread[-1] <= 1e-10 * max(float(spread[0]), 1.0):
        flags = "".join("T" if flag else "F" for flag in pbc)
        raise DataError(
            f"{where}: periodic directions (pbc {flags}) must span a volume, found the cell {cell.tolist()}; "
            "give the cell, or set pbc=False."
        )
    full: Float[np.ndarray, "3 3"] = complete_cell(vectors)
    if _heights(full)[pbc].min() < OVERLAP:
        # A valid crystal may come in a needle of a cell: judge its most compact one.
        full = complete_cell(minkowski_reduce(vectors, pbc)[0])
        if (height := _heights(full)[pbc].min()) < OVERLAP:
            raise DataError(
                f"{where}: periodic images must be at least {OVERLAP} Å apart, found planes {height:.3g} Å "
                f"apart in the cell {cell.tolist()}; check the units of the cell."
            )
    return full


def _heights(cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    return 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)


def _with_images(
    positions: Float[np.ndarray, "atoms 3"], cell: Float[np.ndarray, "3 3"], pbc: np.ndarray
) -> tuple[Float[np.ndarray, "points 3"], Int[np.ndarray, " points"]]:
    """Wrap the atoms, add images just beyond the upper faces, and tell which atom each point belongs to."""
    scaled = positions @ np.linalg.inv(cell)
    scaled[:, pbc] -= np.floor(scaled[:, pbc])
    owner = np.arange(len(positions))
    margins = OVERLAP / _heights(cell)
    for axis in np.flatnonzero(pbc):
        near = scaled[:, axis] <= margins[axis]
        scaled = np.vstack([scaled, scaled[near] + np.eye(3)[axis]])
        owner = np.concatenate([owner, owner[near]])
    return scaled @ cell, owner


def _check_overlap(points: Float[np.ndarray, "points 3"], owner: Int[np.ndarray, " points"], where: str) -> None:
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


NOBLE = (2, 10, 18, 36, 54, 86)
"""Elements whose covalent radius says nothing about distances: theirs is taken as 0.6 van der Waals radii."""

NOBLE_SHARE = 0.6
NOBLE_DEFAULT = 2.0
_NEAR = 1.3
"""First reach of the search for neighbours, in sums of the largest radius: most atoms have one there."""


@dataclass(frozen=True)
class GeometryLimits:
    """What counts as broken, in sums of the two atoms' covalent radii (Cordero et al. 2008).

    Attributes
    ----------
    short
        Least distance of two atoms. In sums of radii H2 has 1.19, acetylacetone at 600 K goes down to
        0.80, compressed Ta of a SNAP training set to 0.56.
    alone
        Largest distance of an atom to the nearest other; van der Waals contacts have 1.5 to 2.
    blown_up
        Largest median over atoms of the distance to the nearest other; crystals of the large alkali metals have 1.15.

    Raises
    ------
    ParameterError
        They do not rise from short to blown_up to alone.
    """

    short: float = 0.5
    alone: float = 3.0
    blown_up: float = 2.2

    def __post_init__(self) -> None:
        """Check the order."""
        if not 0 <= self.short < self.blown_up <= self.alone < 10:
            raise ParameterError(
                f"limits must rise: 0 <= short < blown_up <= alone < 10, got {self.short}, {self.blown_up} and "
                f"{self.alone}"
            )


def broken(structures: Sequence[Atoms], limits: GeometryLimits | None = None) -> list[tuple[int, str]]:
    """List the structures whose geometry is broken, each with the reason.

    A structure of a single atom is never too lonely: it is the reference for an isolated atom. Vacuum is no fault
    either: distances are those to the nearest atom.

    Parameters
    ----------
    structures
        To look at; nothing is raised for one that `check_structure` would refuse: its message is the reason.
    limits
        What counts as broken; None takes the defaults.

    Returns
    -------
    list of (int, str)
        Number in the list, reason.
    """
    limits = limits or GeometryLimits()
    found = [(number, why(atoms, limits)) for number, atoms in enumerate(structures)]
    return [(number, reason) for number, reason in found if reason is not None]


def why(atoms: Atoms, limits: GeometryLimits) -> str | None:
    """Say why a structure's geometry is broken; None where it is not."""
    try:
        check_structure(atoms, "")
    except DataError as error:
        return str(error).removeprefix(": ")
    ratio, distance, partner = nearest(atoms, limits.alone)
    symbols = atoms.get_chemical_symbols()
    worst = int(np.argmin(ratio))
    if ratio[worst] < limits.short:
        other = int(partner[worst])
        return (
            f"atoms {worst} and {other} ({symbols[worst]}-{symbols[other]}, or images) are {distance[worst]:.3g} Å "
            f"apart, {ratio[worst]:.2f} of the sum of their covalent radii (limit {limits.short:g})"
        )
    if len(atoms) == 1:
        return None
    if np.median(ratio) > limits.blown_up:
        return (
            f"half of the atoms are farther from any other than {limits.blown_up:g} times the sum of covalent radii: "
            "the cell is blown up, or its units are wrong"
        )
    lonely = np.flatnonzero(~np.isfinite(ratio))
    if len(lonely):
        return (
            f"atom {lonely[0]} ({symbols[lonely[0]]}) is farther from any other than {limits.alone:g} times the sum of "
            f"covalent radii ({len(lonely)} such atoms)"
        )
    return None


def nearest(
    atoms: Atoms, largest: float
) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, " atoms"], Int[np.ndarray, " atoms"]]:
    """Return each atom's nearest other atom or image, in sums of covalent radii: ratio, distance in Å, number.

    Ratio and distance are infinite, the number -1, where there is none up to the ratio `largest`.
    """
    radius = radii()[atoms.numbers]
    ratio, distance = np.full((2, len(atoms)), np.inf)
    partner = np.full(len(atoms), -1)
    for reach in (_NEAR, largest):
        search = NeighborList(cutoff=2.0 * reach * float(radius.max()), full_list=True)
        i, j, d = search.compute(atoms.positions, atoms.cell.array, [bool(b) for b in atoms.pbc], quantities="ijd")
        r = d / (radius[i] + radius[j])
        order = np.lexsort((r, i))
        owner, first = np.unique(i[order], return_index=True)
        best = order[first]
        ratio[owner], distance[owner], partner[owner] = r[best], d[best], j[best]
        if np.isfinite(ratio).all() and ratio.max() <= reach:
            break
    far = ratio > largest
    ratio[far], distance[far], partner[far] = np.inf, np.inf, -1
    return ratio, distance, partner


def radii() -> Float[np.ndarray, " elements"]:
    """Return the covalent radius of every element, Å; of noble gases 0.6 van der Waals radii."""
    from ase.data import covalent_radii, vdw_radii

    result = np.array(covalent_radii, dtype=np.float64)
    for z in NOBLE:
        contact = vdw_radii[z] if np.isfinite(vdw_radii[z]) else NOBLE_DEFAULT
        result[z] = NOBLE_SHARE * contact
    return result
