"""Energies, their differences, and forces as goals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from kernelpot.errors import DataError, ParameterError
from kernelpot.goals.goal import EnergySums, Goal, Origin
from kernelpot.units import GPA

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP

J_PER_M2 = 10.0 * GPA
"""One J/m² in eV/Å²."""

DEFECT = 0.01
"""Accuracy wanted of defect energies, energy differences and barriers where none is given, eV."""

SURFACE = 0.005
"""Accuracy wanted of surface energies where none is given, J/m²."""

FORCE = 0.05
"""Accuracy wanted of force components where none is given, eV/Å."""

PER_ATOM = 0.001
"""Accuracy wanted of total energies where none is given, eV/atom."""


def energies(
    space: SparseGP,
    structures: Sequence[Atoms],
    coefficients: Float[np.ndarray, "q structures"] | Sequence[float] | Sequence[Sequence[float]],
    *,
    names: Sequence[str],
    units: str = "eV",
    scale: float | Sequence[float] = DEFECT,
) -> Goal:
    """Make sums of total energies a goal: reaction energies, formation energies, whatever is Σ coefficient · energy.

    Parameters
    ----------
    space
        Prepared model.
    structures
        Whose energies are added up.
    coefficients
        One for each structure; one row for each quantity where there are several.
    names, units
        Of the quantities.
    scale
        Accuracy wanted, in their unit.

    Raises
    ------
    ParameterError
        The coefficients do not fit the structures or the names.
    """
    factors = np.atleast_2d(np.asarray(coefficients, dtype=np.float64))
    if factors.shape != (len(names), len(structures)):
        raise ParameterError(
            f"`coefficients` must hold {len(names)} rows of {len(structures)} numbers, one for each structure, got the "
            f"shape {factors.shape}"
        )
    rows = factors @ space.linear_rows(structures, ("energy",)).energy
    scales = np.broadcast_to(np.asarray(scale, dtype=np.float64), (len(names),))
    known = factors @ space.baseline_share(structures).energy
    sums = EnergySums(tuple(structures), factors)
    return Goal(tuple(names), (units,) * len(names), rows, scales, Origin.of(space), known, sums)


def total_energy(space: SparseGP, atoms: Atoms, *, name: str = "E", scale: float | None = None) -> Goal:
    """Make the total energy of a structure a goal, eV; the accuracy is 1 meV an atom where none is given."""
    return energies(space, [atoms], [1.0], names=(name,), scale=PER_ATOM * len(atoms) if scale is None else scale)


def energy_difference(space: SparseGP, a: Atoms, b: Atoms, *, name: str = "E_b - E_a", scale: float = DEFECT) -> Goal:
    """Make E_b - E_a of two structures of one composition a goal, eV.

    Raises
    ------
    DataError
        The compositions differ: say with `energies` what makes up the balance.
    """
    _same_atoms([a, b])
    return energies(space, [a, b], [-1.0, 1.0], names=(name,), scale=scale)


def barrier(space: SparseGP, path: Sequence[Atoms], *, scale: float = DEFECT) -> Goal:
    """Make the energies along a path, less that of its first image, a goal, eV.

    The barrier is the largest of them; which image that is need not be known.

    Parameters
    ----------
    space
        Prepared model.
    path
        Images, at least two, each of the same atoms.
    scale
        Accuracy wanted of each image.
    """
    images = list(path)
    if len(images) < 2:
        raise ParameterError(f"`path` must hold at least two images, got {len(images)}")
    _same_atoms(images)
    n = len(images) - 1
    coefficients = np.concatenate([-np.ones((n, 1)), np.eye(n)], axis=1)
    return energies(space, images, coefficients, names=[f"image {k}" for k in range(1, n + 1)], scale=scale)


def vacancy_energy(
    space: SparseGP, bulk: Atoms, vacancy: Atoms | None = None, *, site: int = 0, scale: float = DEFECT
) -> Goal:
    """Make a vacancy's formation energy a goal: E_vac - (N_vac/N_bulk) E_bulk, eV.

    Parameters
    ----------
    space
        Prepared model.
    bulk
        The perfect crystal.
    vacancy
        The cell with the vacancy, relaxed or not. None: `bulk` without the atom `site`, not relaxed.
    site
        Number of the atom to take out, from 0.
    scale
        Accuracy wanted, eV.

    Raises
    ------
    DataError
        The composition of the two differs, as for a vacancy in a compound: its energy needs chemical potentials, so
        say with `energies` what it is.
    """
    defect = _hollow(bulk, site) if vacancy is None else vacancy
    share = _proportion(defect, bulk)
    return energies(space, [defect, bulk], [1.0, -share], names=("E_vac",), scale=scale)


def surface_energy(space: SparseGP, slab: Atoms, bulk: Atoms, *, axis: int = 2, scale: float = SURFACE) -> Goal:
    """Make a surface energy a goal: (E_slab - (N_slab/N_bulk) E_bulk)/2A, J/m².

    Parameters
    ----------
    space
        Prepared model.
    slab
        With two equal surfaces.
    bulk
        The crystal it is cut from, of the same composition.
    axis
        Cell vector that leaves the surface's plane, 0 to 2.
    scale
        Accuracy wanted, J/m².

    Raises
    ------
    DataError
        The compositions differ, or the slab's plane has no area.
    """
    if axis not in (0, 1, 2):
        raise ParameterError(f"`axis` must be 0, 1 or 2, got {axis!r}")
    share = _proportion(slab, bulk)
    a, b = (slab.cell.array[k] for k in range(3) if k != axis)
    area = float(np.linalg.norm(np.cross(a, b)))
    if not area > 0:
        raise DataError(f"{slab.symbols}: a slab needs two cell vectors in its plane, found {slab.cell.tolist()}")
    factor = 1.0 / (2.0 * area * J_PER_M2)
    return energies(
        space, [slab, bulk], [factor, -factor * share], names=("gamma",), units="J/m²", scale=scale
    )  # fmt: skip


def forces_on(
    space: SparseGP, atoms: Atoms, region: Sequence[int] | np.ndarray | None = None, *, scale: float = FORCE
) -> Goal:
    """Make the forces on some atoms of a structure a goal, eV/Å.

    Parameters
    ----------
    space
        Prepared model.
    atoms
        The structure.
    region
        Numbers of the atoms, from 0, or a mask; None is all.
    scale
        Accuracy wanted of each component.

    Raises
    ------
    ParameterError
        The region is empty or names an atom that is not there.
    """
    chosen = np.arange(len(atoms)) if region is None else np.asarray(region)
    if chosen.dtype == bool and chosen.shape == (len(atoms),):
        chosen = np.flatnonzero(chosen)
    if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind not in "iu":
        raise ParameterError("`region` must hold the numbers of some atoms, or a mask with one flag for each atom")
    if chosen.min() < 0 or chosen.max() >= len(atoms):
        raise ParameterError(f"`region` must name atoms 0 to {len(atoms) - 1}, got {chosen.min()} to {chosen.max()}")
    rows = space.linear_rows([atoms], ("forces",)).forces[0].reshape(len(atoms), 3, -1)[chosen]
    names = [f"F_{axis} of {atoms.symbols[i]} {i}" for i in chosen for axis in "xyz"]
    flat = rows.reshape(len(names), -1)
    known = space.baseline_share([atoms]).forces[chosen].ravel()
    return Goal(tuple(names), ("eV/Å",) * len(names), flat, np.full(len(names), scale), Origin.of(space), known)


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


_hollow = vacancy  # where an argument has its name


def bare(atoms: Atoms) -> Atoms:
    """Copy atoms without calculator, constraints or notes."""
    copy = atoms.copy()
    copy.set_constraint()
    copy.info.clear()
    return copy


def check_crystal(atoms: Atoms) -> None:
    """Refuse what is not a crystal."""
    if not bool(np.all(atoms.pbc)) or atoms.cell.rank < 3:
        flags = "".join("T" if flag else "F" for flag in atoms.pbc)
        raise DataError(
            f"{atoms.symbols}: a crystal must be periodic in three directions with a cell that spans a volume, found "
            f"pbc {flags} and a cell of rank {atoms.cell.rank}; give the cell and set pbc=True"
        )


def _same_atoms(structures: Sequence[Atoms]) -> None:
    for k, atoms in enumerate(structures):
        if sorted(atoms.numbers) != sorted(structures[0].numbers):
            raise DataError(
                f"energies can be compared only for one composition: structure 0 is {structures[0].symbols}, structure "
                f"{k} is {atoms.symbols}; say with `goals.energies` what makes up the balance"
            )


def _proportion(part: Atoms, whole: Atoms) -> float:
    """How many cells of `whole` make up `part`."""
    species = np.unique(np.concatenate([part.numbers, whole.numbers]))
    mine, theirs = ([np.count_nonzero(a.numbers == z) for z in species] for a in (part, whole))
    if not len(whole) or not np.array_equal(np.multiply(mine, len(whole)), np.multiply(theirs, len(part))):
        raise DataError(
            f"{part.symbols} is no multiple of {whole.symbols}: the energy of the balance must be said; "
            "give coefficients for every structure to `goals.energies`"
        )
    return len(part) / len(whole)
