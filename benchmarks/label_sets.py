"""Sets of the label-efficiency case: how each is described, thinned and split into pool and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.systems import data

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.descriptors.protocol import Descriptor

FRAMES_OF_A_RUN = 5
"""Neighbouring frames of molecular dynamics that stay on one side of a split."""

PUBLISHED = -1
"""Number of the split that takes the published training and test files as they are."""

FOLDS = 4
"""One part of four is held out."""


@dataclass(frozen=True)
class LabelSet:
    """A set of structures and the descriptor it is seen with; lengths in Å.

    Attributes
    ----------
    files
        Read one after another; the pool and the held-out structures come from them.
    published
        Files of a published test set, for the final run alone.
    at_most
        Structures drawn per split where the files hold more.
    single
        Groups whose frames do not follow one another in time; all other frames are split in runs of neighbours.
    """

    files: tuple[str, ...]
    cutoff: float
    published: tuple[str, ...] = ()
    n_max: int = 8
    l_max: int = 6
    at_most: int = 100_000
    n_inducing: int = 300
    single: tuple[str, ...] = ("Elastic", "Surface")


SETS = {
    "Si": LabelSet(("mlearn/Si_train",), 5.0, ("mlearn/Si_test",)),
    "Ge": LabelSet(("mlearn/Ge_train",), 5.4, ("mlearn/Ge_test",)),
    "Li": LabelSet(("mlearn/Li_train",), 5.5, ("mlearn/Li_test",)),
    "Ni": LabelSet(("mlearn/Ni_train",), 4.2, ("mlearn/Ni_test",), at_most=220),
    "ethanol": LabelSet(("rmd17/ethanol_train",), 4.0, n_max=6, l_max=4, at_most=400),
    "acac": LabelSet(("acac/train_300K", "acac/train_600K"), 4.0, n_max=6, l_max=4, at_most=400),
    "AgPd": LabelSet(("agpd/AgPd_bulk_master",), 5.0, n_max=6, l_max=4, at_most=400),
    "Ta": LabelSet(("ta_snap/ta_all",), 4.7, single=("Displaced", "Elastic", "GSF", "Surface", "Volume")),
}


@dataclass(frozen=True, eq=False)
class Split:
    """Structures of one split; the first `n_pool` are the pool, the rest are held out."""

    structures: list[Atoms]
    n_pool: int
    descriptor: Descriptor


def read(files: tuple[str, ...]) -> list[Atoms]:
    """Read files of a set.

    Raises
    ------
    DataAbsentError
        A file is not there.
    """
    import kernelpot as kp

    return [atoms for name in files for atoms in kp.read(data(f"{name}.xyz.xz"), verbose=False)]


def split(known: LabelSet, number: int) -> Split:
    """Make one split: duplicates stay together, and so do runs of neighbouring frames.

    Parameters
    ----------
    known
        The set.
    number
        Seed of the draw and of the folds, or `PUBLISHED`.
    """
    import kernelpot as kp
    from kernelpot.data.stream import species_of
    from kernelpot.features.inducing import mean_vectors

    structures = read(known.files)
    if number != PUBLISHED and len(structures) > known.at_most:
        rng = np.random.default_rng([17, max(number, 0)])
        structures = [structures[k] for k in np.sort(rng.permutation(len(structures))[: known.at_most])]
    soap = kp.SOAP(cutoff=known.cutoff, n_max=known.n_max, l_max=known.l_max)
    descriptor = soap.with_species(species_of(structures))
    if number == PUBLISHED:
        test = read(known.published)
        return Split(structures + test, len(structures), descriptor)
    sizes = np.array([len(atoms) for atoms in structures])
    names = [str(atoms.info.get("config_type", "")) for atoms in structures]
    in_run = np.array([not name.startswith(known.single) for name in names])
    held_out = held(mean_vectors(descriptor, structures), sizes, in_run, number)
    order = [*np.flatnonzero(~held_out), *np.flatnonzero(held_out)]
    return Split([structures[k] for k in order], int((~held_out).sum()), descriptor)


def held(means: np.ndarray, sizes: np.ndarray, in_run: np.ndarray, number: int) -> np.ndarray:
    """Mark the structures that a split holds out.

    Parameters
    ----------
    means, sizes
        Mean descriptors and numbers of atoms, which tell duplicates.
    in_run
        Whether a structure's neighbours in the list are its neighbours in time.
    number
        Seed of the split.
    """
    from kernelpot.linalg.subsets import equal_vectors

    groups = equal_vectors(means, sizes)
    first = np.unique(groups, return_index=True)[1]
    blocks = np.empty(len(first), dtype=np.int64)
    moving = in_run[first]
    blocks[moving] = np.arange(moving.sum()) // FRAMES_OF_A_RUN
    blocks[~moving] = len(first) + np.arange((~moving).sum())
    _, blocks = np.unique(blocks, return_inverse=True)
    order = np.random.default_rng(number).permutation(int(blocks.max()) + 1)
    counts = np.bincount(blocks[groups])
    wanted = len(sizes) / FOLDS
    taken = order[np.cumsum(counts[order]) - counts[order] / 2 <= wanted]
    return np.isin(blocks[groups], taken)
