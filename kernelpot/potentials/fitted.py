"""A fitted model's state, with everything that is computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.data.check import check_species
from kernelpot.data.labels import Labels
from kernelpot.data.noise import KINDS, Noise
from kernelpot.data.stream import chunks, structure_list
from kernelpot.errors import NotFittedError
from kernelpot.features.feature_map import E0_PRIOR, Described, FeatureMap, Form
from kernelpot.features.vectors import gather_pairs
from kernelpot.linalg.factor import Posterior, stack
from kernelpot.potentials.baselines import Baseline
from kernelpot.potentials.calibration import Calibration
from kernelpot.potentials.extrapolation import Extrapolation, Seen, add_local, parts_of
from kernelpot.potentials.prediction import Around, Mean, Prediction, Spread, join
from kernelpot.potentials.training import (
    Rows,
    TrainingSet,
    composition_of,
    e0_rows,
    least_squares_e0,
    prior_roots,
    unknown_constants,
    weighed_rows,
)
from kernelpot.progress import track
from kernelpot.run import ordered
from kernelpot.units import MILLI

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_PER_PREDICTION = 256

ROUND_OFF = 1e-13
"""Eigenvalues of a Gram matrix of unit columns that tell nothing."""

PATHS = {
    "collapsed": "as one polynomial of the descriptor (exact)",
    "inducing": "by kernels with inducing environments",
}
"""Words for the ways to evaluate an energy."""

FEW = 30
"""Structures below which left-out residuals say little about the scale of standard deviations."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a fit leaves behind: all that prediction, conditioning and files need."""

    features: FeatureMap  # At amplitude 1
    posterior: Posterior  # Over whitened weights and E0 columns
    noise: Noise  # That the labels were weighted with
    amplitude: float  # Prior standard deviation of a local energy, eV
    # Energy of each species that the prior of E0 is centred on, and that was taken off before the fit, eV
    e0_centre: Float[np.ndarray, " species"]
    # Triangular factor of the rows (`e0_rows`) whose least squares `e0_centre` is
    e0_factor: Float[np.ndarray, "rank species_plus_1"]
    calibration: Calibration  # From posterior to label
    # RMSE of left-out folds for each kind: eV/atom, eV/Å, eV/Å³; empty where there were none
    cross_validation: Mapping[str, float]
    n_labels: Mapping[str, int]  # Labels of each kind behind the posterior
    baseline: Baseline | None = None  # Potential that was taken off the labels, and is added to every mean
    # Prior standard deviation of E0 about `e0_centre`, eV; that of files which do not say
    e0_std: float = E0_PRIOR
    seen: Seen | None = None  # Environments behind it, for extrapolation grades; None where nobody kept them

    @property
    def reach(self) -> float:
        """Distance up to which a batch needs neighbour pairs, Å."""
        cutoff = self.features.cutoff
        return cutoff if self.baseline is None else max(cutoff, self.baseline.reach(self.features.species))

    @cached_property
    def form(self) -> Form:
        """Energy as a function of what structures are described by."""
        weights = self.posterior.mean[: self.features.n_weights]
        return self.features.form(self.amplitude * self.features.unwhiten(weights))

    @cached_property
    def e0(self) -> Float[np.ndarray, " species"]:
        """Energy constant of each species, eV."""
        result: np.ndarray = self.e0_centre + E0_PRIOR * self.posterior.mean[self.features.n_weights :]
        return result

    @property
    def roots(self) -> Float[np.ndarray, " d"]:
        """Inverse standard deviations of the prior of [features | E0 columns]."""
        return prior_roots(self.features, self.e0_std)

    @cached_property
    def unknown(self) -> Float[np.ndarray, "species k"]:
        """What `unknown_constants` says of the labelled energies."""
        return unknown_constants(self.e0_factor[:, :-1], self.e0_std)

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """Variances of the latent posterior."""
        return Uncertainty(self.features, self.posterior, self.amplitude, self.unknown)

    @cached_property
    def extrapolation(self) -> Extrapolation:
        """Grades of environments against those behind the posterior."""
        if self.seen is None:
            raise NotFittedError(
                "this model holds no record of the environments it was trained on; fit again to have extrapolation "
                "grades."
            )
        return Extrapolation(self.features, self.seen)

    # ---- predictions

    def mean(self, batch: Batch) -> Mean:
        """Return energies, forces and stresses of a batch."""
        return self._mean(batch, *self.features.energies_and_pairs(self.form, batch))

    def mean_described(self, described: Described) -> Mean:
        """Return energies, forces and stresses of a batch that is described already."""
        return self._mean(described.batch, *self.form.local_and_pairs(described))

    def _mean(self, batch: Batch, local: Float[np.ndarray, " atoms"], pairs: Float[np.ndarray, "pairs 3"]) -> Mean:
        local = local + self.e0[np.searchsorted(self.features.species, batch.numbers)]
        forces, stress = gather_pairs(batch, pairs)
        mean = Mean(batch.sum_per_structure(local), local, forces, stress)
        return mean if self.baseline is None else mean.plus(self.baseline.evaluate(batch))

    def local_energy_std(self, batch: Batch) -> Float[np.ndarray, " atoms"]:
        """Return the calibrated standard deviation of every atom's energy, eV: the one that is cheap."""
        latent = np.sqrt(self.uncertainty.local_energy(self.features.describe(batch)))
        return self.calibration.scale("energy") * latent

    def predict(self, structures: Sequence[Atoms], *, uncertainty: bool, grades: bool = True) -> Prediction:
        """Predict structures, with standard deviations and extrapolation grades where they are wanted and known."""
        grades = grades and uncertainty and self.seen is not None

        def part(piece: tuple[int, int]) -> Prediction:
            batch = Batch.from_structures(structures[slice(*piece)], self.reach, start=piece[0])
            return self._predict(batch, uncertainty=uncertainty, grades=grades)

        # What all structures share is computed once, before threads ask for it.
        if uncertainty:
            self.uncertainty.prepare()
        if grades:
            self.extrapolation.prepare()
        return join(list(ordered(part, track(list(chunks(structures, ATOMS_PER_PREDICTION)), "predict"))))

    def _predict(self, batch: Batch, *, uncertainty: bool, grades: bool) -> Prediction:
        described = self.features.describe(batch) if uncertainty or grades else None
        # The same path with and without standard deviations, so that both say the same to the last bit.
        mean = self._mean(batch, *self.features.energies_and_pairs(self.form, batch, described))
        cuts = batch.offsets[1:-1]
        if described is None:
            parts = (np.split(mean.forces, cuts), mean.stress, np.split(mean.local_energy, cuts))
            return Prediction(mean.energy, *parts, shape=self.calibration.shape)
        latent = label = around = None
        if uncertainty:
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
            np.split(self.extrapolation.grade(described), cuts) if grades else None,
        )

    # ---- more labels

    def rows(self, structures: Sequence[Atoms], labels: Labels) -> dict[str, Rows]:
        """Return the rows [B | y] of labels as this posterior weighs them."""
        return weighed_rows(self.features, structures, labels, self.noise, self.amplitude, self.e0_centre)

    def condition(self, rows: Mapping[str, Rows]) -> Fitted:
        """Return the state given more `rows`."""
        n_labels = {k: self.n_labels.get(k, 0) + len(rows.get(k, ())) for k in dict.fromkeys([*self.n_labels, *rows])}
        return replace(self, posterior=self.posterior.condition(list(rows.values())), n_labels=n_labels)

    def rebased(self, structures: Sequence[Atoms], labels: Labels) -> Fitted:
        """Return the state whose prior of E0 is centred on the least squares of these energies too."""
        return self.with_e0(stack([self.e0_factor, e0_rows(labels, composition_of(structures, self.features.species))]))

    def with_e0(self, factor: Float[np.ndarray, "rank species_plus_1"]) -> Fitted:
        """Return the state whose prior of E0 is centred on the least squares of energies with this factor."""
        centre = least_squares_e0(factor)
        shift = np.zeros_like(self.posterior.target)
        shift[self.features.n_weights :] = (centre - self.e0_centre) / E0_PRIOR
        return replace(self, posterior=self.posterior.recentred(shift, self.roots), e0_centre=centre, e0_factor=factor)

    def without_energies(self, rows: Float[np.ndarray, "energies species_plus_1"]) -> Fitted:
        """Return the state whose prior of E0 is centred on the least squares of the energies but these.

        From FᵀF = factorᵀ factor - rowsᵀ rows, what is below round-off left out. Energies are taken relative to E0
        meanwhile: all-electron ones of 1e5 eV per atom, once squared, would leave no digits for the species' shares.
        """
        factor, e0 = self.e0_factor, self.e0_centre
        relative = np.eye(factor.shape[1])
        relative[:-1, -1] = -e0
        kept, gone = factor @ relative, rows @ relative
        scale = np.linalg.norm(kept, axis=0)
        scale[scale == 0.0] = 1.0
        eigenvalues, vectors = np.linalg.eigh((kept.T @ kept - gone.T @ gone) / np.outer(scale, scale))
        root = np.sqrt(np.where(eigenvalues > ROUND_OFF, eigenvalues, 0.0))[:, None] * vectors.T * scale
        root[:, -1] += root[:, :-1] @ e0
        return self.with_e0(root)

    def summary(self) -> str:
        """Describe size, labels, noises, leave-out errors and energy constants, one fact a line."""
        from ase.data import chemical_symbols

        features = self.features
        names = [chemical_symbols[z] for z in features.species]
        paths = [PATHS.get(path, path) for path in self.form.paths]
        if len(paths) == len(names):
            paths = [f"{name} {path}" for name, path in zip(names, paths, strict=True)]
        lines = [
            f"species             {' '.join(names)}",
            f"inducing            {features.n_inducing} ({features.shares()}); {features.n_weights} independent",
            f"evaluation          {', '.join(paths)}",
            f"amplitude           {', '.join(f'{self.amplitude * scale:.4g} eV' for scale in features.scales)}",
        ]
        for kind, count in self.n_labels.items():
            unit = MILLI[kind]
            text = f"{kind:<19} {count} labels, weighted by noise {1e3 * self.noise.sigma(kind):.4g} {unit}"
            if kind in self.cross_validation:
                text += f", left-out RMSE {1e3 * self.cross_validation[kind]:.4g} {unit}"
            # A kind that only `condition` brought was never calibrated.
            noise, factor = 1e3 * self.calibration.noise.get(kind, 0.0), self.calibration.scale(kind)
            # A calibrated std is bent and has a floor, which is no noise: the misfit is in the bent part.
            what = "calibrated: floor of the std" if kind in self.calibration.shape else "misfit of fitted labels"
            lines.append(f"{text}, {what} {noise:.4g}, std factor {factor:.3g}")
        n = self.n_labels.get("energy", FEW)
        if n < FEW:
            lines.append(
                f"note                {n} energies are few: standard deviations can be trusted from about {FEW} on"
            )
        if self.baseline is not None:
            lines.append(f"baseline            {self.baseline.describe(features.species)}")
        e0 = ", ".join(f"{name} {value:.4f} eV" for name, value in zip(names, self.e0, strict=True))
        return "\n".join([*lines, f"energy constants    {e0}"])


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Variances of a fitted model: posterior of the weights plus the residual that inducing environments cannot see."""

    features: FeatureMap
    posterior: Posterior
    amplitude: float
    unknown: Float[np.ndarray, "species k"]  # Of energy constants that no label tells apart

    @cached_property
    def _there(self) -> Any:
        """The same on the device of the features, where they have one."""
        make = getattr(self.features, "variances", None)
        if make is None:
            return None
        inverse, n_weights = self.posterior.project(np.eye(len(self.posterior.target))), self.features.n_weights
        weights = self.amplitude * self.features.unwhiten(inverse[:n_weights])
        return make(np.concatenate([weights, E0_PRIOR * inverse[n_weights:]]), self._shrinkage, self.amplitude)

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
        _ = self._shrinkage, self._there

    def local_energy(self, described: Described) -> Float[np.ndarray, " atoms"]:
        """Return the variance of every atom's energy, eV²."""
        features, v = self.features, self._shrinkage
        unknown = np.einsum("sk,sk->s", self.unknown, self.unknown)
        prior = self.amplitude**2 * features.local_prior(described) + E0_PRIOR**2 + unknown[described.species]
        if self._there is not None:
            return np.maximum(prior - self._there.local_seen(described), 0.0)
        known = np.empty_like(prior)
        for atoms, part in parts_of(features, described):
            seen = v[features.n_columns + part.species]
            add_local(seen, features, part, v)
            known[atoms] = np.einsum("id,id->i", seen, seen)[: len(atoms)]
        return np.maximum(prior - known, 0.0)

    def labelled(
        self, described: Described
    ) -> tuple[Float[np.ndarray, " structures"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "structures 6"]]:
        """Return the variances of total energies (eV²), force components and stress components."""
        batch = described.batch
        constants = np.sum((batch.counts(self.features.species) @ self.unknown) ** 2, axis=1)
        if self._there is not None:
            energy, forces, stress = self._there.labelled(described)
            return energy + constants, forces, stress
        composition = batch.counts(self.features.species)
        none = np.zeros((1, composition.shape[1]))
        forces = np.empty((batch.n_atoms, 3))
        of_energy, of_stress = (np.zeros((k * len(batch), self.features.n_columns)) for k in (1, 6))
        for atoms, part in parts_of(self.features, described):
            rows = self.features.rows(part, KINDS)
            assert rows.forces is not None
            assert rows.stress is not None
            found = self._variance(part, "forces", rows.forces[: 3 * len(atoms)], none)
            forces[atoms] = found.reshape(-1, 3)
            of_energy += rows.energy[: len(of_energy)]
            of_stress += rows.stress[: len(of_stress)]
        energy = self._variance(described, "energy", of_energy, composition)
        stress = np.full((len(batch), 6), np.nan)
        solid = np.isfinite(batch.volumes)
        if solid.any():
            with np.errstate(invalid="ignore"):
                every = self._variance(described, "stress", of_stress, none).reshape(-1, 6)
            stress[solid] = every[solid]
        return energy + constants, forces, stress

    def _variance(
        self,
        described: Described,
        kind: str,
        rows: Float[np.ndarray, "rows m"],
        composition: Float[np.ndarray, "any species"],
    ) -> Float[np.ndarray, " rows"]:
        white = self.features.whiten(rows)
        residual = self.features.residual(described, kind, white)
        e0 = np.broadcast_to(E0_PRIOR * composition, (len(rows), composition.shape[1]))
        seen = self.posterior.variance(np.concatenate([self.amplitude * white, e0], axis=1))
        return seen + self.amplitude**2 * residual


def scarcity(local_std: Float[np.ndarray, " atoms"], batch: Batch, cutoff: float) -> Float[np.ndarray, " atoms"]:
    """Return the root mean square of the local energies' standard deviations over each atom with its neighbours, eV.

    Large where training environments are scarce: the error of a force comes from the energies of all atoms around.
    """
    squared = local_std**2
    near = np.einsum("px,px->p", batch.vectors, batch.vectors) <= cutoff**2
    first, second = batch.first[near], batch.second[near]
    total = squared + np.bincount(first, squared[second], batch.n_atoms)
    result: np.ndarray = np.sqrt(total / (1.0 + np.bincount(first, minlength=batch.n_atoms)))
    return result


class HasState(Protocol):
    """Anything with a fitted state."""

    @property
    def state(self) -> Fitted:
        """Return the state, or say that there is none."""


class Model(HasState, Protocol):
    """What functions need of a `SparseGP` that are its methods there."""

    seed: int
    tolerance: float
    baseline: Baseline | None
    features_: FeatureMap | None
    fitted_: Fitted | None
    training_: TrainingSet | None

    def fit(self, structures: Sequence[Atoms], *, keys: Mapping[str, str | None] | None = None) -> Any:
        """Fit the labels of structures."""

    def predict(self, structures: Sequence[Atoms], *, uncertainty: bool = True) -> Prediction:
        """Predict structures."""

    def plan(self) -> tuple[FeatureMap, Noise, float]:
        """Return what design works with: features, noise and amplitude."""


M = TypeVar("M", bound=Model)


def accepted(model: HasState, structures: Sequence[Atoms]) -> tuple[Fitted, list[Atoms]]:
    """Return the state with structures of its elements."""
    state = model.state
    structures = structure_list(structures)
    check_species(structures, state.features.species)
    return state, structures


def changed(model: M, **parts: Any) -> M:
    """Return a model with the same settings, and no features, state or training set but those given."""
    result = copy(model)
    vars(result).update({"features_": None, "fitted_": None, "training_": None} | parts)
    return result
