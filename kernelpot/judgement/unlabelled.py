"""What structures without labels tell: frames that look broken, environments that a training set leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.data.check import check_species, place
from kernelpot.data.geometry import GeometryLimits, broken
from kernelpot.data.stream import chunks, species_of, structure_list
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.design.advice.screen import FACTOR, distant
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.errors import ParameterError
from kernelpot.features.feature_map import Described, FeatureMap, dense_local_values
from kernelpot.features.inducing import mean_vectors
from kernelpot.potentials.training import composition_of

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP


@dataclass(frozen=True, eq=False)
class SpeciesCoverage:
    """How well the environments of one element are known."""

    number: int  # Atomic number
    in_train: int  # in_train, in_pool: Atoms of the element in the training set and in the pool
    in_pool: int
    # Mean over the pool's environments of posterior over prior standard deviation of the local energy,
    # relative to the element's mean environment: 1 means that nothing is known. Constants that no label can
    # tell from the energy of the free atom drop out.
    share: float
    spread: float  # Root mean square of that posterior standard deviation, eV
    unseen: float  # Mean share of an environment's prior variance that no inducing environment sees


@dataclass(frozen=True, eq=False)
class Coverage:
    """What a training set says about the environments of a pool."""

    species: tuple[SpeciesCoverage, ...]  # One entry per element of the pool
    # ``(structure, atom)`` in the pool of the environments with the largest posterior standard deviation, one
    # per structure, worst first
    least_known: Int[np.ndarray, "worst 2"]
    least_known_std: Float[np.ndarray, " worst"]  # Those standard deviations, eV
    # compositions, needed: Independent compositions among the training set's energies, and among those of
    # training set and pool together: fewer mean that energies of some elements cannot be told apart
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
    """Tell which elements and environments of a pool a training set leaves undetermined. No label is looked at."""
    features, _, amplitude = space.plan()
    train, pool = structure_list(train), structure_list(pool)
    check_species(pool, features.species)
    check_species(train, features.species)
    if info.d != features.n_weights + len(features.species) or len(info) != len(train):
        raise ParameterError(
            f"`info` must be the information of `train` in this model ({len(train)} structures, "
            f"{features.n_weights + len(features.species)} weights), found {len(info)} and {info.d}."
        )
    here, there = (composition_of(some, features.species) for some in (train, pool))
    seen = _Environments.of(features, pool, info, amplitude)
    species = tuple(
        seen.known(a, z, in_train=int(here[:, a].sum()))
        for a, z in enumerate(features.species)
        if (seen.species == a).any()
    )
    labelled = here[info.counts[:, 0] > 0]
    return Coverage(
        species,
        *seen.worst(worst),
        compositions=int(np.linalg.matrix_rank(labelled)) if len(labelled) else 0,
        needed=int(np.linalg.matrix_rank(np.concatenate([labelled, there]))),
    )


@dataclass(frozen=True, eq=False)
class _Environments:
    """All environments of a pool: where they are, and what is known of their energies."""

    species: Int[np.ndarray, " atoms"]
    structure: Int[np.ndarray, " atoms"]
    atom: Int[np.ndarray, " atoms"]
    prior: Float[np.ndarray, " atoms"]
    posterior: Float[np.ndarray, " atoms"]
    unseen: Float[np.ndarray, " atoms"]  # share of the prior variance that the features leave out

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
            batch, prior = described.batch, features.local_prior(described)
            seen = np.divide(np.einsum("rd,rd->r", phi, phi), prior, out=np.ones_like(prior), where=prior > 0.0)
            found.append(
                (
                    described.species,
                    batch.structure + start,
                    np.arange(batch.n_atoms) - np.asarray(batch.offsets)[batch.structure],
                    np.einsum("rd,rd->r", rows, rows),
                    np.einsum("rd,rd->r", T, T),
                    np.clip(1.0 - seen, 0.0, 1.0),
                )
            )
        return cls(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def worst(self, n: int) -> tuple[Int[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
        """Environments of largest posterior standard deviation, one per structure."""
        order = np.argsort(-self.posterior, kind="stable")
        first = np.unique(self.structure[order], return_index=True)[1]
        kept = order[np.sort(first)][:n]
        return np.stack([self.structure[kept], self.atom[kept]], axis=1), np.sqrt(self.posterior[kept])

    def known(self, a: int, z: int, *, in_train: int) -> SpeciesCoverage:
        """Sum up one element."""
        mine = self.species == a
        before, after = np.sqrt(self.prior[mine]), np.sqrt(self.posterior[mine])
        # An element with equal environments everywhere has no contrast: then nothing is left to learn.
        share = np.divide(after, before, out=np.zeros_like(after), where=before > 1e-12)
        return SpeciesCoverage(
            number=int(z),
            in_train=in_train,
            in_pool=int(mine.sum()),
            share=float(share.mean()),
            spread=float(np.sqrt(np.mean(after**2))),
            unseen=float(self.unseen[mine].mean()),
        )


def _phi(
    features: FeatureMap, structures: Sequence[Atoms], start: int, stop: int
) -> tuple[Described, Float[np.ndarray, "atoms d"]]:
    """Whitened features of every environment."""
    described = features.describe(Batch.from_structures(structures[start:stop], features.cutoff, start=start))
    return described, features.whiten(dense_local_values(features, described))


@dataclass(frozen=True, eq=False)
class Screening:
    """Which structures of a list are usable, and why the others are not.

    Attributes
    ----------
    kept
        Numbers of the structures that passed, in order.
    aside
        The others, each with the reason; together with `kept` they are the whole list.
    names
        What to call each structure that was set aside.
    """

    kept: Int[np.ndarray, " kept"]
    aside: tuple[tuple[int, str], ...]
    names: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line for each structure that was set aside."""
        total = len(self.kept) + len(self.aside)
        lines = [f"{len(self.aside)} of {total} structures set aside"]
        return "\n".join(
            lines + [f"  {name}: {reason}" for name, (_, reason) in zip(self.names, self.aside, strict=True)]
        )


def screen(
    structures: Sequence[Atoms],
    descriptor: Descriptor | None = None,
    *,
    limits: GeometryLimits | None = None,
    factor: float = FACTOR,
) -> Screening:
    """Set aside broken frames: atoms far too close, atoms torn out, cells blown up, and what resembles nothing else.

    Labels are not looked at, and nothing is dropped silently: every structure is kept or listed with a reason.

    Parameters
    ----------
    structures
        To be screened.
    descriptor
        Also compares mean descriptors: a structure is set aside where its third nearest neighbour among those whose
        geometry is sound is farther than `factor` times the 90th percentile (`kernelpot.design.advice.screen`).
        A rare kind of good structure is set aside by that too: look at what is listed. None leaves this out.
    limits
        What counts as broken geometry (`kernelpot.data.geometry`).
    factor
        See `descriptor`.

    Raises
    ------
    ParameterError
        There is no structure, or limits make no sense.
    """
    structures = structure_list(structures)
    reasons = dict(broken(structures, limits))
    sound = [k for k in range(len(structures)) if k not in reasons]
    if descriptor is not None and sound:
        some = [structures[k] for k in sound]
        known = descriptor if descriptor.species is not None else descriptor.with_species(species_of(some))
        sizes = np.array([len(atoms) for atoms in some])
        reasons |= {sound[k]: reason for k, reason in distant(mean_vectors(known, some), sizes, factor=factor)}
    aside = tuple(sorted(reasons.items()))
    kept = np.array([k for k in range(len(structures)) if k not in reasons], dtype=np.int64)
    return Screening(kept, aside, tuple(place(structures[k], k) for k, _ in aside))
