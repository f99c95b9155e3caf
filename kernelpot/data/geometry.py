"""Frames whose geometry is broken: atoms far too close, torn out, or a whole cell blown up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from vesin import NeighborList

from kernelpot.data.check import check_structure
from kernelpot.errors import DataError, ParameterError

if TYPE_CHECKING:
    from ase import Atoms

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
