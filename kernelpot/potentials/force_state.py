"""What a kernel fit to energies and forces leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.data.labels import Labels
from kernelpot.data.noise import Noise
from kernelpot.errors import ParameterError
from kernelpot.features.derivative_map import DerivativeMap
from kernelpot.features.feature_map import E0_PRIOR
from kernelpot.features.gradients import gather_pairs
from kernelpot.features.training_form import TrainingForm
from kernelpot.linalg.dense import Cholesky
from kernelpot.linalg.devices import computing
from kernelpot.linalg.triangle import BLOCK, Triangle
from kernelpot.potentials.force_system import Plan, System
from kernelpot.potentials.prediction import Mean
from kernelpot.potentials.training import e0_rows, least_squares_e0
from kernelpot.progress import say

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class ForceState:
    """The mean of the posterior, collapsed on training environments.

    Attributes
    ----------
    forms
        One for each term of the local energy.
    species
        Atomic numbers, sorted.
    e0
        Energy constant of each species, eV.
    noise
        Of the labels.
    n_labels
        Labels of each kind behind it.
    """

    forms: tuple[TrainingForm, ...]
    species: tuple[int, ...]
    e0: Float[np.ndarray, " species"]
    noise: Noise
    n_labels: Mapping[str, int]

    @property
    def reach(self) -> float:
        """Distance up to which a batch needs neighbour pairs, Å."""
        return max(form.map.descriptor.cutoff for form in self.forms)

    def mean(self, batch: Batch) -> Mean:
        """Return energies, forces and stresses of a batch."""
        found = [form.local_and_pairs(batch) for form in self.forms]
        local, pairs = (sum(parts[1:], start=parts[0]) for parts in zip(*found, strict=True))
        local = local + self.e0[np.searchsorted(self.species, batch.numbers)]
        forces, stress = gather_pairs(batch, pairs)
        return Mean(batch.sum_per_structure(local), local, forces, stress)


@dataclass(frozen=True, eq=False)
class Factored:
    """The factor of the labels' covariance with what it takes to see it from elsewhere: the whole posterior.

    Attributes
    ----------
    cholesky
        Of the labels' covariance, noise included.
    system
        The labels with the training structures' derivatives.
    scale
        √(yᵀK⁻¹y / n): by what number amplitude and noises together reach the largest marginal likelihood, which leaves
        the mean as it is (Rasmussen and Williams (2006), eq. 5.8, in closed form for a common factor).
    """

    cholesky: Cholesky
    system: System
    scale: float


def fit_forces(
    maps: Sequence[DerivativeMap],
    structures: Sequence[Atoms],
    labels: Labels,
    plan: Plan,
    noise: Noise,
    *,
    device: str | None,
) -> tuple[ForceState, Factored]:
    """Fit energies and forces by the Cholesky factor of their covariance.

    Parameters
    ----------
    maps
        Terms of the local energy.
    structures, labels
        Structures with their labels, in one order.
    plan
        Which labels are fitted.
    noise
        A kind without one is no label: with forces alone the energy is integrated, and its constants follow by least
        squares from the energies that are there.
    device
        None: NumPy; else PyTorch's name of the device for kernel blocks and factorisation.

    Raises
    ------
    ParameterError
        The matrix is singular to round-off.
    """
    layout = plan.layout
    system = System.of(maps, structures, labels, plan, device)
    cholesky, y = _factor(system, noise, device), system.targets
    alpha = cholesky.solve(y)
    forms = tuple(TrainingForm.from_weights(term, found, layout, alpha, device) for term, found in system.terms)
    here = layout.energy >= 0
    e0 = system.baseline + E0_PRIOR**2 * system.composition[here].T @ alpha[layout.energy[here]]
    n_labels = {"energy": layout.n_energies, "forces": layout.n_rows - layout.n_energies}
    state = ForceState(forms, maps[0].species, e0, noise, {kind: n for kind, n in n_labels.items() if n})
    if noise.energy is None:
        state = _integrated(state, structures, labels, system.composition)
    scale = float(np.sqrt(y @ alpha / len(y)))
    return state, Factored(cholesky, system, scale)


def check_memory(
    maps: Sequence[DerivativeMap], structures: Sequence[Atoms], n_rows: int, memory_gb: float, device: str | None
) -> None:
    """Say how much memory a fit takes; refuse one that takes more than it may.

    Raises
    ------
    ParameterError
        It does.
    """
    # Runs of rows hold the lower half; PyTorch factorises into a second matrix.
    matrix = 4.0 * n_rows * (n_rows + BLOCK) if device is None else 16.0 * n_rows**2
    derivatives = 0.0
    for term in maps:
        width = dict(zip(term.species, (c.shape[1] for c in term.columns), strict=True))
        widths = np.array([sum(width[int(z)] for z in atoms.numbers) for atoms in structures])
        derivatives += 8.0 * float(widths @ np.array([3 * len(atoms) + 1 for atoms in structures]))
    total = (matrix + derivatives) / 1e9
    plan = f"{n_rows:,} labels: {matrix / 1e9:.3g} GB for their covariance, {derivatives / 1e9:.3g} GB for derivatives"
    say(f"fit: {plan}")
    if total > memory_gb:
        raise ParameterError(
            f"the fit takes {total:.3g} GB ({plan}), more than `memory_gb` = {memory_gb:g}; raise it where the machine "
            "has more, or fit fewer structures (`kernelpot.design.select` chooses them), or use SparseGP."
        )


def _factor(system: System, noise: Noise, device: str | None) -> Cholesky:
    n, variance = system.layout.n_rows, system.variance(noise)
    try:
        if device is None:
            matrix = Triangle.zeros(n)
            system.fill(matrix)
            matrix.add_diagonal(variance)
            return Cholesky.of(matrix)
        import torch

        with computing(device):
            there = torch.zeros((n, n), dtype=torch.float64, device=device)
            system.fill(there)
            there.diagonal().add_(torch.as_tensor(variance, device=device))
            return Cholesky.of(there)
    except np.linalg.LinAlgError as error:
        raise ParameterError(
            f"the covariance of the labels is singular to round-off ({error}): the noise ({noise}) is too small for "
            "the amplitude; raise `noise`, or lower the kernel's amplitude."
        ) from None


def _integrated(
    state: ForceState, structures: Sequence[Atoms], labels: Labels, composition: Float[np.ndarray, "structures species"]
) -> ForceState:
    """Return the state with the energy constants that fit the energies best; zeros where there is no energy."""
    here = np.flatnonzero(labels.present("energy"))
    if not len(here):
        return replace(state, e0=np.zeros(len(state.species)))
    flat = replace(state, e0=np.zeros(len(state.species)))
    parts = [flat.mean(Batch.from_structures([structures[k]], flat.reach)) for k in here.tolist()]
    predicted = np.concatenate([part.energy for part in parts])
    left = replace(labels.take(here), energy=labels.energy[here] - predicted)
    return replace(state, e0=least_squares_e0(e0_rows(left, composition[here])))
