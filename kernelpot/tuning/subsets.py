"""Parts of a training set for cheap fits: each inside the next, every family in each, duplicates never parted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from kernelpot.errors import ParameterError
from kernelpot.features.folds import folds, runs
from kernelpot.features.inducing import mean_vectors, species_of
from kernelpot.linalg.subsets import equal_vectors

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.descriptors.protocol import Descriptor

FEWEST = 40
"""Structures of the smallest part, where there are as many: fewer rank settings by chance."""


@dataclass(frozen=True, eq=False)
class Parts:
    """A training set with the order in which its units join.

    Attributes
    ----------
    unit
        What stays together, and counts as one witness: duplicates, and runs of neighbouring frames.
    family
        `config_type` of each structure, as a number.
    families
        Their names; "" where there is none.
    order
        Units, in the order of joining.
    """

    unit: Int[np.ndarray, " structures"]
    family: Int[np.ndarray, " structures"]
    families: tuple[str, ...]
    order: Int[np.ndarray, " units"]

    @classmethod
    def of(cls, structures: Sequence[Atoms], descriptor: Descriptor, *, n_folds: int, seed: int) -> Parts:
        """Find duplicates and runs, and shuffle them within their families.

        Parameters
        ----------
        structures
            The training set, frames of one trajectory in order.
        descriptor
            Tells duplicates.
        n_folds
            Folds that the units are to fill.
        seed
            Makes the order repeatable.
        """
        if descriptor.species is None:
            descriptor = descriptor.with_species(species_of(structures))
        n_atoms = np.array([len(atoms) for atoms in structures])
        same = equal_vectors(mean_vectors(descriptor, structures), n_atoms)
        unit = runs(same, min(n_folds, int(same.max()) + 1))
        names, family = np.unique([str(atoms.info.get("config_type", "")) for atoms in structures], return_inverse=True)
        return cls(unit, family, tuple(str(name) for name in names), _joining(unit, family, seed))

    def members(self, n: int) -> Int[np.ndarray, " members"]:
        """Return the structures of the first units that hold at least n structures, or of all."""
        sizes = np.bincount(self.unit)[self.order]
        count = min(len(sizes), int(np.searchsorted(np.cumsum(sizes), n)) + 1)
        result: np.ndarray = np.flatnonzero(np.isin(self.unit, self.order[:count]))
        return result

    def folds(self, members: Int[np.ndarray, " members"], n_folds: int, *, seed: int) -> Int[np.ndarray, " members"]:
        """Assign members to folds of whole units."""
        units = np.unique(self.unit[members], return_inverse=True)[1]
        return folds(units, min(n_folds, int(units.max()) + 1), seed=seed, run=1)

    def families_out(self, members: Int[np.ndarray, " members"]) -> Int[np.ndarray, " members"]:
        """Assign members to folds of one family each.

        Raises
        ------
        ParameterError
            There is one family only.
        """
        names, fold = np.unique(self.family[members], return_inverse=True)
        if len(names) < 2:
            raise ParameterError(
                '`objective="groups"` needs at least two groups of structures, named in `atoms.info["config_type"]`, '
                f'got {self.families[0]!r} alone; use "cv".'
            )
        result: np.ndarray = fold
        return result


def _joining(
    unit: Int[np.ndarray, " structures"], family: Int[np.ndarray, " structures"], seed: int
) -> Int[np.ndarray, " units"]:
    """Order units so that every stretch from the start holds each family in proportion, at least once."""
    units, first = np.unique(unit, return_index=True)
    shuffled = np.random.default_rng(seed).permutation(len(units))
    of_family = family[first][shuffled]
    rank = np.empty(len(units))
    for f in np.unique(of_family):
        mine = np.flatnonzero(of_family == f)
        rank[mine] = np.arange(len(mine)) / len(mine)
    result: np.ndarray = units[shuffled[np.argsort(rank, kind="stable")]]
    return result
