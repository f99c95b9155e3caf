"""Small seeded structures for tests, with labels from cheap potentials."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import add_vacuum, bulk, fcc111, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

KINDS = ("energy", "forces", "stress")


def shaken(atoms: Atoms, seed: int, rattle: float = 0.1, strain: float = 0.03) -> Atoms:
    """Displace every atom and, where there is a cell, strain it; both at random."""
    rng = np.random.default_rng(seed)
    result = atoms.copy()
    if result.cell.rank == 3:
        result.set_cell(result.cell.array @ (np.eye(3) + rng.normal(scale=strain, size=(3, 3))), scale_atoms=True)
    result.positions += rng.normal(scale=rattle, size=(len(atoms), 3))
    return result


def silicon(seed: int = 0) -> Atoms:
    """Diamond, 8 atoms, rattled."""
    return shaken(bulk("Si", "diamond", a=5.43, cubic=True), seed)


def copper(seed: int = 0) -> Atoms:
    """Face-centred cubic, 4 atoms, rattled."""
    return shaken(bulk("Cu", "fcc", a=3.65, cubic=True), seed)


def copper_gold(seed: int = 0) -> Atoms:
    """Cu3Au or CuAu on a rattled fcc cell of 4 atoms."""
    atoms = bulk("Cu", "fcc", a=3.85, cubic=True)
    atoms.symbols[: 1 + seed % 2] = "Au"
    return shaken(atoms, seed)


def four_metals(seed: int = 0) -> Atoms:
    """CuPdAgAu on a rattled fcc cell."""
    atoms = bulk("Ag", "fcc", a=4.0, cubic=True)
    atoms.symbols = np.random.default_rng(seed).permutation(["Cu", "Pd", "Ag", "Au"])
    return shaken(atoms, seed)


def ethanol(seed: int = 0) -> Atoms:
    """A molecule without a cell, rattled."""
    return shaken(molecule("CH3CH2OH"), seed, rattle=0.05)


def slab(seed: int = 0) -> Atoms:
    """A rattled Cu surface with one Au atom, periodic in two directions, in a cell of three."""
    atoms = fcc111("Cu", size=(2, 1, 3), vacuum=4.0)
    add_vacuum(atoms, 1.0)
    atoms.symbols[-1] = "Au"
    atoms.pbc = (True, True, False)
    return shaken(atoms, seed)


def isolated(symbol: str = "Cu") -> Atoms:
    """One atom in empty space."""
    return Atoms(symbol)


def tiny_cell(seed: int = 0) -> Atoms:
    """One atom in a sheared cell far smaller than any cutoff."""
    return shaken(bulk("Cu", "fcc", a=3.6), seed)


def labelled(
    structures: Sequence[Atoms], kinds: Sequence[str] = KINDS, calculator: Calculator | None = None
) -> list[Atoms]:
    """Return copies with EMT labels (or another calculator's); stress only where the structure is a crystal."""
    result = []
    for atoms in structures:
        source, copy = atoms.copy(), atoms.copy()
        source.calc = EMT() if calculator is None else calculator
        values = {}
        if "energy" in kinds:
            values["energy"] = source.get_potential_energy()
        if "forces" in kinds:
            values["forces"] = source.get_forces()
        if "stress" in kinds and source.pbc.all():
            values["stress"] = source.get_stress()
        copy.calc = SinglePointCalculator(copy, **values)
        result.append(copy)
    return result


def copper_gold_set(n: int = 8, seed: int = 0, kinds: Sequence[str] = KINDS) -> list[Atoms]:
    """Label n different Cu-Au crystals of 4 atoms by EMT."""
    return labelled([copper_gold(100 * seed + k) for k in range(n)], kinds)


def silicon_set(n: int = 6, seed: int = 0) -> list[Atoms]:
    """Label n Si crystals by a Lennard-Jones stand-in."""
    stand_in = LennardJones(sigma=2.1, epsilon=0.5, rc=4.5, smooth=True)
    return labelled([silicon(100 * seed + k) for k in range(n)], calculator=stand_in)


def rotation(seed: int) -> np.ndarray:
    """Draw a rotation matrix."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def turned(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    """Rotate positions and cell; labels are dropped."""
    result = atoms.copy()
    result.set_cell(atoms.cell.array @ matrix.T, scale_atoms=False)
    result.positions = atoms.positions @ matrix.T
    return result
