"""Posterior standard deviations of energies, forces, stresses and local energies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from kernelpot.features.feature_map import E0_PRIOR, Described, KernelMap, counts
from kernelpot.features.residual import energy_prior, forces_prior, stress_prior
from kernelpot.features.rows import make_rows
from kernelpot.linalg.posterior import Posterior

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

    features: KernelMap
    posterior: Posterior
    amplitude: float

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
        _ = self._shrinkage

    def local_energy(self, described: Described) -> Float[np.ndarray, " atoms"]:
        """Return the variance of every atom's energy, eV²."""
        features, v = self.features, self._shrinkage
        result = np.empty(len(described.x))
        for a, (atoms, dots) in enumerate(features.dots(described)):
            seen = features.kernel.value(dots) @ v[features.starts[a] : features.starts[a + 1]]
            seen += v[features.n_inducing + a]
            result[atoms] = self.amplitude**2 + E0_PRIOR**2 - np.einsum("id,id->i", seen, seen)
        return np.maximum(result, 0.0)

    def labelled(
        self, described: Described
    ) -> tuple[Float[np.ndarray, " structures"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "structures 6"]]:
        """Return the variances of total energies (eV²), force components and stress components."""
        batch = described.batch
        rows = make_rows(self.features, described, LABELLED)
        composition = counts(batch, self.features.species)
        energy = self._variance(rows.energy, composition, energy_prior(self.features, described))
        none = np.zeros((1, composition.shape[1]))
        forces = self._variance(_known(rows.forces), none, forces_prior(self.features, described).ravel())
        stress = np.full((len(batch), 6), np.nan)
        solid = np.isfinite(batch.volumes)
        if solid.any():
            here = np.repeat(solid, 6)
            prior = stress_prior(self.features, described)[solid].ravel()
            stress[solid] = self._variance(_known(rows.stress)[here], none, prior).reshape(-1, 6)
        return energy, forces.reshape(-1, 3), stress

    def _variance(
        self,
        rows: Float[np.ndarray, "rows m"],
        composition: Float[np.ndarray, "any species"],
        prior: Float[np.ndarray, " rows"],
    ) -> Float[np.ndarray, " rows"]:
        white = self.features.whiten(rows)
        residual = np.maximum(prior - np.einsum("rd,rd->r", white, white), 0.0)
        e0 = np.broadcast_to(E0_PRIOR * composition, (len(rows), composition.shape[1]))
        seen = self.posterior.variance(np.concatenate([self.amplitude * white, e0], axis=1))
        return seen + self.amplitude**2 * residual


def _known(rows: np.ndarray | None) -> np.ndarray:
    return np.empty((0, 0)) if rows is None else rows
