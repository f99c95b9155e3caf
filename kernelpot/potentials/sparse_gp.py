"""The sparse Gaussian process: a Gaussian posterior over the weights of whitened kernel features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.data.check import check_species
from kernelpot.data.labels import resolve
from kernelpot.data.noise import Noise
from kernelpot.data.stream import structure_list
from kernelpot.data.suspects import LabelCheck
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.doors import renamed
from kernelpot.errors import NotFittedError, ParameterError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.torch import on_device
from kernelpot.kernels import DotProduct, Gaussian, Linear
from kernelpot.linalg.devices import check_device
from kernelpot.linalg.workers import number_of
from kernelpot.potentials import fitting, joint, planning, resampling
from kernelpot.potentials.baselines import Baseline
from kernelpot.potentials.baselines.given import as_baseline, less_baseline
from kernelpot.potentials.files import write_model
from kernelpot.potentials.fitted import Fitted, accepted, changed
from kernelpot.potentials.prediction import Mean, Prediction
from kernelpot.potentials.terms import Term, Tried, build, described, leading, terms_of, told_of
from kernelpot.potentials.training import TrainingSet, Workers
from kernelpot.rules import MOST_SEED, whole

if TYPE_CHECKING:
    from ase import Atoms

SEARCHES = ("cv", "evidence", "tempered")
INDUCING = ("fps", "cur", "random", "residual")
PLAIN = ("n_inducing", "seed", "inducing", "tolerance")  # Settings that are plain values


class SparseGP:
    """Sparse Gaussian process potential: energies, forces and stresses of structures, as sums over atoms.

    Local energies are Gaussian-process functions of the unit environment vectors, seen through M inducing environments
    (Snelson and Ghahramani (2005); Bartók et al. (2010)); energies, forces and stresses are rows of one Bayesian linear
    model over whitened features. Residual variance outside the inducing environments is added to predictions. It is not
    the sparse form of `GP`, which learns one property of structures, or of rows of features, and knows no forces.

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
        folds), stresses last. "evidence": they maximise the marginal likelihood, which lets thousands of correlated
        force rows outvote the energies; for comparison. "tempered": the same, the likelihood of forces and stresses
        raised to a power below 1 that makes up for their correlations.
    seed
        Makes the choice of inducing environments and of folds repeatable.
    inducing
        How they are chosen: "fps", "cur" or "random", shared over centre species by counts; "residual": "fps", shared
        by the prior variance that each species has left.
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

    Attributes
    ----------
    terms_
        The terms with the coupling of elements that `fit` found (``SOAP(channels="auto")``); ``SparseGP(model.terms_,
        …)`` takes it over.
    coupling_
        What was tried for it, the setting taken first, each with its left-out errors; empty in models from files.
    suspects_, remarks_
        What the last fit found of labels that do not fit the others (None where it did not look), and of its settings.
    told_
        Lines of `summary` on how `kernelpot.potential` found the settings.

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
        self.n_inducing = whole(n_inducing, "n_inducing", least=1, usual="500 to 2000 is usual")
        self.seed = whole(seed, "seed", most=MOST_SEED)
        check_device(device, precision)
        if not isinstance(noise, Noise | None) and noise not in SEARCHES:
            raise ParameterError(f'`noise` must be a Noise, "cv", "evidence" or "tempered", got {noise!r}.')
        if inducing not in INDUCING:
            raise ParameterError(f"`inducing` must be one of {', '.join(INDUCING)}, got {inducing!r}.")
        if not isinstance(tolerance, float | np.floating) or not 0.0 < tolerance < 1.0:
            raise ParameterError(f"`tolerance` must lie between 0 and 1, got {tolerance!r}; 1e-10 is usual.")
        self.terms = terms_of(descriptor, kernel)
        self.noise: Noise | str = Noise() if noise is None else noise
        self.inducing, self.tolerance = inducing, float(tolerance)
        self.device, self.precision, self.baseline = device, precision, as_baseline(baseline)
        self.features_: FeatureMap | None = None
        self.fitted_: Fitted | None = None
        self.training_: TrainingSet | None = None
        self.suspects_: LabelCheck | None = None
        self.remarks_: tuple[str, ...] = ()
        self.terms_, self.coupling_, self.told_ = self.terms, tuple[Tried, ...](), tuple[str, ...]()

    def __repr__(self) -> str:
        """Return the call that makes an equal model, and what it was prepared with or fitted on, if it was."""
        parts = (self.descriptor, self.terms[0].kernel)
        one = ", ".join(repr(part) for part in parts if part is not None)
        what = one if len(self.terms) == 1 else repr(list(self.terms))
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
        features = build(
            self.terms, structure_list(structures), n_inducing=self.n_inducing, environments=environments,
            method=self.inducing, seed=self.seed, tolerance=self.tolerance,
        )  # fmt: skip
        return changed(self, features_=on_device(features, self.device, self.precision))

    def fit(
        self,
        structures: Sequence[Atoms],
        *,
        keys: Mapping[str, str | None] | None = None,
        folds: Sequence[int] | Sequence[str] | None = None,
        suspects: str = "warn",
        workers: int = 0,
        scheduler: str | None = None,
    ) -> Self:
        """Fit the labels of structures; every fit starts from the prior.

        Parameters
        ----------
        structures
            With labels: whatever energies, forces and stresses are there and have a noise are used. A
            `kernelpot.pools.stream` stays on disk.
        keys
            Names of labels, as in `kernelpot.read`.
        folds
            What each structure is left out with in cross-validation: a number or a name, at least two different ones.
            None: 8 folds; duplicates stay together, and so do the two structures most alike.
        suspects
            What to do with labels that do not fit the others (`kernelpot.check_labels`): "warn" and fit them, "drop"
            their structures, "robust": weigh them down once all else is settled, or "ignore".
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
        every = resolve(structures, keys)
        labels, check = fitting.settled(self, structures, every, suspects)
        kinds = fitting.require_labels(labels, self.noise)
        fold = None if folds is None else fitting.fold_numbers(folds, len(structures))
        if self.features_ is not None:
            check_species(structures, self.features_.species)
        known, labels = labels, less_baseline(self.baseline, structures, labels, kinds)
        features, found = fitting.space_of(self, structures, labels, kinds, fold)
        if found is not None:
            self.terms_, self.coupling_ = found
        state, judged = fitting.fit_state(
            features, structures, labels, self.noise,
            kinds=kinds, amplitude=self.terms[0].amplitude, seed=self.seed, given_folds=fold,
            workers=None if not number_of(workers, scheduler) and scheduler is None else Workers(workers, scheduler),
            known=known if suspects == "warn" else None,
        )  # fmt: skip
        fitting.conclude(self, state, structures, known, every, check or judged, suspects)
        return self

    condition = fitting.condition
    remove = fitting.remove
    add_inducing = fitting.add_inducing
    to = fitting.to
    calibrate = resampling.calibrate
    left_out = resampling.left_out

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
        state, structures = accepted(self, structures)
        return state.predict(structures, uncertainty=uncertainty)

    def mean(self, batch: Batch) -> Mean:
        """Return the mean predictions for a batch: the fast path for molecular dynamics."""
        return self.state.mean(batch)

    def local_energy_std(self, batch: Batch) -> Float[np.ndarray, " atoms"]:
        """Return the calibrated standard deviation of every atom's energy, eV: the one that is cheap."""
        return self.state.local_energy_std(batch)

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

    energy_covariance = joint.energy_covariance
    energy_difference = joint.energy_difference
    force_covariance = joint.force_covariance
    stress_covariance = joint.stress_covariance
    sample = joint.sample

    # ---- planning labels

    information = planning.information
    widened = planning.widened
    linear_rows = planning.linear_rows
    baseline_share = planning.baseline_share
    weights_of = planning.weights_of

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

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {
            "terms": [term.settings() for term in self.terms],
            "noise": self.noise if isinstance(self.noise, str) else self.noise.settings(),
            **{name: getattr(self, name) for name in PLAIN},
            "prepared": self.features_ is not None,
            "baseline": None if self.baseline is None else self.baseline.settings(),
            **{name: list(lines) for name, lines in (("told", self.told_), ("remarks", self.remarks_)) if lines},
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> SparseGP:
        """Make the model, not prepared and without a baseline, that `settings` describes."""
        terms, noise = [Term.from_settings(term) for term in settings["terms"]], settings["noise"]
        noise = noise if isinstance(noise, str) else Noise.from_settings(noise)
        model = cls(terms, noise=noise, **{name: settings[name] for name in PLAIN})
        model.told_, model.remarks_ = (tuple(map(str, settings.get(name, ()))) for name in ("told", "remarks"))
        return model

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
        renamed("baseline_", "e0_")
        return dict(zip(self.species_, self.e0_.values(), strict=True))

    @property
    def calibration_(self) -> dict[str, float]:
        """Factor between the posterior and the observed spread of left-out labels, for each kind."""
        return dict(self.state.calibration.factor)

    @property
    def cross_validation_(self) -> dict[str, float]:
        """RMSE of left-out folds: eV/atom, eV/Å, eV/Å³."""
        return dict(self.state.cross_validation)

    def summary(self) -> str:
        """Describe the fitted model for people, one fact a line, with what was tried where settings were found."""
        notes = [f"note                {remark}" for remark in self.remarks_]
        return "\n".join([*described(self.terms_), self.state.summary(), *notes, *self.told_, *told_of(self.coupling_)])


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
