"""A fitted model's state, with everything that is computed from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.data.noise import Noise
from kernelpot.errors import NotFittedError
from kernelpot.features.feature_map import E0_PRIOR, Described, FeatureMap, Form
from kernelpot.features.gradients import gather_pairs
from kernelpot.linalg.factor import Posterior, stack
from kernelpot.potentials.baselines import Baseline, Contribution
from kernelpot.potentials.extrapolation import Extrapolation, Seen
from kernelpot.potentials.prediction import Around, Prediction, Spread
from kernelpot.potentials.shape import NORMAL, Shape
from kernelpot.potentials.training import least_squares_e0, scale_rows
from kernelpot.potentials.uncertainty import Uncertainty, scarcity


@dataclass(frozen=True, eq=False)
class Mean:
    """Mean predictions for a batch, flat.

    Attributes
    ----------
    energy
        Total energies, eV.
    local_energy
        Energy of every atom, its species' constant included, eV.
    forces
        eV/Å.
    stress
        eV/Å³, ASE's sign and Voigt order; NaN without a cell.
    """

    energy: Float[np.ndarray, " structures"]
    local_energy: Float[np.ndarray, " atoms"]
    forces: Float[np.ndarray, "atoms 3"]
    stress: Float[np.ndarray, "structures 6"]

    def plus(self, part: Contribution) -> Mean:
        """Add what a baseline says."""
        return Mean(
            self.energy + part.energy,
            self.local_energy + part.local_energy,
            self.forces + part.forces,
            self.stress + part.stress,
        )


@dataclass(frozen=True)
class Calibration:
    """How posterior variances become those of labels: label variance = factor² · latent variance + noise².

    Attributes
    ----------
    factor
        Of each kind, from the residuals of left-out folds; 1 where there were too few structures to leave any out.
    noise
        Of a label: eV/atom, eV/Å, eV/Å³; a kind that was not fitted has the largest factor of
        those that were (nothing measured its own: rather too cautious than too bold), and noise 0.
    shape
        Of the kinds that `SparseGP.calibrate` measured: how the latent standard deviation is bent, and the tails.
    """

    factor: Mapping[str, float]
    noise: Mapping[str, float]
    shape: Mapping[str, Shape] = field(default_factory=dict)

    def label(
        self,
        kind: str,
        latent: Float[np.ndarray, "..."],
        scale: float | np.ndarray = 1.0,
        **around: Float[np.ndarray, "..."],
    ) -> Float[np.ndarray, "..."]:
        """Return the label's standard deviation, where the noise is `scale` times that of the kind.

        `around` are the further arguments of `Shape.bend`; energies that come with them are per atom.
        """
        noise = self.noise.get(kind, 0.0) * np.asarray(scale)
        return np.hypot(self.scale(kind) * self.shape.get(kind, NORMAL).bend(latent, **around), noise)

    def scale(self, kind: str) -> float:
        """Return the factor of a kind's posterior standard deviation."""
        return self.factor.get(kind, max(self.factor.values(), default=1.0))


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a fit leaves behind: all that prediction, conditioning and files need.

    Attributes
    ----------
    features
        Feature map, at amplitude 1.
    posterior
        Over whitened weights and E0 columns.
    noise
        Noise that the labels were weighted with.
    amplitude
        Prior standard deviation of a local energy, eV.
    baseline
        Energy of each species that was taken off before the fit, eV.
    e0_factor
        Triangular factor of the rows (`e0_rows`) whose least squares the baseline is.
    calibration
        From posterior to label.
    cross_validation
        RMSE of left-out folds for each kind: eV/atom, eV/Å, eV/Å³; empty where there were none.
    n_labels
        Labels of each kind behind the posterior.
    reference
        Baseline potential that was taken off the labels, and is added to every mean.
    seen
        Environments behind it, for extrapolation grades; None where nobody kept them.
    """

    features: FeatureMap
    posterior: Posterior
    noise: Noise
    amplitude: float
    baseline: Float[np.ndarray, " species"]
    e0_factor: Float[np.ndarray, "rank species_plus_1"]
    calibration: Calibration
    cross_validation: Mapping[str, float]
    n_labels: Mapping[str, int]
    reference: Baseline | None = None
    seen: Seen | None = None

    @property
    def reach(self) -> float:
        """Distance up to which a batch needs neighbour pairs, Å."""
        cutoff = self.features.cutoff
        return cutoff if self.reference is None else max(cutoff, self.reference.reach(self.features.species))

    @cached_property
    def form(self) -> Form:
        """Energy as a function of what structures are described by."""
        weights = self.posterior.mean[: self.features.n_weights]
        return self.features.form(self.amplitude * self.features.unwhiten(weights))

    @cached_property
    def e0(self) -> Float[np.ndarray, " species"]:
        """Energy constant of each species, eV."""
        result: np.ndarray = self.baseline + E0_PRIOR * self.posterior.mean[self.features.n_weights :]
        return result

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """Variances of the latent posterior."""
        return Uncertainty(self.features, self.posterior, self.amplitude)

    @cached_property
    def extrapolation(self) -> Extrapolation:
        """Grades of environments against those behind the posterior."""
        if self.seen is None:
            raise NotFittedError(
                "this model holds no record of the environments it was trained on; fit again to have extrapolation "
                "grades."
            )
        return Extrapolation(self.features, self.seen)

    def mean(self, batch: Batch) -> Mean:
        """Return energies, forces and stresses of a batch."""
        return self.mean_described(self.features.describe(batch))

    def mean_described(self, described: Described) -> Mean:
        """Return energies, forces and stresses of a batch that is described already."""
        local, pairs = self.form.local_and_pairs(described)
        local = local + self.e0[described.species]
        forces, stress = gather_pairs(described.batch, pairs)
        mean = Mean(described.batch.sum_per_structure(local), local, forces, stress)
        return mean if self.reference is None else mean.plus(self.reference.evaluate(described.batch))

    def local_energy_std(self, batch: Batch) -> Float[np.ndarray, " atoms"]:
        """Return the calibrated standard deviation of every atom's energy, eV: the one that is cheap."""
        latent = np.sqrt(self.uncertainty.local_energy(self.features.describe(batch)))
        return self.calibration.scale("energy") * latent

    def predict(self, batch: Batch, *, uncertainty: bool) -> Prediction:
        """Return the predictions for a batch, one entry per structure."""
        described = self.features.describe(batch)
        mean = self.mean_described(described)
        cuts = batch.offsets[1:-1]
        latent = label = around = extrapolation = None
        if uncertainty:
            if self.seen is not None:
                extrapolation = np.split(self.extrapolation.grade(described), cuts)
            energy, forces, stress = (np.sqrt(v) for v in self.uncertainty.labelled(described))
            local = np.sqrt(self.uncertainty.local_energy(described))
            latent = Spread(energy, np.split(forces, cuts), stress, np.split(local, cuts))
            calibration = self.calibration
            n, scarce = batch.sizes, scarcity(local, batch, self.features.cutoff)
            strange = energy / np.sqrt(n)
            around = list(map(Around, np.split(scarce, cuts), strange.tolist(), np.split(batch.numbers, cuts)))
            on_atoms = {
                "scarcity": scarce[:, None],
                "strangeness": np.repeat(strange, n)[:, None],
                "element": batch.numbers[:, None],
            }
            on_structures = {"scarcity": np.array([a.mean_scarcity for a in around])}
            label = Spread(
                n * calibration.label("energy", energy / n, **on_structures),
                np.split(calibration.label("forces", forces, **on_atoms), cuts),
                calibration.label("stress", stress),
                np.split(calibration.scale("energy") * local, cuts),
            )
        return Prediction(
            mean.energy,
            np.split(mean.forces, cuts),
            mean.stress,
            np.split(mean.local_energy, cuts),
            latent,
            label,
            around,
            self.calibration.shape,
            extrapolation,
        )

    def rebased(self, rows: Float[np.ndarray, "energies species_plus_1"]) -> Fitted:
        """Return the state whose prior of E0 is centred on the least squares of these energies (`e0_rows`) too."""
        return self.with_e0(stack([self.e0_factor, rows]))

    def with_e0(self, factor: Float[np.ndarray, "rank species_plus_1"]) -> Fitted:
        """Return the state whose prior of E0 is centred on the least squares of energies with this factor."""
        baseline = least_squares_e0(factor)
        shift = np.zeros_like(self.posterior.target)
        shift[self.features.n_weights :] = (baseline - self.baseline) / E0_PRIOR
        return replace(self, posterior=self.posterior.recentred(shift), baseline=baseline, e0_factor=factor)

    def condition(self, blocks: Mapping[str, Float[np.ndarray, "rows d_plus_1"]], rows: Mapping[str, int]) -> Fitted:
        """Return the state given more whitened rows [B | y] of each kind (amplitude 1, not divided by noise)."""
        n_weights = self.features.n_weights
        scaled = [scale_rows(b, n_weights, self.noise.sigma(kind), self.amplitude) for kind, b in blocks.items()]
        labels = {kind: self.n_labels.get(kind, 0) + rows.get(kind, 0) for kind in {*self.n_labels, *rows}}
        return replace(self, posterior=self.posterior.condition(scaled), n_labels=labels)


def join(parts: list[Prediction]) -> Prediction:
    """Put the predictions for consecutive batches together."""

    def spreads(name: str) -> Spread | None:
        found = [getattr(p, name) for p in parts]
        if found[0] is None:
            return None
        return Spread(
            np.concatenate([s.energy_std for s in found]),
            [f for s in found for f in s.forces_std],
            np.concatenate([s.stress_std for s in found]),
            [e for s in found for e in s.local_energy_std],
        )

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
