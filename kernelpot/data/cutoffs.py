"""Cutoffs to start from, by the distances between atoms in the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from vesin import NeighborList

from kernelpot.data.check import check_structure, place
from kernelpot.errors import ParameterError

if TYPE_CHECKING:
    from ase import Atoms

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

    Parameters
    ----------
    structures
        Such as a training set; labels are not looked at.

    Returns
    -------
    dict of str to float
        Cutoff by chemical symbol, rounded to 0.05 Å.

    Raises
    ------
    ParameterError
        There is no structure.
    DataError
        A structure is unusable.
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
    search = NeighborList(cutoff=LONGEST, full_list=True)
    i, j, d = search.compute(atoms.positions, atoms.cell.array, [bool(b) for b in atoms.pbc], quantities="ijd")
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
