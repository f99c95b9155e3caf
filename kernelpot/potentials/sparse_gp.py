"""The sparse Gaussian process: a Gaussian posterior over the weights of whitened kernel features."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.batch import Batch
from kernelpot.data.check import validate
from kernelpot.data.labels import Labels, resolve
from kernelpot.data.noise import KINDS, Noise
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.errors import LabelError, NotFittedError, ParameterError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.functionals import LinearRows, all_linear_rows
from kernelpot.features.information import make_information
from kernelpot.features.placing import on_device
from kernelpot.kernels import DotProduct, Gaussian, Linear, check_amplitude
from kernelpot.linalg.devices import check_device
from kernelpot.linalg.workers import number_of
from kernelpot.potentials import fitting, joint
from kernelpot.potentials.accept import check_species, element_numbers, fold_numbers, force_masks, structure_list
from kernelpot.potentials.archive import write_model
from kernelpot.potentials.baselines import Baseline, Contribution
from kernelpot.potentials.baselines.given import as_baseline, evaluated, less_baseline
from kernelpot.potentials.calibrate import calibrate, check_method
from kernelpot.potentials.fitted import Fitted
from kernelpot.potentials.joint import EnergyDifference, JointEnergies, SampledModel
from kernelpot.potentials.prediction import Mean, Prediction, residuals_of
from kernelpot.potentials.terms import Term, build, check_n_inducing, leading, terms_of
from kernelpot.potentials.training import TrainingSet, Workers
from kernelpot.rules import real

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.design.information import Information

SEARCHES = ("cv", "evidence", "tempered")
INDUCING = ("fps", "cur", "random")

TRUNCATE = 1e-5
"""Share of the trace of a block's label kind that compression drops; of certificates it costs one or two per cent."""


class SparseGP:
    """Sparse Gaussian process potential.

    Local energies are Gaussian-process functions of the unit environment vectors, seen through M inducing environments
    (Snelson and Ghahramani (2005); Bartók et al. (2010)); energies, forces and stresses are rows of one Bayesian linear
    model over whitened features. Residual variance outside the inducing environments is added to predictions.

    Parameters
    ----------
    descriptor
        Such as `SOAP` or `ACSF`; or a list of descriptors and of `Term` objects: the local energy is then their sum,
        each term with an amplitude of its own, such as ``[TwoBody(cutoff=7.0), SOAP(cutoff=5.0)]``.
    kernel
        Of two unit vectors, for every descriptor that comes without one. Its amplitude (eV) is the prior standard
        deviation of a local energy; in a sum, that of the first term is the unit of the others.
    n_inducing
        Upper limit of inducing environments of all species, and of all terms, together.
    noise
        A `Noise` stays as given, with the amplitudes. "cv": noises and amplitudes minimise Σ_kind log(RMSE of left-out
        folds). "evidence": they maximise the marginal likelihood, which lets thousands of correlated force rows outvote
        the energies; for comparison. "tempered": the same, the likelihood of forces and stresses raised to a power
        below 1 that makes up for their correlations.
    seed
        Makes the choice of inducing environments and of folds repeatable.
    inducing
        How inducing environments are chosen: "fps", "cur" or "random".
    tolerance
        Eigenvalues of K_ZZ below tolerance · λ_max are dropped.
    device
        None: compiled loops on the CPU. "cpu", "cuda" or "cuda:0": PyTorch there (`to` moves a model).
    precision
        "float64", or with a device "mixed" or "float32" (see `to`).
    baseline
        A potential to learn the difference from: a `ZBL`, a `CalculatorBaseline` or an ASE calculator. Its energies,
        forces and stresses are taken off the labels before anything else and added to every mean; it has no standard
        deviation.

    Raises
    ------
    ParameterError
        A parameter breaks its rule.
    """

    def __init__(
        self,
        descriptor: Descriptor | Term | Sequence[Descriptor | Term],
        kernel: DotProduct | Gaussian | Linear | None = None,
        *,
        n_inducing: int,
        noise: Noise | str | None = None,
        seed: int = 0,
        inducing: str = "fps",
        tolerance: float = 1e-10,
        device: str | None = None,
        precision: str = "float64",
        baseline: Baseline | None = None,
    ) -> None:
        check_n_inducing(n_inducing)
        check_device(device, precision)
        if not isinstance(noise, Noise | None) and noise not in SEARCHES:
            raise ParameterError(f'`noise` must be a Noise, "cv", "evidence" or "tempered", got {noise!r}.')
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
            raise ParameterError(f"`seed` must be a whole number of 32 bits, 0 or more, got {seed!r}.")
        if inducing not in INDUCING:
            raise ParameterError(f"`inducing` must be one of {', '.join(INDUCING)}, got {inducing!r}.")
        if not isinstance(tolerance, float | np.floating) or not 0.0 < tolerance < 1.0:
            raise ParameterError(f"`tolerance` must lie between 0 and 1, got {tolerance!r}; 1e-10 is usual.")
        self.terms = terms_of(descriptor, kernel)
        self.n_inducing = int(n_inducing)
        self.noise: Noise | str = Noise() if noise is None else noise
        self.seed = int(seed)
        self.inducing = inducing
        self.tolerance = float(tolerance)
        self.device, self.precision = device, precision
        self.baseline = as_baseline(baseline)
        self.features_: FeatureMap | None = None
        self.fitted_: Fitted | None = None
        self.training_: TrainingSet | None = None

    def __repr__(self) -> str:
        """Return the call that makes an equal model, and what it was prepared with or fitted on, if it was."""
        parts = (self.descriptor, self.terms[0].kernel)
        what = (
            repr(list(self.terms))
            if len(self.terms) > 1
            else ", ".join(repr(part) for part in parts if part is not None)
        )
        done = [name for name, part in (("prepared", self.features_), ("fitted", self.fitted_)) if part is not None]
        state = f", {' and '.join(done)} with {self.n_inducing_} inducing environments" if done else ""
        where = "" if self.device is None else f", device={self.device!r}, precision={self.precision!r}"
        state = state if self.baseline is None else f", baseline={self.baseline!r}{state}"
        return (
            f"SparseGP({what}, n_inducing={self.n_inducing}, noise={self.noise!r}, "
            f"seed={self.seed}, inducing={self.inducing!r}, tolerance={self.tolerance}{where}{state})"
        )

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor that structures are compared by: that of the first term with a kernel."""
        return leading(self.terms).descriptor

    @property
    def kernel(self) -> DotProduct | Gaussian | Linear:
        """The kernel of the first term that has one; its amplitude is the term's prior standard deviation, eV."""
        return leading(self.terms).kernel or DotProduct(2, self.terms[0].amplitude)

    @property
    def cutoff_(self) -> float:
        """Distance up to which a batch needs neighbour pairs, Å: the largest reach of terms and fitted baseline."""
        return max(term.descriptor.cutoff for term in self.terms) if self.fitted_ is None else self.fitted_.reach

    # ---- new models

    def _copy(self, **parts: Any) -> Self:
        """Return a model with these settings and no other part than those given."""
        model = copy(self)
        vars(model).update({"features_": None, "fitted_": None, "training_": None} | parts)
        return model

    def prepare(self, structures: Sequence[Atoms], *, environments: Sequence[tuple[int, int]] | None = None) -> Self:
        """Return a new model whose inducing environments are chosen from these structures; labels are not looked at.

        Parameters
        ----------
        structures
            Structures to choose from.
        environments
            The inducing environments themselves, as (structure, atom) places counted from 0, where they are given;
            `n_inducing` is then not looked at.

        Raises
        ------
        DataError
            A structure is unusable.
        ParameterError
            There is no structure, `n_inducing` is smaller than the number of species, or a place does not exist.
        """
        return self._copy(features_=self._choose_features(structures, environments))

    def _choose_features(
        self, structures: Sequence[Atoms], environments: Sequence[tuple[int, int]] | None = None
    ) -> FeatureMap:
        features = build(
            self.terms, structure_list(structures), n_inducing=self.n_inducing, environments=environments,
            method=self.inducing, seed=self.seed, tolerance=self.tolerance,
        )  # fmt: skip
        return on_device(features, self.device, self.precision)

    def to(self, device: str | None, *, precision: str = "float64") -> Self:
        """Return the same model, prepared or fitted as this one is, computing elsewhere.

        Parameters
        ----------
        device
            None: compiled loops on the CPU. "cpu": PyTorch on the CPU. "cuda" or "cuda:0": PyTorch on a GPU.
        precision
            "float64", or with a device "mixed": energies, forces and stresses from densities in float32; or
            "float32": the rows that a fit is made from, too. Standard deviations are float64 in all.

        Raises
        ------
        ParameterError
            There is no such device, or a term has no engine for PyTorch.
        """
        check_device(device, precision)
        state, features = self.fitted_, self.features_
        if state is not None:
            # The fitted map where both are one, so that the device holds it once.
            same = features is state.features
            state = replace(state, features=on_device(state.features, device, precision))
            features = state.features if same else features
        if features is not None and (state is None or features is not state.features):
            features = on_device(features, device, precision)
        return self._copy(
            device=device, precision=precision, features_=features, fitted_=state, training_=self.training_
        )

    def condition(self, structures: Sequence[Atoms], *, keys: Mapping[str, str | None] | None = None) -> Self:
        """Return a new model that has also seen these labelled structures, with noises, amplitude and calibration kept.

        Equal to fitting all structures at once with the same inducing environments, noises and amplitude; the cost does
        not depend on what was seen before.

        Raises
        ------
        NotFittedError
            This model was never fitted.
        LabelError
            Labels are missing or broken.
        """
        state = fitting.conditioned(*self._labelled(structures, keys))
        return self._copy(features_=self.features_, fitted_=state)

    def remove(self, structures: Sequence[Atoms], *, keys: Mapping[str, str | None] | None = None) -> Self:
        """Return a new model that never saw these structures, with noises, amplitude and calibration kept.

        The triangular factor is downdated (Stewart 1979): the cost does not depend on the rest. What only these
        structures told cannot be taken out of a factor without losing digits; then it is refused. A model from a file
        does not know its training structures: then strangers are noticed only where they tell more than the
        factor holds. `calibrate` needs to be given the training structures that are left.

        Parameters
        ----------
        structures
            Some of those that were fitted, with the labels they had.
        keys
            Names of labels, as in `kernelpot.read`.

        Raises
        ------
        NotFittedError
            This model was never fitted.
        LabelError
            Labels are missing, or more than there were.
        ParameterError
            The structures tell more than the model knows, or hardly anything else tells what they told: fit again.
        """
        state, structures, labels = self._labelled(structures, keys)
        if self.training_ is not None:
            fitting.refuse_strangers(structures, self.training_)
        return self._copy(features_=self.features_, fitted_=fitting.removed(state, structures, labels))

    def add_inducing(
        self, structures: Sequence[Atoms], n: int, *, keys: Mapping[str, str | None] | None = None
    ) -> Self:
        """Return a new model with up to n more inducing environments, the farthest from those that are there.

        New inducing environments are new columns of every row, so that the whole training set is needed again: the cost
        is that of a fit with given noises. Noises and amplitudes are kept, the calibration is made anew.

        Parameters
        ----------
        structures
            All structures to be fitted, with labels; environments are chosen among theirs.
        n
            Upper limit of new inducing environments, shared over the terms that have any.
        keys
            Names of labels, as in `kernelpot.read`.

        Raises
        ------
        NotFittedError
            This model was never fitted.
        ParameterError
            n is not a positive whole number, or no term has inducing environments.
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ParameterError(f"`n` must be a positive whole number of inducing environments, got {n!r}.")
        state, structures, labels = self._labelled(structures, keys)
        new = fitting.grown(state, structures, labels, int(n), seed=self.seed, tolerance=self.tolerance)
        return self._copy(features_=new.features, fitted_=new)

    def _labelled(
        self, structures: Sequence[Atoms], keys: Mapping[str, str | None] | None
    ) -> tuple[Fitted, list[Atoms], Labels]:
        """Return the state with structures it can take, and their labels less the baseline."""
        state, structures = self._known(structures)
        validate(structures)
        labels = less_baseline(state.baseline, structures, resolve(structures, keys), state.noise.kinds)
        return state, structures, labels

    # ---- fitting

    def fit(
        self,
        structures: Sequence[Atoms],
        *,
        keys: Mapping[str, str | None] | None = None,
        folds: Sequence[int] | Sequence[str] | None = None,
        workers: int = 0,
        scheduler: str | None = None,
    ) -> Self:
        """Fit the labels of structures; every fit starts from the prior.

        Parameters
        ----------
        structures
            With labels: whatever energies, forces and stresses are there and have a noise are used. A
            `kernelpot.stream` stays on disk.
        keys
            Names of labels, as in `kernelpot.read`.
        folds
            What each structure is left out with in cross-validation: a number or a name, at least two different ones.
            None: 8 folds that keep duplicates and runs of neighbouring frames whole.
        workers
            Local Dask processes, of one thread each, that make and factorise the rows; 0: this process with its
            threads. The answer is the same to round-off.
        scheduler
            Address of a running Dask cluster instead, such as "tcp://host:8786".

        Returns
        -------
        SparseGP
            This model.

        Raises
        ------
        ParameterError
            `folds` has another length than the structures, or a single fold.
        LabelError
            No energy is there, or labels are broken.
        SpeciesError
            The inducing environments were fixed without one of the elements.
        """
        structures = structure_list(structures)
        labels = resolve(structures, keys)
        kinds = fitting.require_labels(labels, self.noise)
        fold = None if folds is None else fold_numbers(folds, len(structures))
        if self.features_ is not None:
            check_species(structures, self.features_.species)
        known, labels = labels, less_baseline(self.baseline, structures, labels, kinds)
        features = self.features_ or self._choose_features(structures)
        state = fitting.fit_state(
            features, structures, labels, self.noise,
            kinds=kinds, amplitude=self.terms[0].amplitude, seed=self.seed, given_folds=fold,
            workers=None if not number_of(workers, scheduler) and scheduler is None else Workers(workers, scheduler),
        )  # fmt: skip
        self.training_ = TrainingSet(structures, known)
        self.fitted_ = replace(state, baseline=self.baseline)
        return self

    def calibrate(
        self,
        held_out: Sequence[Atoms] | None = None,
        *,
        training: Sequence[Atoms] | None = None,
        folds: int = 16,
        groups: bool = False,
        method: str = "conformal",
        keys: Mapping[str, str | None] | None = None,
    ) -> Self:
        """Return a model whose standard deviations and intervals are those of errors on labels that it did not see.

        The label variance is (factor · latent)² + floor², kind by kind; predictions themselves do not change. See
        docs/uncertainty.md.

        Parameters
        ----------
        held_out
            Structures with labels that the model has not seen. None: the training structures are left out by folds,
            duplicates together, and predicted by the model given the others, which costs about two more fits.
        training
            The training structures; needed for a model from a file, or from `condition`, `to` and their like.
        folds
            Number of folds.
        groups
            Leave out one group (`config_type`) after the other instead: for groups that were never seen; far too wide
            for those that were.
        method
            "conformal": one standard deviation holds 68.27 % of the errors, intervals are their quantiles, and the
            standard deviations of forces follow the scarcity of training environments. "floor" and "scale": the
            likeliest factor with and without floor for normal errors.
        keys
            Names of labels of `held_out` or `training`, as in `kernelpot.read`.

        Raises
        ------
        NotFittedError
            The model was never fitted, or holds no training structures and neither list was given.
        LabelError
            There is no label in `held_out`.
        ParameterError
            A parameter breaks its rule, or a list is not what it should be.
        """
        check_method(method)
        state = self.state
        if held_out is None:
            train = self._training(training, keys)
            prediction, witness = fitting.left_out(state, train, n_folds=folds, groups=groups, seed=self.seed)
            errors = residuals_of(prediction, train.labels, witness)
        else:
            held_out = structure_list(held_out)
            fitting.refuse_known(held_out, self.training_)
            check_species(held_out, state.features.species)
            errors = residuals_of(state.predict(held_out, uncertainty=True, grades=False), resolve(held_out, keys))
            if not errors:
                raise LabelError(
                    "calibrate needs labels, found none; name them with keys={'energy': ..., 'forces': ...}."
                )
        model = copy(self)
        model.fitted_ = replace(state, calibration=calibrate(state.calibration, errors, method))
        return model

    def left_out(
        self,
        *,
        training: Sequence[Atoms] | None = None,
        folds: int = 16,
        groups: bool = False,
        keys: Mapping[str, str | None] | None = None,
    ) -> tuple[Prediction, TrainingSet]:
        """Predict the training structures, each by the model given all folds (or all groups) but its own.

        Parameters
        ----------
        training, folds, groups, keys
            As in `calibrate`.

        Returns
        -------
        Prediction, TrainingSet
            In the order of the training structures, with the standard deviations of this model's calibration.

        Raises
        ------
        NotFittedError, ParameterError
            As in `calibrate`.
        """
        train = self._training(training, keys)
        return fitting.left_out(self.state, train, n_folds=folds, groups=groups, seed=self.seed)[0], train

    def _training(self, training: Sequence[Atoms] | None, keys: Mapping[str, str | None] | None) -> TrainingSet:
        known = self.training_
        if training is not None:
            structures = structure_list(training)
            known = TrainingSet(structures, resolve(structures, keys))
        return fitting.check_training(self.state, known)

    # ---- using

    @property
    def state(self) -> Fitted:
        """The fitted state: frozen, and all that predictions need.

        Raises
        ------
        NotFittedError
            The model was never fitted.
        """
        if self.fitted_ is None:
            raise NotFittedError(
                "this model was never fitted; call fit(structures) first, or kernelpot.load a fitted one."
            )
        return self.fitted_

    def _known(self, structures: Sequence[Atoms]) -> tuple[Fitted, list[Atoms]]:
        state = self.state
        structures = structure_list(structures)
        check_species(structures, state.features.species)
        return state, structures

    def predict(self, structures: Sequence[Atoms], *, uncertainty: bool = True) -> Prediction:
        """Predict energies, forces and stresses, with their standard deviations.

        Parameters
        ----------
        structures
            Their labels are not looked at.
        uncertainty
            False leaves the standard deviations out, which is some thirty times faster.

        Raises
        ------
        NotFittedError
            The model was never fitted.
        SpeciesError
            A structure holds an element that the model has never seen.
        """
        state, structures = self._known(structures)
        return state.predict(structures, uncertainty=uncertainty)

    def mean(self, batch: Batch) -> Mean:
        """Return the mean predictions for a batch: the fast path for molecular dynamics."""
        return self.state.mean(batch)

    def local_energy_std(self, batch: Batch) -> Float[np.ndarray, " atoms"]:
        """Return the calibrated standard deviation of every atom's energy, eV: the one that is cheap."""
        return self.state.local_energy_std(batch)

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
        joint.check_spread(spread)
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
        return joint.energy_difference(*self._known(structures), coefficients, spread=spread)

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
        return joint.force_covariance(state, structure, atom, spread=spread)

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
        return joint.stress_covariance(state, structure, spread=spread)

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
        return joint.sample(self.state, n, seed=seed, scale=scale, residual=residual)

    def extrapolation(self, batch: Batch) -> Float[np.ndarray, " atoms"]:
        """Return every atom's extrapolation grade: 1 is the edge of what training saw. Costs what a local std does.

        See `kernelpot.potentials.extrapolation.Seen` for its meaning.

        Raises
        ------
        NotFittedError
            The model was never fitted, or comes from a file without a record of what it saw.
        """
        state = self.state
        return state.extrapolation.grade(state.features.describe(batch))

    # ---- planning labels

    def information(
        self,
        structures: Sequence[Atoms],
        *,
        labels: str = "planned",
        truncate: float = TRUNCATE,
        keys: Mapping[str, str | None] | None = None,
        noise: Noise | None = None,
        amplitude: float | None = None,
        masks: str | Sequence[Bool[np.ndarray, " atoms"]] | None = None,
    ) -> Information:
        """Return what labels of these structures would tell about the weights, before any exists.

        Parameters
        ----------
        structures
            Candidates, or structures that are labelled already.
        labels
            "planned" counts every kind that has a noise; "present" only the labels that are there.
        truncate
            Share of each kind's trace that the compression of a block may drop; 0 keeps every row.
        keys
            Names of labels that are present, as in `kernelpot.read`.
        noise, amplitude
            Planned with in place of the model's own, to see how much a choice depends on them.
        masks
            Which atoms have forces: one array of booleans per structure, or the name of one in ``atoms.arrays`` (all
            atoms of a structure that has none). For regions that a calculation holds fixed or does not describe.

        Raises
        ------
        ParameterError
            A mask does not have one boolean for each atom.
        NotFittedError
            The inducing environments are not fixed yet: call `prepare(pool)` first.
        """
        if labels not in ("planned", "present"):
            raise ParameterError(f'`labels` must be "planned" or "present", got {labels!r}.')
        if not isinstance(noise, Noise | None):
            raise ParameterError(f"`noise` must be a Noise such as Noise(energy=0.002, forces=0.1), got {noise!r}.")
        truncate = real(truncate, "truncate", most=1.0)
        features, structures = self._prepared(structures)
        _, own_noise, own_amplitude = self.plan()
        noise = own_noise if noise is None else noise
        if amplitude is None:
            amplitude = own_amplitude
        check_amplitude(amplitude)
        present = resolve(structures, keys) if labels == "present" else None
        return make_information(
            features,
            structures,
            noise,
            amplitude,
            present=present,
            truncate=truncate,
            masks=force_masks(structures, masks),
        )

    def linear_rows(self, structures: Sequence[Atoms], kinds: Sequence[str] = KINDS) -> LinearRows:
        """Return the labels of structures as linear functionals of the weights, in eV, eV/Å and eV/Å³.

        Parameters
        ----------
        structures
            Their labels are not looked at.
        kinds
            Forces and stresses cost some hundred times what energies do; leave out what is not needed.

        Raises
        ------
        NotFittedError
            The inducing environments are not fixed yet.
        SpeciesError
            A structure holds an element that the model has never seen.
        """
        features, structures = self._prepared(structures)
        return all_linear_rows(features, structures, self.plan()[2], kinds)

    def baseline_share(self, structures: Sequence[Atoms]) -> Contribution:
        """Return what the baseline adds to these structures, to go with `linear_rows`; zeros where there is none."""
        baseline = self.baseline if self.fitted_ is None else self.fitted_.baseline
        return evaluated(baseline, structure_list(structures))

    def weights_of(self, *elements: str) -> Int[np.ndarray, " some"]:
        """Return the numbers of the weights that belong to some elements, for the criterion "Ds".

        Parameters
        ----------
        elements
            Chemical symbols; the weights are those of environments centred on these, and of their isolated atoms.

        Raises
        ------
        SpeciesError
            The model does not know an element.
        """
        features, _, _ = self.plan()
        numbers = element_numbers(elements, features.species)
        owned = np.any([features.weights_of(number) for number in numbers], axis=0)
        return np.flatnonzero(np.concatenate([owned, np.isin(features.species, numbers)]))

    def plan(self) -> tuple[FeatureMap, Noise, float]:
        """Return what design works with: features, noise and amplitude; fitted ones, else those given, else defaults.

        Raises
        ------
        NotFittedError
            The inducing environments are not fixed yet: call `prepare(pool)` first.
        """
        if self.fitted_ is not None:
            return self.fitted_.features, self.fitted_.noise, self.fitted_.amplitude
        if self.features_ is None:
            raise NotFittedError(
                "the inducing environments are not fixed yet; call prepare(pool), which returns a model that has them."
            )
        return self.features_, self.noise if isinstance(self.noise, Noise) else Noise(), self.terms[0].amplitude

    def _prepared(self, structures: Sequence[Atoms]) -> tuple[FeatureMap, list[Atoms]]:
        """Return the feature map and the structures, checked against it."""
        features, _, _ = self.plan()
        structures = structure_list(structures)
        check_species(structures, features.species)
        return features, structures

    # ---- files

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        noise = self.noise if isinstance(self.noise, str) else {kind: getattr(self.noise, kind) for kind in KINDS}
        return {
            "terms": [term.settings() for term in self.terms],
            "n_inducing": self.n_inducing,
            "noise": noise,
            "seed": self.seed,
            "inducing": self.inducing,
            "tolerance": self.tolerance,
            "prepared": self.features_ is not None,
            "baseline": None if self.baseline is None else self.baseline.settings(),
        }

    def save(self, path: str | Path) -> None:
        """Write the fitted model to one file (safetensors with a JSON header; it holds no code).

        Raises
        ------
        NotFittedError
            The model was never fitted.
        ModelFileError
            The file cannot be written; a file that was there stays as it was.
        """
        write_model(path, self.settings(), self.state)

    # ---- what the fit found

    @property
    def species_(self) -> tuple[int, ...]:
        """Atomic numbers that the model knows."""
        features = self.features_ if self.fitted_ is None else self.fitted_.features
        if features is None:
            raise NotFittedError("this model has not seen structures yet; call prepare or fit.")
        return features.species

    @property
    def n_inducing_(self) -> int:
        """Inducing environments that are there; at most `n_inducing`."""
        features = self.features_ if self.fitted_ is None else self.fitted_.features
        return 0 if features is None else features.n_inducing

    @property
    def noise_(self) -> Noise:
        """Noise that the labels were weighted with."""
        return self.state.noise

    @property
    def amplitude_(self) -> float:
        """Prior standard deviation of a local energy, eV."""
        return self.state.amplitude

    @property
    def amplitudes_(self) -> tuple[float, ...]:
        """Prior standard deviation of each term, eV: of a local energy, or of a pair energy for `TwoBody`."""
        state = self.state
        return tuple(state.amplitude * scale for scale in state.features.scales)

    @property
    def e0_(self) -> dict[str, float]:
        """Energy constant of each species, by chemical symbol, eV; the energies of a `baseline` come on top."""
        from ase.data import chemical_symbols

        state = self.state
        return {chemical_symbols[z]: float(e0) for z, e0 in zip(state.features.species, state.e0, strict=True)}

    @property
    def baseline_(self) -> dict[int, float]:
        """The old name of `e0_`, by atomic number."""
        warnings.warn(
            "`baseline_` is now called `e0_`, and keyed by chemical symbol; the old name goes with the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        state = self.state
        return dict(zip(state.features.species, state.e0.tolist(), strict=True))

    @property
    def calibration_(self) -> dict[str, float]:
        """Factor between the posterior and the observed spread of left-out labels, for each kind."""
        return dict(self.state.calibration.factor)

    @property
    def cross_validation_(self) -> dict[str, float]:
        """RMSE of left-out folds: eV/atom, eV/Å, eV/Å³."""
        return dict(self.state.cross_validation)

    def summary(self) -> str:
        """Describe the fitted model for people, one fact a line."""
        return self.state.summary()


class LinearModel(SparseGP):
    """Bayesian linear regression of energies, forces and stresses on descriptor vectors.

    The local energy is w·x with w ~ N(0, I) times the amplitude: on power spectra a three-body model (Bartók et al.
    (2013)), on pair functions a two-body one. Everything else is as in `SparseGP`: noises by cross-validation,
    uncertainty, design, conditioning, files (`kernelpot.load` returns a `SparseGP` with the same terms).

    Parameters
    ----------
    descriptor
        Such as `SOAP` or `TwoBody`, or a list of them, whose energies add up.
    amplitude
        Prior standard deviation of a typical local energy, eV.
    normalise
        Take unit vectors.
    noise, seed, baseline
        As in `SparseGP`.

    Raises
    ------
    ParameterError
        A parameter breaks its rule.
    """

    def __init__(
        self,
        descriptor: Descriptor | Sequence[Descriptor],
        *,
        amplitude: float = 1.0,
        normalise: bool = False,
        noise: Noise | str | None = None,
        seed: int = 0,
        baseline: Baseline | None = None,
    ) -> None:
        kernel = Linear(amplitude, normalise)
        given = list(descriptor) if isinstance(descriptor, Iterable) else [descriptor]
        terms = [Term(one) if isinstance(one, TwoBody) else Term(one, kernel) for one in given]
        super().__init__(terms, n_inducing=1, noise=noise, seed=seed, baseline=baseline)
