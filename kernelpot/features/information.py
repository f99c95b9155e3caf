"""Structures as blocks of information: whitened rows divided by their noise, one block per structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.data.labels import Labels
from kernelpot.data.noise import KINDS, Noise
from kernelpot.design.information import Information
from kernelpot.features.feature_map import E0_PRIOR, KernelMap, counts
from kernelpot.features.inducing import EnvironmentVectors, chunks, mean_vectors
from kernelpot.features.rows import make_rows
from kernelpot.progress import track
from kernelpot.threads import ordered

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_PER_BATCH = 256

Block = tuple[Float[np.ndarray, "rows d"], Int[np.ndarray, "rows"], Float[np.ndarray, "rows"]]


def make_information(
    features: KernelMap,
    structures: Sequence[Atoms],
    noise: Noise,
    amplitude: float,
    *,
    present: Labels | None,
    truncate: float,
) -> Information:
    """Return the blocks of structures, each compressed before the next is made.

    Parameters
    ----------
    features
        Feature map.
    structures
        Candidates.
    noise, amplitude
        Standard deviations that rows are divided by, and the prior's, eV.
    present
        Labels that are there, to count only those; None counts every kind that has a noise.
    truncate
        Share of each kind's trace that a block may lose.
    """
    return Information.from_blocks(
        _blocks(features, structures, noise, amplitude, present),
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
    features: KernelMap, structures: Sequence[Atoms], noise: Noise, amplitude: float, present: Labels | None
) -> Iterator[Block]:
    def blocks_of(piece: tuple[int, int]) -> list[Block]:
        start, stop = piece
        batch = Batch.from_structures(structures[start:stop], features.descriptor.cutoff, start=start)
        rows = make_rows(features, features.describe(batch), noise.kinds)
        white = {"energy": features.whiten(rows.energy)}
        if rows.forces is not None:
            white["forces"] = features.whiten(rows.forces)
        if rows.stress is not None:
            white["stress"] = features.whiten(rows.stress)
        composition = counts(batch, features.species)
        return [
            _block(white, composition, batch, s, _kinds(batch, s, noise, present, start), noise, amplitude)
            for s in range(len(batch))
        ]

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
    white: dict[str, np.ndarray],
    composition: Float[np.ndarray, "structures species"],
    batch: Batch,
    s: int,
    kinds: Sequence[str],
    noise: Noise,
    amplitude: float,
) -> Block:
    n, a, b = batch.sizes[s], 3 * batch.offsets[s], 3 * batch.offsets[s + 1]
    where = {"energy": slice(s, s + 1), "forces": slice(a, b), "stress": slice(6 * s, 6 * s + 6)}
    rows, codes, sigmas = [np.empty((0, white["energy"].shape[1] + composition.shape[1]))], [], []
    for kind in kinds:
        part = amplitude * white[kind][where[kind]]
        e0 = np.zeros((len(part), composition.shape[1]))
        if kind == "energy":
            part, e0 = part / n, E0_PRIOR * composition[s : s + 1] / n
        sigma = noise.sigma(kind)
        rows.append(np.concatenate([part, e0], axis=1) / sigma)
        codes.append(np.full(len(part), KINDS.index(kind)))
        sigmas.append(np.full(len(part), sigma))
    return (
        np.concatenate(rows),
        np.concatenate([*codes, np.empty(0, np.int64)]).astype(np.int64),
        np.concatenate([*sigmas, np.empty(0)]),
    )
