"""Posterior standard deviations of energies, forces, stresses and local energies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.features.feature_map import E0_PRIOR, Described, FeatureMap, counts
from kernelpot.linalg.factor import Posterior

LABELLED = ("energy", "forces", "stress")


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Variances of a fitted model: posterior of the weights plus the residual that inducing environments cannot see.

    Attributes
    ----------
    features
        Feature map, amplitude 1.
    posterior
        Over whitened weights and E0 columns.
    amplitude
        eV.
    """

    features: FeatureMap
    posterior: Posterior
    amplitude: float

    @cached_property
    def _there(self) -> Any:
        """The same on the device of the features, where they have one."""
        make = getattr(self.features, "variances", None)
        if make is None:
            return None
        inverse, n_weights = self.posterior.project(np.eye(len(self.posterior.target))), self.features.n_weights
        weights = self.amplitude * self.features.unwhiten(inverse[:n_weights])
        return make(np.concatenate([weights, E0_PRIOR * inverse[n_weights:]]), self._shrinkage, self.amplitude)

    @cached_property
    def _shrinkage(self) -> Float[np.ndarray, "m_plus_species d"]:
        """V with |Vᵀ[k; e]|² = prior minus posterior variance of a local energy, so that one product gives it.

        With C = (RᵀR)⁻¹, I - C = QᵀQ is positive semidefinite; V is Q applied to amplitude · whitening and to the E0
        columns.
        """
        d = len(self.posterior.target)
        inverse = self.posterior.project(np.eye(d))
        eigenvalues, vectors = np.linalg.eigh(np.eye(d) - inverse @ inverse.T)
        q = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))
        n_weights = self.features.n_weights
        return np.concatenate([self.amplitude * self.features.unwhiten(q[:n_weights]), E0_PRIOR * q[n_weights:]])

    def prepare(self) -> None:
        """Compute what all structures share, once, before threads ask for it."""
        _ = self._shrinkage, self._there

    def local_energy(self, described: Described) -> Float[np.ndarray, " atoms"]:
        """Return the variance of every atom's energy, eV²."""
        features, v = self.features, self._shrinkage
        prior = self.amplitude**2 * features.local_prior(described) + E0_PRIOR**2
        if self._there is not None:
            return np.maximum(prior - self._there.local_seen(described), 0.0)
        seen = v[features.n_columns + described.species]
        for atoms, columns, values in features.local_values(described):
            part = values @ v[columns]
            if len(atoms) == len(seen):
                seen += part
            else:
                seen[atoms] += part
        return np.maximum(prior - np.einsum("id,id->i", seen, seen), 0.0)

    def labelled(
        self, described: Described
    ) -> tuple[Float[np.ndarray, " structures"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "structures 6"]]:
        """Return the variances of total energies (eV²), force components and stress components."""
        if self._there is not None:
            return self._there.labelled(described)
        batch = described.batch
        rows = self.features.rows(described, LABELLED)
        composition = counts(batch, self.features.species)
        energy = self._variance(described, "energy", rows.energy, composition)
        none = np.zeros((1, composition.shape[1]))
        forces = self._variance(described, "forces", _known(rows.forces), none)
        stress = np.full((len(batch), 6), np.nan)
        solid = np.isfinite(batch.volumes)
        if solid.any():
            with np.errstate(invalid="ignore"):
                every = self._variance(described, "stress", _known(rows.stress), none).reshape(-1, 6)
            stress[solid] = every[solid]
        return energy, forces.reshape(-1, 3), stress

    def _variance(
        self,
        described: Described,
        kind: str,
        rows: Float[np.ndarray, "rows m"],
        composition: Float[np.ndarray, "any species"],
    ) -> Float[np.ndarray, " rows"]:
        white = self.features.whiten(rows)
        residual = self.features.residual(described, kind, white)
        e0 = np.broadcast_to(E0_PRIOR * composition, (len(rows), composition.shape[1]))
        seen = self.posterior.variance(np.concatenate([self.amplitude * white, e0], axis=1))
        return seen + self.amplitude**2 * residual


def scarcity(local_std: Float[np.ndarray, " atoms"], batch: Batch, cutoff: float) -> Float[np.ndarray, " atoms"]:
    """Return the root mean square of the local energies' standard deviations over each atom with its neighbours, eV.

    Large where training environments are scarce: the error of a force comes from the energies of all atoms around.
    """
    squared = local_std**2
    near = np.einsum("px,px->p", batch.vectors, batch.vectors) <= cutoff**2
    first, second = batch.first[near], batch.second[near]
    total = squared + np.bincount(first, squared[second], batch.n_atoms)
    result: np.ndarray = np.sqrt(total / (1.0 + np.bincount(first, minlength=batch.n_atoms)))
    return result


def _known(rows: np.ndarray | None) -> np.ndarray:
    return np.empty((0, 0)) if rows is None else rows
