"""The labels of a training set as one linear system: their places, targets, prior covariance and noise."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from kernelpot.data.labels import Labels
from kernelpot.data.noise import Noise
from kernelpot.features.derivative_map import DerivativeMap
from kernelpot.features.feature_map import E0_PRIOR
from kernelpot.features.label_kernel import Layout, fill_lower, group_by_composition
from kernelpot.linalg.dense import Triangle
from kernelpot.potentials.training import composition_of, e0_rows, least_squares_e0

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.features.label_kernel import Terms


@dataclass(frozen=True, eq=False)
class Plan:
    """Which labels are rows, and in which order.

    Attributes
    ----------
    groups
        Places of structures, those of one composition together.
    layout
        Places of the labels.
    """

    groups: list[list[int]]
    layout: Layout

    @classmethod
    def of(cls, structures: Sequence[Atoms], labels: Labels, kinds: Collection[str], species: tuple[int, ...]) -> Plan:
        """Give rows to the labels of these kinds that are there."""
        groups = group_by_composition([atoms.numbers for atoms in structures], species)
        order = np.concatenate([np.asarray(group) for group in groups])
        energy, forces = (labels.present(kind) & (kind in kinds) for kind in ("energy", "forces"))
        return cls(groups, Layout.of(order, energy, forces, 3 * labels.n_atoms))


@dataclass(frozen=True, eq=False)
class System:
    """What stands in the rows of a plan.

    Attributes
    ----------
    terms
        Maps with the structures' derivatives.
    layout
        Places of the labels.
    composition
        Atoms of each species in each structure.
    baseline
        Energy constant of each species by least squares, which targets lack, eV.
    targets
        Labels less the baseline.
    """

    terms: Terms
    layout: Layout
    composition: Float[np.ndarray, "structures species"]
    baseline: Float[np.ndarray, " species"]
    targets: Float[np.ndarray, " rows"]

    @classmethod
    def of(
        cls,
        maps: Sequence[DerivativeMap],
        structures: Sequence[Atoms],
        labels: Labels,
        plan: Plan,
        device: str | None = None,
    ) -> System:
        """Describe structures with their derivatives, on a device where one is named."""
        composition = composition_of(structures, maps[0].species)
        baseline = least_squares_e0(e0_rows(labels, composition))
        terms = [(term, [term.frames([structures[k] for k in g], g) for g in plan.groups]) for term in maps]
        if device is not None:
            terms = [(term, [frames.on(device) for frames in found]) for term, found in terms]
        targets = _targets(plan.layout, labels, composition @ baseline)
        return cls(terms, plan.layout, composition, baseline, targets)

    def variance(self, noise: Noise) -> Float[np.ndarray, " rows"]:
        """Return the variance of the noise of every row."""
        result = np.empty(self.layout.n_rows)
        here = self.layout.energy >= 0
        if here.any():
            result[self.layout.energy[here]] = (self.composition[here].sum(axis=1) * noise.sigma("energy")) ** 2
        if self.layout.n_rows > self.layout.n_energies:
            result[self.layout.n_energies :] = noise.sigma("forces") ** 2
        return result

    @property
    def constants(self) -> Float[np.ndarray, "energies energies"]:
        """Covariance of the energies by the prior of their constants."""
        here = self.layout.energy >= 0
        counted = np.empty((self.layout.n_energies, self.composition.shape[1]))
        counted[self.layout.energy[here]] = E0_PRIOR * self.composition[here]
        return counted @ counted.T

    def fill(self, matrix: Any) -> None:
        """Write the lower triangle of the prior covariance into zeros: a `Triangle`, or a tensor on the device."""
        fill_lower(matrix, self.terms, self.layout)
        if isinstance(matrix, Triangle):
            matrix.add_corner(self.constants)
            return
        import torch

        constants = torch.as_tensor(self.constants, device=matrix.device)
        matrix[: len(constants), : len(constants)] += constants


def _targets(layout: Layout, labels: Labels, baseline: Float[np.ndarray, " structures"]) -> Float[np.ndarray, " rows"]:
    y = np.empty(layout.n_rows)
    here = layout.energy >= 0
    y[layout.energy[here]] = (labels.energy - baseline)[here]
    for s in np.flatnonzero(layout.forces >= 0):
        y[layout.force_rows(int(s))] = np.asarray(labels.forces[s]).ravel()
    return y
