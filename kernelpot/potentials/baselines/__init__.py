"""Potentials that a model learns the difference from, and what such a baseline has to offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch


@dataclass(frozen=True, eq=False)
class Contribution:
    """What a baseline adds to the predictions for a batch, flat."""

    energy: Float[np.ndarray, " structures"]  # Total energies, eV
    local_energy: Float[np.ndarray, " atoms"]  # Shares of the atoms, eV; a structure's energy is their sum
    forces: Float[np.ndarray, "atoms 3"]  # eV/Å
    # eV/Å³, ASE's sign and Voigt order; NaN without a cell, or where the baseline has none
    stress: Float[np.ndarray, "structures 6"]


class Baseline(Protocol):
    """A potential whose energies, forces and stresses are taken off the labels and added to the predictions.

    It must depend on nothing but positions, cells, periodicity and elements, and have no standard deviation.
    """

    def reach(self, species: Sequence[int]) -> float:
        """Return the distance up to which it needs neighbour pairs of these elements, Å; 0 where it needs none."""

    def evaluate(self, batch: Batch, *, names: Sequence[str] | None = None) -> Contribution:
        """Return the contribution to each structure; `names` are what messages call them."""

    def describe(self, species: Sequence[int]) -> str:
        """Say in one line what it is for these elements."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values; `name` tells kinds of baselines apart."""
