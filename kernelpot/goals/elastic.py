"""Elastic constants and bulk moduli as goals: central differences of stresses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kernelpot.errors import ParameterError
from kernelpot.goals.energies import bare, check_crystal
from kernelpot.goals.goal import Goal, Origin
from kernelpot.units import GPA, VOIGT

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP

ACCURACY = 1.0
"""Accuracy wanted of elastic constants and bulk moduli where none is given, GPa."""

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


def check_strain(strain: float) -> None:
    """Refuse strains that differences cannot be taken with."""
    if not 1e-5 <= strain <= LARGEST_STRAIN:
        raise ParameterError(f"`strain` must lie between 1e-5 and {LARGEST_STRAIN}, got {strain}; 0.01 is usual")


def check_pair(given: tuple[Atoms, Atoms], made: tuple[Atoms, Atoms], what: str) -> None:
    """Refuse cells whose ions may be relaxed but whose strain or composition is another one."""
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


def elastic_constants(
    space: SparseGP,
    crystal: Atoms,
    constants: Sequence[str] = ("C11", "C12", "C44"),
    *,
    strain: float = 0.01,
    relaxed: Pairs | None = None,
    scale: float = ACCURACY,
) -> Goal:
    """Make elastic constants a goal: C_ij = (σ_i(+ε_j) - σ_i(-ε_j))/2ε, in GPa.

    Ions follow the strain homogeneously: these are clamped-ion constants, unless relaxed cells are given. At a finite
    stress they are stress-strain coefficients (Wallace 1972), and C_ij may differ from C_ji.

    Parameters
    ----------
    space
        Prepared model.
    crystal
        At the volume of interest, its axes along x, y and z as the names mean them.
    constants
        "Cij" with i and j from 1 to 6: xx, yy, zz, yz, xz, xy.
    strain
        ε; of shears the engineering strain. The error of the difference is of order ε².
    relaxed
        Cells with relaxed ions in place of the homogeneous ones: (plus, minus) by Voigt component j.
        See `strained_pairs`.
    scale
        Accuracy wanted, GPa.

    Raises
    ------
    DataError
        The crystal is not one, or is broken.
    ParameterError
        A name, the strain or a relaxed cell is not what it should be.
    """
    check_crystal(crystal)
    check_strain(strain)
    wanted = []
    for name in constants:
        if len(name) != 3 or name[0] != "C" or not set(name[1:]) <= set("123456"):
            raise ParameterError(f'`constants` must be names such as "C11", "C12" or "C44", got {name!r}')
        wanted.append((int(name[1]), int(name[2])))
    if not wanted:
        raise ParameterError('`constants` must name at least one, such as "C11", got none')
    components = sorted({j for _, j in wanted})
    made = strained_pairs(crystal, strain, components)
    pairs = dict(made)
    for j, pair in (relaxed or {}).items():
        if j in made:
            check_pair(pair, made[j], f"component {j}")
            pairs[j] = pair
    cells = [atoms for j in components for atoms in pairs[j]]

    def slopes(stress: np.ndarray) -> np.ndarray:
        slope = (stress[0::2] - stress[1::2]) / (2 * strain * GPA)
        return np.stack([slope[components.index(j), i - 1] for i, j in wanted])

    rows = slopes(space.linear_rows(cells, ("stress",)).stress)
    known = slopes(space.baseline_share(cells).stress)
    return Goal(tuple(constants), ("GPa",) * len(rows), rows, np.full(len(rows), scale), Origin.of(space), known)


def bulk_modulus(
    space: SparseGP,
    crystal: Atoms,
    *,
    strain: float = 0.005,
    relaxed: tuple[Atoms, Atoms] | None = None,
    scale: float = ACCURACY,
) -> Goal:
    """Make the bulk modulus a goal: B = -V dP/dV by a central difference over ln V, in GPa.

    Parameters
    ----------
    space
        Prepared model.
    crystal
        At the volume of interest.
    strain
        Linear strain to either side, the same in all directions.
    relaxed
        The two cells (plus, minus) with relaxed ions, in place of the homogeneous ones.
    scale
        Accuracy wanted, GPa.

    Raises
    ------
    DataError
        The crystal is not one, or is broken.
    ParameterError
        The strain or a relaxed cell is not what it should be.
    """
    check_strain(strain)
    made = (dilated(crystal, strain), dilated(crystal, -strain))
    if relaxed is not None:
        check_pair(relaxed, made, "the bulk modulus")
    cells = list(relaxed or made)
    width = 3 * np.log((1 + strain) / (1 - strain)) * GPA

    def modulus(stress: np.ndarray) -> np.ndarray:
        pressure = -stress[:, :3].mean(axis=1)
        return np.atleast_1d(-(pressure[0] - pressure[1]) / width)

    row = modulus(space.linear_rows(cells, ("stress",)).stress)
    known = modulus(space.baseline_share(cells).stress)
    return Goal(("B",), ("GPa",), row[None], np.array([scale]), Origin.of(space), known)
