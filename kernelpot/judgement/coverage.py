"""Which elements and environments of a pool a training set leaves undetermined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.data.check import check_species
from kernelpot.data.stream import structure_list
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.errors import ParameterError
from kernelpot.features.feature_map import Described, FeatureMap, dense_local_values
from kernelpot.features.inducing import chunks

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP


@dataclass(frozen=True, eq=False)
class SpeciesCoverage:
    """How well the environments of one element are known.

    Parameters
    ----------
    number
        Atomic number.
    in_train, in_pool
        Atoms of the element in the training set and in the pool.
    share
        Mean over the pool's environments of posterior over prior standard deviation of the local energy, relative to
        the element's mean environment: 1 means that nothing is known. Constants that no label can tell from the
        energy of the free atom drop out.
    spread
        Root mean square of that posterior standard deviation, eV.
    unseen
        Mean share of an environment's prior variance that no inducing environment sees.
    """

    number: int
    in_train: int
    in_pool: int
    share: float
    spread: float
    unseen: float


@dataclass(frozen=True, eq=False)
class Coverage:
    """What a training set says about the environments of a pool.

    Parameters
    ----------
    species
        One entry per element of the pool.
    least_known
        ``(structure, atom)`` in the pool of the environments with the largest posterior standard deviation, one per
        structure, worst first.
    least_known_std
        Those standard deviations, eV.
    compositions, needed
        Independent compositions among the training set's energies, and among those of training set and pool
        together: fewer mean that energies of some elements cannot be told apart.
    """

    species: tuple[SpeciesCoverage, ...]
    least_known: Int[np.ndarray, "worst 2"]
    least_known_std: Float[np.ndarray, " worst"]
    compositions: int
    needed: int

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers."""
        return {
            "species": [vars(one) for one in self.species],
            "least_known": [
                {"structure": int(s), "atom": int(i), "std_eV": float(std)}
                for (s, i), std in zip(self.least_known, self.least_known_std, strict=True)
            ],
            "independent_compositions": {"train": self.compositions, "train_and_pool": self.needed},
        }


def coverage(
    space: SparseGP, train: Sequence[Atoms], pool: Sequence[Atoms], info: Information, *, worst: int = 10
) -> Coverage:
    """Tell which elements and environments of a pool a training set leaves undetermined. No label is looked at.

    Parameters
    ----------
    space
        A prepared or fitted model that knows the elements of both.
    train
        The training set.
    pool
        Structures whose environments matter.
    info
        ``space.information(train, ...)``: which labels of the training set count.
    worst
        How many environments to list.

    Raises
    ------
    NotFittedError
        The inducing environments are not fixed yet.
    ParameterError
        `info` is not that of `train`.
    """
    features, _, amplitude = space.plan()
    train, pool = structure_list(train), structure_list(pool)
    check_species(pool, features.species)
    check_species(train, features.species)
    if info.d != features.n_weights + len(features.species) or len(info) != len(train):
        raise ParameterError(
            f"`info` must be the information of `train` in this model ({len(train)} structures, "
            f"{features.n_weights + len(features.species)} weights), found {len(info)} and {info.d}."
        )
    seen = _Environments.of(features, pool, info, amplitude)
    species = tuple(
        _species(features, a, train, seen) for a in range(len(features.species)) if (seen.species == a).any()
    )
    places, std = seen.worst(worst)
    compositions, needed = _compositions(features.species, train, pool, info)
    return Coverage(species, places, std, compositions, needed)


@dataclass(frozen=True, eq=False)
class _Environments:
    """All environments of a pool: where they are, and what is known of their energies."""

    species: Int[np.ndarray, " atoms"]
    structure: Int[np.ndarray, " atoms"]
    atom: Int[np.ndarray, " atoms"]
    prior: Float[np.ndarray, " atoms"]
    posterior: Float[np.ndarray, " atoms"]
    unseen: Float[np.ndarray, " atoms"]

    @classmethod
    def of(cls, features: FeatureMap, pool: Sequence[Atoms], info: Information, amplitude: float) -> _Environments:
        """Two passes over the pool: the mean features of every element, then variances about them."""
        precision = Precision.prior(info.d).with_rows(info.rows)
        pieces = list(chunks(pool))
        sums = np.zeros((len(features.species), features.n_weights))
        number = np.zeros(len(features.species))
        for start, stop in pieces:
            described, phi = _phi(features, pool, start, stop)
            np.add.at(sums, described.species, phi)
            number += np.bincount(described.species, minlength=len(number))
        means = sums / np.maximum(number, 1.0)[:, None]
        found: list[tuple[np.ndarray, ...]] = []
        for start, stop in pieces:
            described, phi = _phi(features, pool, start, stop)
            rows = amplitude * (phi - means[described.species])
            rows = np.concatenate([rows, np.zeros((len(rows), len(features.species)))], axis=1)
            T = precision.whiten(rows)
            batch = described.batch
            found.append(
                (
                    described.species,
                    batch.structure + start,
                    np.arange(batch.n_atoms) - np.asarray(batch.offsets)[batch.structure],
                    np.einsum("rd,rd->r", rows, rows),
                    np.einsum("rd,rd->r", T, T),
                    _unseen(features, described, phi),
                )
            )
        return cls(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def worst(self, n: int) -> tuple[Int[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
        """Environments of largest posterior standard deviation, one per structure."""
        order = np.argsort(-self.posterior, kind="stable")
        first = np.unique(self.structure[order], return_index=True)[1]
        kept = order[np.sort(first)][:n]
        return np.stack([self.structure[kept], self.atom[kept]], axis=1), np.sqrt(self.posterior[kept])


def _phi(
    features: FeatureMap, structures: Sequence[Atoms], start: int, stop: int
) -> tuple[Described, Float[np.ndarray, "atoms d"]]:
    """Whitened features of every environment."""
    described = features.describe(Batch.from_structures(structures[start:stop], features.cutoff, start=start))
    return described, features.whiten(dense_local_values(features, described))


def _unseen(
    features: FeatureMap, described: Described, phi: Float[np.ndarray, "atoms d"]
) -> Float[np.ndarray, " atoms"]:
    """Share of every environment's prior variance that the features leave out."""
    prior = features.local_prior(described)
    seen = np.divide(np.einsum("rd,rd->r", phi, phi), prior, out=np.ones_like(prior), where=prior > 0.0)
    return np.clip(1.0 - seen, 0.0, 1.0)


def _species(features: FeatureMap, a: int, train: Sequence[Atoms], seen: _Environments) -> SpeciesCoverage:
    """Sum up one element."""
    z = features.species[a]
    mine = seen.species == a
    before, after = np.sqrt(seen.prior[mine]), np.sqrt(seen.posterior[mine])
    # An element with equal environments everywhere has no contrast: then nothing is left to learn.
    share = np.divide(after, before, out=np.zeros_like(after), where=before > 1e-12)
    return SpeciesCoverage(
        number=int(z),
        in_train=sum(int(np.count_nonzero(atoms.numbers == z)) for atoms in train),
        in_pool=int(mine.sum()),
        share=float(share.mean()),
        spread=float(np.sqrt(np.mean(after**2))),
        unseen=float(seen.unseen[mine].mean()),
    )


def _compositions(
    species: Sequence[int], train: Sequence[Atoms], pool: Sequence[Atoms], info: Information
) -> tuple[int, int]:
    """Rank of the compositions whose energies are labelled, and of all."""

    def shares(structures: Sequence[Atoms]) -> np.ndarray:
        return np.array([[np.count_nonzero(atoms.numbers == z) for z in species] for atoms in structures], dtype=float)

    here, there = shares(train), shares(pool)
    labelled = here[info.counts[:, 0] > 0]
    rank = int(np.linalg.matrix_rank(labelled)) if len(labelled) else 0
    return rank, int(np.linalg.matrix_rank(np.concatenate([labelled, there])))
