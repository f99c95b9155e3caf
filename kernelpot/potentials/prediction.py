"""What a model says about structures, with the standard deviation of every number; and how labels differ from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.labels import Labels
from kernelpot.data.noise import KINDS
from kernelpot.errors import NotFittedError, ParameterError
from kernelpot.potentials.calibration import NORMAL, Residuals, Shape


@dataclass(frozen=True, eq=False)
class Mean:
    """Mean predictions for a batch, flat; or what a baseline adds to them, whose stress may be NaN with a cell, too."""

    energy: Float[np.ndarray, " structures"]  # Total energies, eV
    local_energy: Float[np.ndarray, " atoms"]  # Energy of every atom, its species' constant included, eV
    forces: Float[np.ndarray, "atoms 3"]  # eV/Å
    stress: Float[np.ndarray, "structures 6"]  # eV/Å³, ASE's sign and Voigt order; NaN without a cell

    def plus(self, part: Mean) -> Mean:
        """Add what a baseline says."""
        return Mean(
            self.energy + part.energy,
            self.local_energy + part.local_energy,
            self.forces + part.forces,
            self.stress + part.stress,
        )


@dataclass(frozen=True, eq=False)
class Spread:
    """Standard deviations of predicted quantities."""

    energy_std: Float[np.ndarray, " structures"]  # Of the total energy, eV
    forces_std: list[Float[np.ndarray, "atoms 3"]]  # Of every force component, eV/Å, one array per structure
    stress_std: Float[np.ndarray, "structures 6"]  # eV/Å³, ASE's Voigt order; NaN without a cell
    local_energy_std: list[Float[np.ndarray, " atoms"]]  # Of every atom's energy, eV, one array per structure

    def take(self, chosen: Sequence[int]) -> Spread:
        """Return those of some structures, in the given order."""
        return Spread(
            self.energy_std[chosen],
            [self.forces_std[k] for k in chosen],
            self.stress_std[chosen],
            [self.local_energy_std[k] for k in chosen],
        )

    @staticmethod
    def joined(parts: Sequence[Spread]) -> Spread:
        """Put those of consecutive batches together."""
        return Spread(
            np.concatenate([part.energy_std for part in parts]),
            [forces for part in parts for forces in part.forces_std],
            np.concatenate([part.stress_std for part in parts]),
            [local for part in parts for local in part.local_energy_std],
        )


@dataclass(frozen=True, eq=False)
class Around:
    """What the errors of a structure's labels depend on besides their own standard deviations of the posterior."""

    # Root mean square of the bare posterior's standard deviations of the local energies around every atom,
    # eV: large where training environments are scarce
    scarcity: Float[np.ndarray, " atoms"]
    strangeness: float  # The bare posterior's standard deviation of the total energy over √N, eV
    element: Int[np.ndarray, " atoms"]  # Atomic numbers

    @property
    def mean_scarcity(self) -> float:
        """Root mean square over the atoms, eV."""
        return float(np.sqrt(np.mean(self.scarcity**2)))


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
    around
        What the labels' standard deviations depend on besides the posterior's; None where they were not asked for.
    shape
        Bends and tails of the kinds that were calibrated by `SparseGP.calibrate`.
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
    around: list[Around] | None = None
    shape: Mapping[str, Shape] = field(default_factory=dict)
    extrapolation: list[Float[np.ndarray, " atoms"]] | None = None

    def require_spread(self) -> Spread:
        """Return the labels' standard deviations.

        Raises
        ------
        NotFittedError
            The prediction was made without them, or the model has none.
        """
        if self.label is None:
            raise NotFittedError(
                "this prediction has no standard deviations: it was made with uncertainty=False, or by a ForceRidge, "
                "which has them after a fit with keep_factor=True alone, and never from a file."
            )
        return self.label

    @property
    def energy_std(self) -> Float[np.ndarray, " structures"]:
        """Standard deviation of a total-energy label, eV."""
        return self.require_spread().energy_std

    @property
    def forces_std(self) -> list[Float[np.ndarray, "atoms 3"]]:
        """Standard deviation of every force label, eV/Å."""
        return self.require_spread().forces_std

    @property
    def stress_std(self) -> Float[np.ndarray, "structures 6"]:
        """Standard deviation of every stress label, eV/Å³."""
        return self.require_spread().stress_std

    @property
    def local_energy_std(self) -> list[Float[np.ndarray, " atoms"]]:
        """Calibrated standard deviation of every atom's energy, eV; atoms have no labels, so no noise is added."""
        return self.require_spread().local_energy_std

    def interval(self, kind: str, level: float = 0.95) -> tuple[Any, Any]:
        """Return the lower and upper ends of intervals that should hold this share of labels.

        After `SparseGP.calibrate` the half widths are conformal quantiles of errors on labels that the model did not
        see, in standard deviations; before it they are those of a normal distribution.

        Parameters
        ----------
        kind
            "energy" (total, eV), "forces" (eV/Å) or "stress" (eV/Å³).
        level
            Between 0 and 1.

        Returns
        -------
        lower, upper
            In the form of the prediction itself: arrays, or for forces lists of arrays.

        Raises
        ------
        ParameterError
            There is no such kind, or the level is none.
        NotFittedError
            The prediction was made with uncertainty=False.
        """
        if kind not in KINDS:
            raise ParameterError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}.")
        spread = self.require_spread()
        q = self.shape.get(kind, NORMAL).quantile(level)
        if kind == "forces":
            pairs = list(zip(self.forces, spread.forces_std, strict=True))
            return [f - q * s for f, s in pairs], [f + q * s for f, s in pairs]
        middle, std = (self.energy, spread.energy_std) if kind == "energy" else (self.stress, spread.stress_std)
        return middle - q * std, middle + q * std

    def take(self, indices: Sequence[int] | Int[np.ndarray, " chosen"]) -> Prediction:
        """Return the predictions of some structures, in the given order."""
        chosen = [int(k) for k in indices]
        return Prediction(
            self.energy[chosen],
            [self.forces[k] for k in chosen],
            self.stress[chosen],
            [self.local_energy[k] for k in chosen],
            None if self.latent is None else self.latent.take(chosen),
            None if self.label is None else self.label.take(chosen),
            None if self.around is None else [self.around[k] for k in chosen],
            self.shape,
            None if self.extrapolation is None else [self.extrapolation[k] for k in chosen],
        )

    def __len__(self) -> int:
        """Count the structures."""
        return len(self.energy)


class Predictor(Protocol):
    """Anything that predicts structures."""

    def predict(self, structures: Sequence[object], *, uncertainty: bool = True) -> Prediction:
        """Return a prediction for each structure."""


def require_potential(model: object) -> None:
    """Refuse a model of one property of a structure: an estimator of scikit-learn, such as `KernelRidge` or `GP`."""
    if hasattr(model, "__sklearn_tags__"):
        raise ParameterError(
            f"`model` must be a potential, such as SparseGP or ForceRidge, got a {type(model).__name__}, which knows "
            "one property and no forces; take its own `predict`, `std` and `score`."
        )


def join(parts: list[Prediction]) -> Prediction:
    """Put the predictions for consecutive batches together."""

    def spreads(name: str) -> Spread | None:
        found = [getattr(p, name) for p in parts]
        return None if found[0] is None else Spread.joined(found)

    return Prediction(
        np.concatenate([p.energy for p in parts]),
        [f for p in parts for f in p.forces],
        np.concatenate([p.stress for p in parts]),
        [e for p in parts for e in p.local_energy],
        spreads("latent"),
        spreads("label"),
        None if parts[0].around is None else [a for p in parts for a in p.around or []],
        parts[0].shape,
        [g for p in parts for g in p.extrapolation or ()] if parts[0].extrapolation is not None else None,
    )


def residuals_of(
    prediction: Prediction, labels: Labels, witness: Int[np.ndarray, " structures"] | None = None
) -> dict[str, Residuals]:
    """Compare predictions with the labels that are there; structures with one `witness` are not independent."""
    witness = np.arange(len(prediction)) if witness is None else witness
    found = {kind: _of_kind(kind, prediction, labels, witness) for kind in KINDS if labels.present(kind).any()}
    return {kind: residuals for kind, residuals in found.items() if len(residuals)}


def _of_kind(kind: str, prediction: Prediction, labels: Labels, witness: Int[np.ndarray, " structures"]) -> Residuals:
    members = np.flatnonzero(labels.present(kind)).tolist()

    def flat(energy: np.ndarray, forces: Sequence[np.ndarray | None], stress: np.ndarray) -> list[np.ndarray]:
        if kind == "energy":
            return [np.array([energy[s] / labels.n_atoms[s]]) for s in members]
        return [stress[s] if kind == "stress" else np.asarray(forces[s]).ravel() for s in members]

    predicted = flat(prediction.energy, prediction.forces, prediction.stress)
    labelled = flat(labels.energy, labels.forces, labels.stress)
    error = np.concatenate([y - x for x, y in zip(predicted, labelled, strict=True)])
    latent, std = (
        np.full(len(error), np.nan) if s is None else np.concatenate(flat(s.energy_std, s.forces_std, s.stress_std))
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
    owner = np.repeat(witness[members], [len(v) for v in labelled])
    rows = np.ones(len(error), dtype=np.int64)
    every = Residuals(
        error, latent**2, owner, rows, noisy=False, std=std, scarcity=scarcity, strangeness=strangeness, element=element
    )
    return every.take(np.isfinite(error))
