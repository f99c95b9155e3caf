"""The sparse Gaussian process: a Gaussian posterior over the weights of whitened kernel features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.data.labels import resolve
from kernelpot.data.noise import KINDS, Noise
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.errors import NotFittedError, ParameterError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.inducing import chunks
from kernelpot.features.placing import on_device
from kernelpot.kernels import DotProduct, Gaussian, Linear
from kernelpot.linalg.devices import check_device
from kernelpot.linalg.workers import number_of
from kernelpot.potentials.archive import write_model
from kernelpot.potentials.arguments import check_species, fold_numbers, structure_list
from kernelpot.potentials.baselines import Baseline
from kernelpot.potentials.baselines.given import as_baseline, less_baseline
from kernelpot.potentials.calibrating import Calibrating
from kernelpot.potentials.distributed import Workers
from kernelpot.potentials.fitted import Fitted, Mean, join
from kernelpot.potentials.fitting import fit_state, require_labels
from kernelpot.potentials.left_out import TrainingSet
from kernelpot.potentials.placed import Placed
from kernelpot.potentials.planning import Planner
from kernelpot.potentials.prediction import Prediction
from kernelpot.potentials.summary import summarise
from kernelpot.potentials.terms import Term, build, check_n_inducing, leading, terms_of
from kernelpot.potentials.updating import Updates
from kernelpot.progress import track
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

N_FOLDS = 8
ATOMS_PER_PREDICTION = 256
SEARCHES = ("cv", "evidence", "tempered")
INDUCING = ("fps", "cur", "random")


class SparseGP(Planner, Placed, Updates, Calibrating):
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
        done = [name for name, part in (("prepared", self.features_), ("fitted", self.fitted_)) if part is not None]
        state = f", {' and '.join(done)} with {self.n_inducing_} inducing environments" if done else ""
        where = "" if self.device is None else f", device={self.device!r}, precision={self.precision!r}"
        state = state if self.baseline is None else f", baseline={self.baseline!r}{state}"
        return (
            f"SparseGP({self._described()}, n_inducing={self.n_inducing}, noise={self.noise!r}, "
            f"seed={self.seed}, inducing={self.inducing!r}, tolerance={self.tolerance}{where}{state})"
        )

    def _described(self) -> str:
        if len(self.terms) > 1:
            return repr(list(self.terms))
        return ", ".join(repr(part) for part in (self.descriptor, self.terms[0].kernel) if part is not None)

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

    # ---- making models

    def _clone(self) -> SparseGP:
        return SparseGP(
            self.terms, n_inducing=self.n_inducing, noise=self.noise, seed=self.seed,
            inducing=self.inducing, tolerance=self.tolerance, baseline=self.baseline,
            device=self.device, precision=self.precision,
        )  # fmt: skip

    def prepare(
        self, structures: Sequence[Atoms], *, environments: Sequence[tuple[int, int]] | None = None
    ) -> SparseGP:
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
        model = self._clone()
        model.features_ = self._choose_features(structures, environments)
        return model

    def _choose_features(
        self, structures: Sequence[Atoms], environments: Sequence[tuple[int, int]] | None = None
    ) -> FeatureMap:
        features = build(
            self.terms, structure_list(structures), n_inducing=self.n_inducing, environments=environments,
            method=self.inducing, seed=self.seed, tolerance=self.tolerance,
        )  # fmt: skip
        return on_device(features, self.device, self.precision)

    # ---- fitting

    def fit(
        self,
        structures: Sequence[Atoms],
        *,
        keys: Mapping[str, str | None] | None = None,
        folds: Sequence[int] | Sequence[str] | None = None,
        workers: int = 0,
        scheduler: str | None = None,
    ) -> SparseGP:
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
        kinds = require_labels(labels, self.noise)
        fold = None if folds is None else fold_numbers(folds, len(structures))
        if self.features_ is not None:
            check_species(structures, self.features_.species)
        known, labels = labels, less_baseline(self.baseline, structures, labels, kinds)
        features = self.features_ or self._choose_features(structures)
        state = fit_state(
            features,
            structures,
            labels,
            self.noise,
            kinds=kinds,
            amplitude=self.terms[0].amplitude,
            seed=self.seed,
            given_folds=fold,
            workers=None if not number_of(workers, scheduler) and scheduler is None else Workers(workers, scheduler),
        )
        self.training_ = TrainingSet(structures, known)
        self.fitted_ = replace(state, reference=self.baseline)
        return self

    # ---- using

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
        state = self._state()
        structures = structure_list(structures)
        check_species(structures, state.features.species)

        def part(piece: tuple[int, int]) -> Prediction:
            batch = Batch.from_structures(structures[slice(*piece)], state.reach, start=piece[0])
            return state.predict(batch, uncertainty=uncertainty)

        if uncertainty:
            state.uncertainty.prepare()
            if state.seen is not None:
                state.extrapolation.prepare()
        pieces = list(chunks(structures, ATOMS_PER_PREDICTION))
        return join(list(ordered(part, track(pieces, "predict"))))

    def mean(self, batch: Batch) -> Mean:
        """Return the mean predictions for a batch: the fast path for molecular dynamics."""
        return self._state().mean(batch)

    def local_energy_std(self, batch: Batch) -> Float[np.ndarray, " atoms"]:
        """Return the calibrated standard deviation of every atom's energy, eV: the one that is cheap."""
        return self._state().local_energy_std(batch)

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
        write_model(path, self.settings(), self._state())

    # ---- what the fit found

    @property
    def species_(self) -> tuple[int, ...]:
        """Atomic numbers that the model knows."""
        features = self._known_features
        if features is None:
            raise NotFittedError("this model has not seen structures yet; call prepare or fit.")
        return features.species

    @property
    def n_inducing_(self) -> int:
        """Inducing environments that are there; at most `n_inducing`."""
        features = self._known_features
        return 0 if features is None else features.n_inducing

    @property
    def noise_(self) -> Noise:
        """Noise that the labels were weighted with."""
        return self._state().noise

    @property
    def amplitude_(self) -> float:
        """Prior standard deviation of a local energy, eV."""
        return self._state().amplitude

    @property
    def amplitudes_(self) -> tuple[float, ...]:
        """Prior standard deviation of each term, eV: of a local energy, or of a pair energy for `TwoBody`."""
        state = self._state()
        return tuple(state.amplitude * scale for scale in state.features.scales)

    @property
    def baseline_(self) -> dict[int, float]:
        """Energy constant of each species (by atomic number), eV; not the potential `baseline`, which comes on top."""
        state = self._state()
        return dict(zip(state.features.species, state.e0.tolist(), strict=True))

    @property
    def calibration_(self) -> dict[str, float]:
        """Factor between the posterior and the observed spread of left-out labels, for each kind."""
        return dict(self._state().calibration.factor)

    @property
    def cross_validation_(self) -> dict[str, float]:
        """RMSE of left-out folds: eV/atom, eV/Å, eV/Å³."""
        return dict(self._state().cross_validation)

    def summary(self) -> str:
        """Describe the fitted model for people, one fact a line."""
        return summarise(self._state())
