"""Structures as blocks of information: whitened rows divided by their noise, one block per structure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.batch import Batch
from kernelpot.data.labels import Labels
from kernelpot.data.noise import KINDS, Noise
from kernelpot.design.information import Information
from kernelpot.features.feature_map import E0_PRIOR, FeatureMap, counts
from kernelpot.features.inducing import EnvironmentVectors, chunks, mean_vectors
from kernelpot.progress import track
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms


Block = tuple[Float[np.ndarray, "rows d"], Int[np.ndarray, "rows"], Float[np.ndarray, "rows"]]


def make_information(
    features: FeatureMap,
    structures: Sequence[Atoms],
    noise: Noise,
    amplitude: float,
    *,
    present: Labels | None,
    truncate: float,
    masks: Sequence[Bool[np.ndarray, " atoms"]] | None = None,
) -> Information:
    """Return the blocks of structures, each compressed before the next is made.

    Where labels are `present`, those alone count; None counts every kind that has a noise. A mask says which atoms of
    a structure have forces.
    """
    return Information.from_blocks(
        _blocks(features, structures, noise, amplitude, present, masks),
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


def _blocks(
    features: FeatureMap,
    structures: Sequence[Atoms],
    noise: Noise,
    amplitude: float,
    present: Labels | None,
    masks: Sequence[Bool[np.ndarray, " atoms"]] | None,
) -> Iterator[Block]:
    def blocks_of(piece: tuple[int, int]) -> list[Block]:
        start, stop = piece
        batch = Batch.from_structures(structures[start:stop], features.cutoff, start=start)
        rows = linear_rows(features, batch, amplitude, noise.kinds)
        return [
            _block(
                rows, batch, s, _kinds(batch, s, noise, present, start), noise,
                None if masks is None else np.repeat(masks[start + s], 3),
            )
            for s in range(len(batch))
        ]  # fmt: skip

    pieces = list(chunks(structures, ATOMS_PER_BATCH))
    for blocks in ordered(blocks_of, track(pieces, "information")):
        yield from blocks


def _kinds(batch: Batch, s: int, noise: Noise, present: Labels | None, start: int) -> list[str]:
    return [kind for kind in noise.kinds if _has(kind, batch, s, present, start)]


def _has(kind: str, batch: Batch, s: int, present: Labels | None, start: int) -> bool:
    if kind == "stress" and not np.isfinite(batch.volumes[s]):
        return False
    return present is None or bool(present.present(kind)[start + s])


def _block(
    rows: LinearRows,
    batch: Batch,
    s: int,
    kinds: Sequence[str],
    noise: Noise,
    mask: Bool[np.ndarray, " components"] | None,
) -> Block:
    parts, codes, sigmas = [np.empty((0, rows.energy.shape[1]))], [], []
    for kind in kinds:
        if kind == "energy":
            part = rows.energy[s : s + 1] / batch.sizes[s]
        else:
            part = rows.forces[s] if kind == "forces" else rows.stress[s]
            if kind == "forces" and mask is not None:
                part = part[mask]
        sigma = noise.sigma(kind)
        parts.append(part / sigma)
        codes.append(np.full(len(part), KINDS.index(kind)))
        sigmas.append(np.full(len(part), sigma))
    return (
        np.concatenate(parts),
        np.concatenate([*codes, np.empty(0, np.int64)]).astype(np.int64),
        np.concatenate([*sigmas, np.empty(0)]),
    )


ATOMS_PER_BATCH = 256


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


def linear_rows(features: FeatureMap, batch: Batch, amplitude: float, kinds: Collection[str]) -> LinearRows:
    """Return the rows of a batch."""
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
