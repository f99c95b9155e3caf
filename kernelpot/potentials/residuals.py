"""Errors of predictions, flat, beside the standard deviations they were made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.labels import Labels
from kernelpot.data.noise import KINDS
from kernelpot.potentials.prediction import Prediction, Spread

SILENT = 1e-6
"""Latent standard deviation, as a share of the median, below which a label is zero by symmetry."""


@dataclass(frozen=True, eq=False)
class Residuals:
    """Errors of one kind of label: energies per atom, forces and stresses component by component.

    Attributes
    ----------
    error
        Predicted minus labelled: eV/atom, eV/Å, eV/Å³.
    latent, std
        Standard deviation of the bare posterior, and that of the label; NaN where they were not asked for.
    scarcity, strangeness
        Of the atom that a force acts on, or of the structure that an energy belongs to, eV (`Around`); None where the
        standard deviation does not depend on it.
    element
        Atomic number of that atom; None for other kinds.
    structure
        Place of the structure that each label belongs to.
    """

    error: Float[np.ndarray, " n"]
    latent: Float[np.ndarray, " n"]
    std: Float[np.ndarray, " n"]
    scarcity: Float[np.ndarray, " n"] | None
    strangeness: Float[np.ndarray, " n"] | None
    element: Int[np.ndarray, " n"] | None
    structure: Int[np.ndarray, " n"]

    @property
    def silent(self) -> Bool[np.ndarray, " n"]:
        """Tell which labels are zero by symmetry: the model knows them for certain, whatever its weights are."""
        known = self.latent[self.latent > 0.0]
        return self.latent <= (SILENT * np.median(known) if len(known) else 0.0)

    def take(self, which: Bool[np.ndarray, " n"] | Int[np.ndarray, " chosen"]) -> Residuals:
        """Return some of the labels."""
        scarcity, strangeness, element = (
            None if v is None else v[which] for v in (self.scarcity, self.strangeness, self.element)
        )
        structure = self.structure[which]
        return Residuals(
            self.error[which], self.latent[which], self.std[which], scarcity, strangeness, element, structure
        )


def residuals_of(prediction: Prediction, labels: Labels) -> dict[str, Residuals]:
    """Compare predictions with the labels that are there."""
    found = {kind: _of_kind(kind, prediction, labels) for kind in KINDS if labels.present(kind).any()}
    return {kind: residuals for kind, residuals in found.items() if len(residuals.error)}


def _of_kind(kind: str, prediction: Prediction, labels: Labels) -> Residuals:
    members = np.flatnonzero(labels.present(kind))
    predicted = _values(kind, (prediction.energy, prediction.forces, prediction.stress), members, labels)
    labelled = _values(kind, (labels.energy, labels.forces, labels.stress), members, labels)
    error = np.concatenate([x - y for x, y in zip(predicted, labelled, strict=True)])
    latent, std = (
        np.full(len(error), np.nan) if s is None else np.concatenate(_values(kind, _stds(s), members, labels))
        for s in (prediction.latent, prediction.label)
    )
    scarcity = strangeness = element = None
    around = [] if prediction.around is None else [prediction.around[s] for s in members]
    if kind == "energy" and around:
        scarcity = np.array([a.mean_scarcity for a in around])
    elif kind == "forces" and around:
        scarcity = np.concatenate([np.repeat(a.scarcity, 3) for a in around])
        strangeness = np.concatenate([np.full(3 * len(a.element), a.strangeness) for a in around])
        element = np.concatenate([np.repeat(a.element, 3) for a in around])
    structure = np.repeat(members, [len(v) for v in labelled])
    return Residuals(error, latent, std, scarcity, strangeness, element, structure).take(np.isfinite(error))


def _stds(spread: Spread) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    return spread.energy_std, spread.forces_std, spread.stress_std


def _values(
    kind: str, values: tuple[np.ndarray, Sequence[np.ndarray | None], np.ndarray], members: np.ndarray, labels: Labels
) -> list[np.ndarray]:
    energy, forces, stress = values
    if kind == "energy":
        return [np.array([energy[s] / labels.n_atoms[s]]) for s in members]
    if kind == "stress":
        return [stress[s] for s in members]
    return [np.asarray(forces[s]).ravel() for s in members]
