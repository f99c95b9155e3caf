"""Potentials that a model learns the difference from, and what such a baseline has to offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from kernelpot.data.batch import Batch
from kernelpot.potentials.prediction import Mean


class Baseline(Protocol):
    """A potential whose energies, forces and stresses are taken off the labels and added to the predictions.

    It must depend on nothing but positions, cells, periodicity and elements, and have no standard deviation.
    """

    def reach(self, species: Sequence[int]) -> float:
        """Return the distance up to which it needs neighbour pairs of these elements, Å; 0 where it needs none."""

    def evaluate(self, batch: Batch, *, names: Sequence[str] | None = None) -> Mean:
        """Return what is added to the predictions for structures; `names` are what messages call them."""

    def describe(self, species: Sequence[int]) -> str:
        """Say in one line what it is for these elements."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values; `name` tells kinds of baselines apart."""
