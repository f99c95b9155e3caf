"""Labels of structures as linear functionals of the whitened weights, E0 columns included, before any noise."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.features.feature_map import E0_PRIOR, FeatureMap, counts
from kernelpot.features.inducing import chunks
from kernelpot.progress import track
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_PER_BATCH = 256


@dataclass(frozen=True, eq=False)
class LinearRows:
    """Rows whose product with the weights w ~ N(0, I) is a label less its species' constants.

    The columns are the whitened features times the amplitude, then one column per species: the counts of its atoms
    times `E0_PRIOR` in energies, zero in forces and stresses.

    Attributes
    ----------
    energy
        Of total energies, eV.
    forces
        Of force components, eV/Å, one array per structure, atoms first, then x, y, z; empty where not asked for.
    stress
        Of stress components, eV/Å³, ASE's Voigt order; NaN without a cell, empty where not asked for.
    """

    energy: Float[np.ndarray, "structures d"]
    forces: tuple[Float[np.ndarray, "components d"], ...]
    stress: Float[np.ndarray, "structures 6 d"]


def linear_rows(features: FeatureMap, batch: Batch, amplitude: float, kinds: Collection[str]) -> LinearRows:
    """Return the rows of a batch.

    Parameters
    ----------
    features
        Feature map.
    batch
        Structures.
    amplitude
        Prior standard deviation of a local energy, eV.
    kinds
        Of labels; energies come whatever is asked for, as they cost next to nothing.
    """
    rows = features.rows(features.describe(batch), kinds)
    composition = counts(batch, features.species)
    n_species = composition.shape[1]

    def known(part: np.ndarray) -> np.ndarray:
        return np.concatenate([amplitude * features.whiten(part), np.zeros((len(part), n_species))], axis=1)

    energy = np.concatenate([amplitude * features.whiten(rows.energy), E0_PRIOR * composition], axis=1)
    d = energy.shape[1]
    forces = () if rows.forces is None else tuple(np.split(known(rows.forces), 3 * batch.offsets[1:-1]))
    stress = np.empty((0, 6, d)) if rows.stress is None else known(rows.stress).reshape(-1, 6, d)
    return LinearRows(energy, forces, stress)


def all_linear_rows(
    features: FeatureMap, structures: Sequence[Atoms], amplitude: float, kinds: Collection[str]
) -> LinearRows:
    """Return the rows of structures, batch by batch."""

    def part(piece: tuple[int, int]) -> LinearRows:
        batch = Batch.from_structures(structures[slice(*piece)], features.cutoff, start=piece[0])
        return linear_rows(features, batch, amplitude, kinds)

    parts = list(ordered(part, track(list(chunks(structures, ATOMS_PER_BATCH)), "rows")))
    return LinearRows(
        np.concatenate([p.energy for p in parts]),
        tuple(block for p in parts for block in p.forces),
        np.concatenate([p.stress for p in parts]),
    )
