"""What a fitted model's posterior offers beyond standard deviations: covariances, differences, draws, grades."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.errors import NotFittedError
from kernelpot.potentials import covariance, sampling
from kernelpot.potentials.arguments import check_species, structure_list
from kernelpot.potentials.covariance import EnergyDifference, JointEnergies
from kernelpot.potentials.fitted import Fitted
from kernelpot.potentials.sampling import SampledModel

if TYPE_CHECKING:
    from ase import Atoms


class Posteriors:
    """The part of a model that needs nothing but its fitted state."""

    fitted_: Fitted | None

    def _state(self) -> Fitted:
        if self.fitted_ is None:
            raise NotFittedError(
                "this model was never fitted; call fit(structures) first, or kernelpot.load a fitted one."
            )
        return self.fitted_

    def _known(self, structures: Sequence[Atoms]) -> tuple[Fitted, list[Atoms]]:
        state = self._state()
        structures = structure_list(structures)
        check_species(structures, state.features.species)
        return state, structures

    def energy_covariance(
        self, structures: Sequence[Atoms], *, spread: str = "calibrated"
    ) -> Float[np.ndarray, "structures structures"]:
        """Return the covariance of total energies, eV².

        φᵀCφ' plus what inducing environments cannot see of both, 1ᵀ(K - Q)1 between structures.

        Parameters
        ----------
        structures
            Their labels are not looked at.
        spread
            "calibrated": posterior times calibration factor². "latent": the bare posterior, whose diagonal is
            ``predict(...).latent.energy_std**2``. "label": calibrated, plus independent noise of each label, whose
            diagonal is ``predict(...).energy_std**2``.

        Raises
        ------
        NotFittedError
            The model was never fitted.
        SpeciesError
            A structure holds an element that the model has never seen.
        ParameterError
            `spread` is none of these.
        """
        covariance.check_spread(spread)
        return JointEnergies.of(*self._known(structures)).covariance(spread=spread)

    def energy_difference(
        self,
        structures: Sequence[Atoms],
        coefficients: Sequence[float] | Float[np.ndarray, " structures"],
        *,
        spread: str = "calibrated",
    ) -> EnergyDifference:
        """Return Σ coefficient · energy with its standard deviation: a barrier, a vacancy energy, a reaction energy.

        Parameters
        ----------
        structures
            Their labels are not looked at.
        coefficients
            One for each: [-1, 1] is E_b - E_a of [a, b]; [1, -63/64] a vacancy's energy of [vacancy, crystal].
        spread
            As in `energy_covariance`.

        Raises
        ------
        NotFittedError
            The model was never fitted.
        ParameterError
            There is not one finite coefficient for each structure.
        """
        return covariance.energy_difference(*self._known(structures), coefficients, spread=spread)

    def force_covariance(self, structure: Atoms, atom: int, *, spread: str = "calibrated") -> Float[np.ndarray, "3 3"]:
        """Return the covariance of the force on one atom, (eV/Å)².

        Parameters
        ----------
        structure
            Its labels are not looked at.
        atom
            Number of the atom, from 0.
        spread
            As in `energy_covariance`, for forces.

        Raises
        ------
        NotFittedError
            The model was never fitted.
        ParameterError
            There is no such atom.
        """
        state, (structure,) = self._known([structure])
        return covariance.force_covariance(state, structure, atom, spread=spread)

    def stress_covariance(self, structure: Atoms, *, spread: str = "calibrated") -> Float[np.ndarray, "6 6"]:
        """Return the covariance of the stress, (eV/Å³)², ASE's Voigt order.

        Parameters
        ----------
        structure
            With a cell.
        spread
            As in `energy_covariance`, for stresses.

        Raises
        ------
        NotFittedError
            The model was never fitted.
        DataError
            The structure has no volume.
        """
        state, (structure,) = self._known([structure])
        return covariance.stress_covariance(state, structure, spread=spread)

    def sample(
        self, n: int, *, seed: int = 0, scale: float | str = "forces", residual: bool = True
    ) -> list[SampledModel]:
        """Draw potentials from the posterior: a committee, each member at the cost of a triangular solve.

        Parameters
        ----------
        n
            How many.
        seed
            Makes the draws repeatable; draw k does not depend on n.
        scale
            Factor of the deviation from the mean: that of the calibration of a kind of label, or a number; 1 is the
            bare posterior. One potential has one scale, so that only that kind is calibrated.
        residual
            Also draw what inducing environments cannot see, exact for dot products of zeta 1 and 2; other kernels have
            no draw of it, and then members agree too well far from their inducing environments. It takes F² numbers (F
            components of the descriptor) for each species and member.

        Raises
        ------
        NotFittedError
            The model was never fitted.
        ParameterError
            A number breaks its rule.
        """
        return sampling.sample(self._state(), n, seed=seed, scale=scale, residual=residual)

    def extrapolation(self, batch: Batch) -> Float[np.ndarray, " atoms"]:
        """Return every atom's extrapolation grade: 1 is the edge of what training saw. Costs what a local std does.

        See `kernelpot.potentials.extrapolation.Seen` for its meaning.

        Raises
        ------
        NotFittedError
            The model was never fitted, or comes from a file without a record of what it saw.
        """
        state = self._state()
        return state.extrapolation.grade(state.features.describe(batch))
