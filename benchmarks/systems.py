"""Structures that cases measure on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase.build import bulk

from benchmarks.datasets import VARIABLE, locate

if TYPE_CHECKING:
    from ase import Atoms

ALLOY = ("Cu", "Pd", "Ag", "Au")


class DataAbsentError(RuntimeError):
    """Real data that a case needs is not on this machine."""


def mlearn(element: str, part: str) -> list[Atoms]:
    """Read "train" or "test" of an element's published split.

    Raises
    ------
    DataAbsentError
        The file is not there.
    """
    import kernelpot as kp

    return kp.read(data(f"mlearn/{element}_{part}.xyz.xz"), verbose=False)


def data(relative: str) -> Path:
    """Find a file of real data, or say what to do."""
    path = locate(relative)
    if path is None:
        raise DataAbsentError(
            f"skipped: {relative} is absent; put it into ../shared/data or name its folder in {VARIABLE}"
        )
    return path


def silicon(repeat: int | tuple[int, int, int], *, seed: int = 0) -> Atoms:
    """Diamond silicon in 8-atom cells, every atom moved by 0.05 Å rms."""
    atoms = bulk("Si", "diamond", a=5.43, cubic=True).repeat(repeat)
    return moved(atoms, seed, 0.05)


def alloy(*, seed: int = 0) -> Atoms:
    """500 atoms of four metals at random on a face-centred lattice, every atom moved by 0.05 Å rms."""
    atoms = bulk("Cu", "fcc", a=4.0, cubic=True).repeat(5)
    atoms.set_chemical_symbols(list(np.random.default_rng(seed).permutation(np.resize(ALLOY, len(atoms)))))
    return moved(atoms, seed, 0.05)


def moved(atoms: Atoms, seed: int, size: float = 0.002) -> Atoms:
    """Copy a structure with every atom moved by a little, so that no cache can answer."""
    copy = atoms.copy()
    copy.positions += np.random.default_rng([seed, 99]).normal(0.0, size, copy.positions.shape)
    return copy
