"""How far an environment lies outside those of the training set: a grade for every atom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solve_triangular

from kernelpot.data.batch import Batch
from kernelpot.data.stream import sizes_of
from kernelpot.errors import ParameterError
from kernelpot.features.feature_map import Described, FeatureMap, dense_local_values
from kernelpot.features.inducing import chunks
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


@dataclass(frozen=True, eq=False)
class Seen:
    """The environments of a training set, as a Gaussian process that has seen the energy of every one of them.

    Its standard deviation needs no labels, and does not depend on how the labels share the energy out over atoms. With
    features φ of prior N(0, I), s the noise, and the sum over all environments of the training set,

        std² = φᵀ(I + Σ φφᵀ/s²)⁻¹φ + (k - φᵀφ)

    (Rasmussen and Williams (2006), eq. 2.11, plus the residual that inducing environments cannot see). The grade is
    std over the 99th percentile of the training set's own, each environment left out of the sum in turn.

    Attributes
    ----------
    factor
        R, upper triangular, with RᵀR = I + Σ φφᵀ/s².
    reference
        That percentile for each species, amplitude 1.
    noise
        s, amplitude 1.
    """

    factor: Float[np.ndarray, "d d"]
    reference: Float[np.ndarray, " species"]
    noise: float

    @classmethod
    def of(cls, features: FeatureMap, structures: Sequence[Atoms], *, seed: int) -> Seen:
        """Look at every environment once, at d² operations each.

        Parameters
        ----------
        features
            Feature map with its terms' final scales.
        structures
            The training set; no label is looked at.
        seed
            Chooses which environments the percentile is taken over, where there are many.
        """
        kept = _sampled(features.species, structures, seed)
        gram = np.zeros((features.n_weights, features.n_weights))
        phis, residuals, species, priors = [], [], [], []

        def part(piece: tuple[int, int, int]) -> tuple[Any, ...]:
            start, stop, first = piece
            described = _described(features, structures, start, stop)
            phi, residual, prior = _local(features, described)
            mine = kept[first : first + len(phi)]
            squares = [_moments(phi[described.species == a]) for a in np.unique(described.species)]
            return squares, phi[mine], residual[mine], described.species[mine], prior[mine]

        for squares, phi, residual, a, prior in ordered(part, track(_pieces(structures), "environments")):
            for columns, own in squares:
                gram[np.ix_(columns, columns)] += own
            phis.append(phi)
            residuals.append(residual)
            species.append(a)
            priors.append(prior)
        phi, a = np.concatenate(phis), np.concatenate(species)
        # Atoms without neighbours have nothing that pairs could tell apart: any unit does.
        size = float(np.sqrt(np.mean(np.concatenate(priors)))) or 1.0
        noise = SHARE * size
        factor = np.linalg.cholesky(np.eye(len(gram)) + gram / noise**2).T
        inner = _squares(phi, factor)
        # Leaving one of a Gaussian process's own rows out: v/(1 - v/s²).
        left = inner / np.maximum(1.0 - inner / noise**2, 1e-6)
        std = np.sqrt(left + np.concatenate(residuals))
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
            phi, _, _ = _local(features, _described(features, structures, start, stop))
            factor = triangle(np.concatenate([factor, phi / self.noise]))
        return replace(self, factor=factor)

    def without_structures(self, features: FeatureMap, structures: Sequence[Atoms]) -> Seen:
        """Return the same with these structures, which were seen, forgotten; the reference stays.

        Raises
        ------
        ParameterError
            They were never seen: what is left is no sum of squares.
        """
        gram = self.factor.T @ self.factor
        for start, stop, _ in _pieces(structures):
            phi, _, _ = _local(features, _described(features, structures, start, stop))
            gram -= phi.T @ phi / self.noise**2
        # The prior's own I must be left in every direction; half of it allows for round-off.
        if np.linalg.eigvalsh(gram)[0] < 0.5:
            raise ParameterError("these structures cannot be forgotten: the model has not seen all of them")
        return replace(self, factor=np.ascontiguousarray(np.linalg.cholesky(gram).T))


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """Grades of environments: a feature map with what it has seen.

    Attributes
    ----------
    features
        Feature map, amplitude 1.
    seen
        Environments of the training set.
    """

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
        learnt = np.zeros((described.batch.n_atoms, self._learnt.shape[1]))
        for atoms, columns, values in self.features.local_values(described):
            part = values @ self._learnt[columns]
            if len(atoms) == len(learnt):
                learnt += part
            else:
                learnt[atoms] += part
        left = self.features.local_prior(described) - np.einsum("id,id->i", learnt, learnt)
        return np.sqrt(np.maximum(left, 0.0))

    def grade(self, described: Described) -> Float[np.ndarray, " atoms"]:
        """Return every atom's extrapolation grade: 1 is the edge of what training saw."""
        return self.std(described) / self.seen.reference[described.species]


def _sampled(species: Sequence[int], structures: Sequence[Atoms], seed: int) -> Bool[np.ndarray, " environments"]:
    """Choose up to `MOST` environments of every species."""
    numbers = np.concatenate([atoms.numbers for atoms in structures])
    rng = np.random.default_rng(seed)
    kept = np.zeros(len(numbers), dtype=bool)
    for z in species:
        kept[rng.permutation(np.flatnonzero(numbers == z))[:MOST]] = True
    return kept


def _pieces(structures: Sequence[Atoms]) -> list[tuple[int, int, int]]:
    """Cut into runs of structures, each with the number of their first environment."""
    first = np.concatenate([[0], np.cumsum(sizes_of(structures))]).tolist()
    return [(start, stop, first[start]) for start, stop in chunks(structures)]


def _described(features: FeatureMap, structures: Sequence[Atoms], start: int, stop: int) -> Described:
    described: Described = features.describe(
        Batch.from_structures(structures[start:stop], features.cutoff, start=start)
    )
    return described


def _local(
    features: FeatureMap, described: Described
) -> tuple[Float[np.ndarray, "atoms d"], Float[np.ndarray, " atoms"], Float[np.ndarray, " atoms"]]:
    """Return every atom's features, residual variance and prior variance."""
    phi = features.whiten(dense_local_values(features, described))
    prior = features.local_prior(described)
    return phi, np.maximum(prior - np.einsum("id,id->i", phi, phi), 0.0), prior


def _moments(
    phi: Float[np.ndarray, "n d"],
) -> tuple[Int[np.ndarray, " columns"], Float[np.ndarray, "columns columns"]]:
    """Return Σ φφᵀ over the columns that are not zero everywhere: a species has few of its own."""
    columns = np.flatnonzero(phi.any(axis=0))
    part = phi if len(columns) == phi.shape[1] else phi[:, columns]
    return columns, part.T @ part


def _squares(phi: Float[np.ndarray, "n d"], factor: Float[np.ndarray, "d d"]) -> Float[np.ndarray, " n"]:
    solved = solve_triangular(factor, phi.T, trans="T", check_finite=False)
    return np.einsum("dn,dn->n", solved, solved)
