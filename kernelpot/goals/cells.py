"""The cells that goals are made of: strained crystals and vacancies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from kernelpot.errors import DataError, ParameterError
from kernelpot.units import VOIGT

if TYPE_CHECKING:
    from ase import Atoms

Pairs = Mapping[int, tuple["Atoms", "Atoms"]]
LARGEST_STRAIN = 0.1
_CELL = 1e-4


def strained(crystal: Atoms, voigt: int, amount: float) -> Atoms:
    """Strain a crystal and its ions homogeneously, without rotation.

    Parameters
    ----------
    crystal
        Periodic in all three directions.
    voigt
        Component, 1 to 6: xx, yy, zz, yz, xz, xy.
    amount
        Strain of components 1 to 3; of 4 to 6 the engineering strain, twice the entry of the strain tensor.
    """
    check_crystal(crystal)
    if voigt not in range(1, 7):
        raise ParameterError(f"`voigt` must be 1 to 6 (xx, yy, zz, yz, xz, xy), got {voigt!r}")
    tensor = np.zeros((3, 3))
    a, b = VOIGT[voigt - 1]
    tensor[a, b] += amount / 2
    tensor[b, a] += amount / 2
    return _deformed(crystal, tensor)


def dilated(crystal: Atoms, amount: float) -> Atoms:
    """Strain a crystal by the same amount in all directions."""
    check_crystal(crystal)
    return _deformed(crystal, amount * np.eye(3))


def strained_pairs(crystal: Atoms, strain: float = 0.01, components: Iterable[int] = range(1, 7)) -> Pairs:
    """Return for each Voigt component the crystal strained by +strain and by -strain, ions not relaxed.

    Relax the ions in these cells by any means and hand them to `elastic_constants` as `relaxed`, to have relaxed-ion
    constants.
    """
    check_strain(strain)
    return {j: (strained(crystal, j, strain), strained(crystal, j, -strain)) for j in components}


def vacancy(bulk: Atoms, site: int = 0) -> Atoms:
    """Take one atom out of a bulk cell; the others stay where they are.

    Parameters
    ----------
    bulk
        A supercell: the vacancy sees its own images.
    site
        Number of the atom, from 0.
    """
    check_crystal(bulk)
    if not 0 <= site < len(bulk) or len(bulk) < 2:
        raise ParameterError(f"`site` must name one of at least two atoms, got {site} of {len(bulk)}")
    result = bare(bulk)
    del result[site]
    return result


def bare(atoms: Atoms) -> Atoms:
    """Copy atoms without calculator, constraints or notes."""
    copy = atoms.copy()
    copy.set_constraint()
    copy.info.clear()
    return copy


def check_crystal(atoms: Atoms) -> None:
    """Refuse what is not a crystal.

    Raises
    ------
    DataError
        The structure is not periodic in all three directions, or its cell spans no volume.
    """
    if not bool(np.all(atoms.pbc)) or atoms.cell.rank < 3:
        flags = "".join("T" if flag else "F" for flag in atoms.pbc)
        raise DataError(
            f"{atoms.symbols}: a crystal must be periodic in three directions with a cell that spans a volume, found "
            f"pbc {flags} and a cell of rank {atoms.cell.rank}; give the cell and set pbc=True"
        )


def check_strain(strain: float) -> None:
    """Refuse strains that differences cannot be taken with."""
    if not 1e-5 <= strain <= LARGEST_STRAIN:
        raise ParameterError(f"`strain` must lie between 1e-5 and {LARGEST_STRAIN}, got {strain}; 0.01 is usual")


def check_pair(given: tuple[Atoms, Atoms], made: tuple[Atoms, Atoms], what: str) -> None:
    """Refuse cells whose ions may be relaxed but whose strain or composition is another one.

    Raises
    ------
    ParameterError
        A cell or its atoms do not agree.
    """
    for mine, theirs in zip(made, given, strict=True):
        same = len(mine) == len(theirs) and sorted(mine.numbers) == sorted(theirs.numbers)
        error = np.abs(mine.cell.array - theirs.cell.array).max()
        if not same or not error <= _CELL * np.abs(mine.cell.array).max():
            raise ParameterError(
                f"`relaxed` of {what} must hold (plus, minus) cells of the crystal at this strain with relaxed ions, "
                f"found {theirs.symbols} in a cell that differs by {error:.2g} Å; relax those that strained_pairs makes"
            )


def _deformed(crystal: Atoms, tensor: np.ndarray) -> Atoms:
    result = bare(crystal)
    result.set_cell(crystal.cell.array @ (np.eye(3) + tensor), scale_atoms=True)
    return result
