"""What distances between atoms tell: frames whose geometry is broken, and cutoffs to start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import lengths, neighbours
from kernelpot.data.check import check_structure, place
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
    """What counts as broken, in sums of the two atoms' covalent radii (Cordero et al. 2008)."""

    # Least distance of two atoms. In sums of radii H2 has 1.19, acetylacetone at 600 K goes down to 0.80,
    # compressed Ta of a SNAP training set to 0.56.
    short: float = 0.5
    alone: float = 3.0  # Largest distance of an atom to the nearest other; van der Waals contacts have 1.5 to 2
    # Largest median over atoms of the distance to the nearest other; crystals of the large alkali metals have
    # 1.15
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
        i, j, images = neighbours(atoms, 2.0 * reach * float(radius.max()))
        d = lengths(atoms, i, j, images)
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


SPACINGS = 2.15
"""Cutoff over the typical distance to the nearest heavy atom."""

MOST_NEIGHBOURS = 40
"""No farther than to the typical 40th neighbour: close packing has more shells within the same distance.

Both by cross-validation on training sets. mlearn Si is best at 5.0 Å (the rule gives 4.95), Ge anywhere from 5.0 to 5.8
(5.3), Ni at 4.6 (4.45), Li from 5.5 on (5.7); AgPd gains little beyond 4.5 (5.05); ethanol, toluene and acetylacetone
are best at 3.0 (3.5).
"""

SHORTEST, LONGEST = 3.5, 6.5
"""Range of the cutoffs, Å."""

LONELY = 5.0
"""Cutoff for an element that no structure has a neighbour for, Å."""

HYDROGEN = 1


def element_cutoffs(structures: Sequence[Atoms]) -> dict[str, float]:
    """Return a cutoff for each element, Å: 2.15 times its median distance to the nearest heavy atom.

    It is at most the median distance of the 40th neighbour, and from 3.5 to 6.5. Heavy is all but hydrogen, whose bonds
    of 1 Å say nothing about the spacing of molecules: liquid water gets 6 Å by its 2.8 Å between oxygen atoms, ethanol
    3.5 Å. In structures of hydrogen alone it counts.
    """
    from ase.data import chemical_symbols

    if hasattr(structures, "positions") or len(structures) == 0:
        raise ParameterError("`structures` must be a list of at least one ase.Atoms; write [atoms] for a single one.")
    for number, atoms in enumerate(structures):
        check_structure(atoms, place(atoms, number))
    numbers = np.concatenate([atoms.numbers for atoms in structures])
    found = [_distances(atoms) for atoms in structures]
    heavy, fortieth = (np.concatenate([pair[k] for pair in found]) for k in range(2))
    result = {}
    for z in np.unique(numbers):
        mine = heavy[(numbers == z) & np.isfinite(heavy)]
        cutoff = SPACINGS * float(np.median(mine)) if len(mine) else LONELY
        cutoff = float(np.clip(min(cutoff, np.median(fortieth[numbers == z])), SHORTEST, LONGEST))
        result[chemical_symbols[int(z)]] = round(20.0 * cutoff) / 20.0
    return result


def default_cutoff(structures: Sequence[Atoms]) -> float:
    """Return a cutoff to start from, Å: the largest of `element_cutoffs`, as one SOAP serves all elements.

    Parameters
    ----------
    structures
        Such as a training set; labels are not looked at.

    Raises
    ------
    ParameterError
        There is no structure.
    DataError
        A structure is unusable.
    """
    return max(element_cutoffs(structures).values())


def _distances(atoms: Atoms) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, " atoms"]]:
    """Return each atom's distance to the nearest other heavy atom or image, and to its 40th neighbour.

    They are infinite where they are beyond `LONGEST`: both limits are then the same.
    """
    i, j, images = neighbours(atoms, LONGEST)
    d = lengths(atoms, i, j, images)
    heavy = atoms.numbers != HYDROGEN
    kept = heavy[j] if heavy.any() else np.ones(len(j), dtype=bool)
    nearest, fortieth = np.full((2, len(atoms)), np.inf)
    np.minimum.at(nearest, i[kept], d[kept])
    order = np.lexsort((d, i))
    count = np.bincount(i, minlength=len(atoms))
    many = np.flatnonzero(count >= MOST_NEIGHBOURS)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    fortieth[many] = d[order][start[many] + MOST_NEIGHBOURS - 1]
    return nearest, fortieth
