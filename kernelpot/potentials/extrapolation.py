"""How far an environment lies outside those of the training set: a grade for every atom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular

from kernelpot.data.batch import Batch
from kernelpot.data.stream import chunks, draws_of, sizes_of
from kernelpot.errors import ParameterError
from kernelpot.features.feature_map import Described, FeatureMap, dense_local_values
from kernelpot.linalg.factor import triangle
from kernelpot.progress import track
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

SHARE = 0.02
"""Noise of a seen environment's energy, as a share of the prior standard deviation."""

QUANTILE = 0.99
"""Share of the training set's environments whose grade is at most 1."""

MOST = 2000
"""Environments of each species that the quantile is taken over."""

ROUND_OFF = 1e-14
"""Eigenvalues below this tell nothing."""

SMALLEST = 1e-4
"""Smallest reference, as a share of the prior standard deviation: perfect crystals are known to round-off."""


class Local(NamedTuple):
    """Every environment's place among the species, features, residual variance and prior variance."""

    species: Int[np.ndarray, " atoms"]
    phi: Float[np.ndarray, "atoms d"]
    residual: Float[np.ndarray, " atoms"]
    prior: Float[np.ndarray, " atoms"]


@dataclass(frozen=True, eq=False)
class Seen:
    """The environments of a training set, as a Gaussian process that has seen the energy of every one of them.

    Its standard deviation needs no labels, and does not depend on how the labels share the energy out over atoms. With
    features φ of prior N(0, I), s the noise, and the sum over all environments of the training set,

        std² = φᵀ(I + Σ φφᵀ/s²)⁻¹φ + (k - φᵀφ)

    (Rasmussen and Williams (2006), eq. 2.11, plus the residual that inducing environments cannot see). The grade is
    std over the 99th percentile of the training set's own, each environment left out of the sum in turn.
    """

    factor: Float[np.ndarray, "d d"]  # R, upper triangular, with RᵀR = I + Σ φφᵀ/s²
    reference: Float[np.ndarray, " species"]  # That percentile for each species, amplitude 1
    noise: float  # s, amplitude 1

    @classmethod
    def of(cls, features: FeatureMap, structures: Sequence[Atoms], *, seed: int) -> Seen:
        """Look at every environment of the training set once, at d² operations each; many are thinned by the seed."""
        numbers = np.concatenate([atoms.numbers for atoms in structures])
        draws = np.concatenate([draws_of(atoms, seed) for atoms in structures])
        kept = np.zeros(len(numbers), dtype=bool)
        for z in features.species:
            mine = np.flatnonzero(numbers == z)
            kept[mine[np.argsort(draws[mine], kind="stable")[:MOST]]] = True
        gram = np.zeros((features.n_weights, features.n_weights))
        parts = []

        def part(piece: tuple[int, int, int]) -> tuple[list[tuple[np.ndarray, np.ndarray]], Local]:
            start, stop, first = piece
            local = _local(features, structures, start, stop)
            mine = kept[first : first + len(local.phi)]
            # A species has few columns of its own: products of those alone.
            squares = []
            for a in np.unique(local.species):
                own = local.phi[local.species == a]
                columns = np.flatnonzero(own.any(axis=0))
                own = own if len(columns) == own.shape[1] else own[:, columns]
                squares.append((columns, own.T @ own))
            return squares, Local(*(values[mine] for values in local))

        for squares, sampled in ordered(part, track(_pieces(structures), "environments")):
            for columns, own in squares:
                gram[np.ix_(columns, columns)] += own
            parts.append(sampled)
        a, phi, residual, prior = (np.concatenate(values) for values in zip(*parts, strict=True))
        # Atoms without neighbours have nothing that pairs could tell apart: any unit does.
        size = float(np.sqrt(np.mean(prior))) or 1.0
        noise = SHARE * size
        factor = np.linalg.cholesky(np.eye(len(gram)) + gram / noise**2).T
        solved = solve_triangular(factor, phi.T, trans="T", check_finite=False)
        inner = np.einsum("dn,dn->n", solved, solved)
        # Leaving one of a Gaussian process's own rows out: v/(1 - v/s²).
        left = inner / np.maximum(1.0 - inner / noise**2, 1e-6)
        std = np.sqrt(left + residual)
        known = {int(k): max(float(np.quantile(std[a == k], QUANTILE)), SMALLEST * size) for k in np.unique(a)}
        # A species that was never seen is judged by the strictest of the others.
        reference = [known.get(k, min(known.values())) for k in range(len(features.species))]
        return cls(np.ascontiguousarray(factor), np.array(reference), noise)

    def with_structures(self, features: FeatureMap, structures: Sequence[Atoms]) -> Seen:
        """Return the same with more environments seen; the reference stays.

        What inducing environments cannot see of them stays unknown: their grades fall by less than after a new fit.
        """
        factor = self.factor
        for start, stop, _ in _pieces(structures):
            phi = _local(features, structures, start, stop).phi
            factor = triangle(np.concatenate([factor, phi / self.noise]))
        return replace(self, factor=factor)

    def without_structures(self, features: FeatureMap, structures: Sequence[Atoms]) -> Seen:
        """Return the same with these structures, which were seen, forgotten; the reference stays."""
        gram = self.factor.T @ self.factor
        for start, stop, _ in _pieces(structures):
            phi = _local(features, structures, start, stop).phi
            gram -= phi.T @ phi / self.noise**2
        # The prior's own I must be left in every direction; half of it allows for round-off.
        if np.linalg.eigvalsh(gram)[0] < 0.5:
            raise ParameterError("these structures cannot be forgotten: the model has not seen all of them")
        return replace(self, factor=np.ascontiguousarray(np.linalg.cholesky(gram).T))


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """Grades of environments: a feature map with what it has seen."""

    features: FeatureMap
    seen: Seen

    @cached_property
    def _learnt(self) -> Float[np.ndarray, "m d"]:
        """V with |Vᵀk|² = prior minus remaining variance of a local energy, so that one product gives it."""
        inverse = solve_triangular(self.seen.factor, np.eye(len(self.seen.factor)), check_finite=False)
        eigenvalues, vectors = np.linalg.eigh(np.eye(len(inverse)) - inverse @ inverse.T)
        kept = eigenvalues > ROUND_OFF
        return self.features.unwhiten(vectors[:, kept] * np.sqrt(eigenvalues[kept]))

    def prepare(self) -> None:
        """Compute what all structures share, once, before threads ask for it."""
        _ = self._learnt

    def std(self, described: Described) -> Float[np.ndarray, " atoms"]:
        """Return the standard deviation of every atom's energy given every seen environment's, amplitude 1."""
        left = self.features.local_prior(described)
        for atoms, part in parts_of(self.features, described):
            learnt = np.zeros((part.batch.n_atoms, self._learnt.shape[1]))
            add_local(learnt, self.features, part, self._learnt)
            left[atoms] -= np.einsum("id,id->i", learnt, learnt)[: len(atoms)]
        return np.sqrt(np.maximum(left, 0.0))

    def grade(self, described: Described) -> Float[np.ndarray, " atoms"]:
        """Return every atom's extrapolation grade: 1 is the edge of what training saw."""
        return self.std(described) / self.seen.reference[described.species]


PART = 128
"""Atoms of a large structure whose rows are there at the same time."""


def parts_of(features: Any, described: Described) -> Iterator[tuple[Int[np.ndarray, " some"], Any]]:
    """Yield the atoms of a batch with what describes them first of all; those of a large structure a few at a time."""
    batch = described.batch
    every = np.arange(batch.n_atoms)
    if len(batch) > 1 or batch.n_atoms <= 4 * PART or not hasattr(features, "around"):
        yield every, described
        return
    thin = features.thin(described)
    bricks = [every]
    while bricks:
        atoms = bricks.pop()
        if len(atoms) > PART:
            # Halves by the longest side: the fewer atoms are around.
            places = batch.positions[atoms]
            order = np.argsort(places[:, np.argmax(np.ptp(places, axis=0))], kind="stable")
            bricks += [np.sort(half) for half in np.array_split(atoms[order], 2)]
        else:
            yield atoms, features.around(described, atoms, thin=thin)


def add_local(
    total: Float[np.ndarray, "atoms d"], features: FeatureMap, described: Described, v: Float[np.ndarray, "m d"]
) -> None:
    """Add to every atom's row of `total` its raw columns times v."""
    for atoms, columns, values in features.local_values(described):
        part = values @ v[columns]
        if len(atoms) == len(total):
            total += part
        else:
            total[atoms] += part


def _pieces(structures: Sequence[Atoms]) -> list[tuple[int, int, int]]:
    """Cut into runs of structures, each with the number of their first environment."""
    first = np.concatenate([[0], np.cumsum(sizes_of(structures))]).tolist()
    return [(start, stop, first[start]) for start, stop in chunks(structures)]


def _local(features: FeatureMap, structures: Sequence[Atoms], start: int, stop: int) -> Local:
    """Describe the environments of some structures."""
    described: Described = features.describe(
        Batch.from_structures(structures[start:stop], features.cutoff, start=start)
    )
    phi = features.whiten(dense_local_values(features, described))
    prior = features.local_prior(described)
    residual = np.maximum(prior - np.einsum("id,id->i", phi, phi), 0.0)
    return Local(described.species, phi, residual, prior)
