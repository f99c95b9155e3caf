"""What a model says about structures, with the standard deviation of every number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from kernelpot.errors import NotFittedError


@dataclass(frozen=True, eq=False)
class Spread:
    """Standard deviations of predicted quantities.

    Attributes
    ----------
    energy_std
        Of the total energy, eV.
    forces_std
        Of every force component, eV/Å, one array per structure.
    stress_std
        eV/Å³, ASE's Voigt order; NaN without a cell.
    local_energy_std
        Of every atom's energy, eV, one array per structure.
    """

    energy_std: Float[np.ndarray, " structures"]
    forces_std: list[Float[np.ndarray, "atoms 3"]]
    stress_std: Float[np.ndarray, "structures 6"]
    local_energy_std: list[Float[np.ndarray, " atoms"]]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predictions for a list of structures.

    Attributes
    ----------
    energy
        Total energy on the labels' own scale, eV.
    forces
        eV/Å, one array per structure.
    stress
        eV/Å³, ASE's sign and Voigt order; NaN without a cell.
    local_energy
        Energy of every atom, its species' constant included, eV, one array per structure; a structure's energy is
        their sum.
    latent
        Standard deviations of the bare posterior; None where they were not asked for.
    label
        Standard deviations of a label: posterior times calibration factor, plus noise; None where they were not
        asked for.
    extrapolation
        Grade of every atom, one array per structure: 1 is the edge of what training saw; None where standard deviations
        were not asked for, or the model holds no record of what it saw.
    """

    energy: Float[np.ndarray, " structures"]
    forces: list[Float[np.ndarray, "atoms 3"]]
    stress: Float[np.ndarray, "structures 6"]
    local_energy: list[Float[np.ndarray, " atoms"]]
    latent: Spread | None = None
    label: Spread | None = None
    extrapolation: list[Float[np.ndarray, " atoms"]] | None = None

    def _spread(self) -> Spread:
        if self.label is None:
            raise NotFittedError(
                "this prediction was made with uncertainty=False; call model.predict(structures) to have standard "
                "deviations."
            )
        return self.label

    @property
    def energy_std(self) -> Float[np.ndarray, " structures"]:
        """Standard deviation of a total-energy label, eV."""
        return self._spread().energy_std

    @property
    def forces_std(self) -> list[Float[np.ndarray, "atoms 3"]]:
        """Standard deviation of every force label, eV/Å."""
        return self._spread().forces_std

    @property
    def stress_std(self) -> Float[np.ndarray, "structures 6"]:
        """Standard deviation of every stress label, eV/Å³."""
        return self._spread().stress_std

    @property
    def local_energy_std(self) -> list[Float[np.ndarray, " atoms"]]:
        """Calibrated standard deviation of every atom's energy, eV; atoms have no labels, so no noise is added."""
        return self._spread().local_energy_std

    def __len__(self) -> int:
        """Count the structures."""
        return len(self.energy)


class Predictor(Protocol):
    """Anything that predicts structures."""

    def predict(self, structures: Sequence[object], *, uncertainty: bool = True) -> Prediction:
        """Return a prediction for each structure."""
