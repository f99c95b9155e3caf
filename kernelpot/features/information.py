"""Structures as blocks of information: whitened rows divided by their noise, one block per structure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.batch import Batch, over_batches
from kernelpot.data.labels import Labels
from kernelpot.data.noise import KINDS, Noise
from kernelpot.design.information import Information
from kernelpot.features.feature_map import E0_PRIOR, FeatureMap
from kernelpot.features.inducing import EnvironmentVectors, mean_vectors

if TYPE_CHECKING:
    from ase import Atoms


ATOMS_PER_BATCH = 256

Block = tuple[Float[np.ndarray, "rows d"], Int[np.ndarray, "rows"], Float[np.ndarray, "rows"]]


@dataclass(frozen=True, eq=False)
class LinearRows:
    """Rows whose product with the weights w ~ N(0, I) is a label less its species' constants.

    The columns are the whitened features times the amplitude, then one column per species: the counts of its atoms
    times `E0_PRIOR` in energies, zero in forces and stresses.
    """

    energy: Float[np.ndarray, "structures d"]  # of total energies, eV
    # of force components, eV/Å, one array per structure, atoms first, then x, y, z; empty where not asked for
    forces: tuple[Float[np.ndarray, "components d"], ...]
    # of stress components, eV/Å³, ASE's Voigt order; NaN without a cell, empty where not asked for
    stress: Float[np.ndarray, "structures 6 d"]

    def block(
        self, s: int, n_atoms: int, sigmas: Mapping[str, float], mask: Bool[np.ndarray, " components"] | None
    ) -> Block:
        """Return a structure's rows over their noise, with each row's kind and noise; an energy counts per atom."""
        parts, codes, noises = [np.empty((0, self.energy.shape[1]))], [], []
        for kind, sigma in sigmas.items():
            if kind == "energy":
                part = self.energy[s : s + 1] / n_atoms
            else:
                part = self.forces[s] if kind == "forces" else self.stress[s]
                if kind == "forces" and mask is not None:
                    part = part[mask]
            parts.append(part / sigma)
            codes.append(np.full(len(part), KINDS.index(kind)))
            noises.append(np.full(len(part), sigma))
        return (
            np.concatenate(parts),
            np.concatenate([*codes, np.empty(0, np.int64)]).astype(np.int64),
            np.concatenate([*noises, np.empty(0)]),
        )


def linear_rows(features: FeatureMap, batch: Batch, amplitude: float, kinds: Collection[str]) -> LinearRows:
    """Return the rows of a batch."""
    rows = features.rows(features.describe(batch), kinds)
    composition = batch.counts(features.species)
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

    def part(batch: Batch, _: int) -> LinearRows:
        return linear_rows(features, batch, amplitude, kinds)

    parts = list(over_batches(part, structures, features.cutoff, "rows", n_atoms=ATOMS_PER_BATCH))
    return LinearRows(
        np.concatenate([p.energy for p in parts]),
        tuple(block for p in parts for block in p.forces),
        np.concatenate([p.stress for p in parts]),
    )


def make_information(
    features: FeatureMap,
    structures: Sequence[Atoms],
    noise: Noise,
    amplitude: float,
    *,
    present: Labels | None,
    truncate: float,
    masks: Sequence[Bool[np.ndarray, " atoms"]] | None = None,
    factors: Mapping[str, Float[np.ndarray, " structures"]] = MappingProxyType({}),
) -> Information:
    """Return the blocks of structures, each compressed before the next is made.

    Where labels are `present`, those alone count; None counts every kind that has a noise. A mask says which atoms of
    a structure have forces, a factor what the noise of its labels is multiplied by.
    """

    def blocks_of(batch: Batch, start: int) -> list[Block]:
        rows = linear_rows(features, batch, amplitude, noise.kinds)
        flat = ~np.isfinite(batch.volumes)
        blocks = []
        for s in range(len(batch)):
            kinds = [
                kind
                for kind in noise.kinds
                if not (kind == "stress" and flat[s]) and (present is None or present.present(kind)[start + s])
            ]
            mask = None if masks is None else np.repeat(masks[start + s], 3)
            sigma = {kind: noise.sigma(kind) for kind in kinds}
            sigma |= {kind: sigma[kind] * float(factors[kind][start + s]) for kind in kinds if kind in factors}
            blocks.append(rows.block(s, int(batch.sizes[s]), sigma, mask))
        return blocks

    blocks = over_batches(blocks_of, structures, features.cutoff, "information", n_atoms=ATOMS_PER_BATCH)
    return Information.from_blocks(
        chain.from_iterable(blocks),
        n_atoms=np.array([len(atoms) for atoms in structures]),
        means=mean_vectors(features.descriptor, structures),
        groups=[str(atoms.info.get("config_type", "")) for atoms in structures],
        truncate=truncate,
        description={
            **{kind: noise.sigma(kind) for kind in noise.kinds},
            "amplitude": amplitude,
            "n_inducing": features.n_inducing,
            "truncate": truncate,
        },
        environments=EnvironmentVectors(features.descriptor, tuple(structures)),
    )
