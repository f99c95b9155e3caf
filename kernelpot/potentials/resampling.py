"""What the labels of some structures say of the others: folds left out, the calibration from them, and the bootstrap.

`calibrate` and `left_out` are methods of `SparseGP`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.data.check import check_species
from kernelpot.data.labels import resolve
from kernelpot.data.stream import chunks, structure_list
from kernelpot.errors import LabelError, NotFittedError, ParameterError
from kernelpot.features.inducing import mean_vectors
from kernelpot.features.sum_map import Owners, owners, without_fold
from kernelpot.features.torch import device_of, on_device
from kernelpot.linalg.factor import Posterior, RowSink, triangle
from kernelpot.linalg.subsets import alike, equal_vectors
from kernelpot.linalg.subsets import folds as share_out
from kernelpot.potentials.baselines.given import less_baseline
from kernelpot.potentials.calibration import calibrated, check_method
from kernelpot.potentials.fitted import ATOMS_PER_PREDICTION, Fitted, M, Model
from kernelpot.potentials.prediction import Mean, Prediction, Spread, join, residuals_of
from kernelpot.potentials.training import (
    ATOMS_PER_BATCH,
    FoldFactors,
    TrainingSet,
    composition_of,
    e0_rows,
    fold_factors,
    row_owners,
)
from kernelpot.progress import track
from kernelpot.rules import whole
from kernelpot.run import one_blas, ordered

if TYPE_CHECKING:
    from ase import Atoms


def calibrate(
    model: M,
    held_out: Sequence[Atoms] | None = None,
    *,
    training: Sequence[Atoms] | None = None,
    folds: int = 16,
    groups: bool = False,
    method: str = "conformal",
    keys: Mapping[str, str | None] | None = None,
) -> M:
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
    state = model.state
    if held_out is None:
        prediction, train, witness = leave_out(model, training, folds=folds, groups=groups, keys=keys)
        errors = residuals_of(prediction, train.labels, witness)
    else:
        held_out = structure_list(held_out)
        if model.training_ is not None:
            model.training_.refuse_members(held_out)
        check_species(held_out, state.features.species)
        errors = residuals_of(state.predict(held_out, uncertainty=True, grades=False), resolve(held_out, keys))
        if not errors:
            raise LabelError("calibrate needs labels, found none; name them with keys={'energy': ..., 'forces': ...}.")
    result = copy(model)
    result.fitted_ = replace(state, calibration=calibrated(state.calibration, errors, method))
    return result


def left_out(
    model: Model,
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
    prediction, train, _ = leave_out(model, training, folds=folds, groups=groups, keys=keys)
    return prediction, train


def leave_out(
    model: Model,
    training: Sequence[Atoms] | None,
    *,
    folds: int,
    groups: bool,
    keys: Mapping[str, str | None] | None,
) -> tuple[Prediction, TrainingSet, Int[np.ndarray, " structures"]]:
    """Predict training structures without their fold or group; the array numbers duplicates, or groups."""
    train, state = model.training_, model.state
    if training is not None:
        structures = structure_list(training)
        train = TrainingSet(structures, resolve(structures, keys))
    if train is None:
        raise NotFittedError(
            "only a model that was fitted here holds its training structures, not one from a file or from condition; "
            "give them as training=[...], or held-out structures that have labels."
        )
    train.require(state.n_labels, state.noise.kinds)
    if groups:
        names = [str(atoms.info.get("config_type", "")) for atoms in train.structures]
        witness: np.ndarray = np.unique(names, return_inverse=True)[1]
        if witness.max() < 1:
            raise ParameterError(
                "`groups` needs at least two groups of training structures, found one; name them in "
                "atoms.info['config_type'], or use folds."
            )
        return predict_left_out(state, train, witness), train, witness
    means = mean_vectors(state.features.descriptor, train.structures)
    witness = alike(means, equal_vectors(means, train.labels.n_atoms), 1, most=1)
    folds = whole(folds, "folds", least=2, usual="16 is usual")
    different = len(np.unique(witness))
    if different < 2:
        raise ParameterError("calibrate needs at least two different training structures, found one; give `held_out`.")
    fold = share_out(witness, min(int(folds), different), seed=model.seed)
    return predict_left_out(state, train, fold), train, witness


def predict_left_out(state: Fitted, train: TrainingSet, fold: Int[np.ndarray, " structures"]) -> Prediction:
    """Predict every structure by the model given all folds but its own.

    Noises, amplitude and scales are kept, so that each prediction is that of a refit without the fold: posterior and E0
    are made from the prior and the other folds' factors, nothing is subtracted, and the inducing environments that only
    this fold holds are left out with it: new structures have none of their own either. Rows are made twice, once for
    the factors and once for the standard deviations. Memory: folds · kinds · M² for the factors, and one posterior at a
    time.
    """
    structures, labels = train.structures, train.labels
    with one_blas():
        kinds = tuple(kind for kind in state.noise.kinds if labels.present(kind).any())
        labels = less_baseline(state.baseline, structures, labels, kinds)
        data = fold_factors(state.features, structures, labels, fold, kinds=kinds, e0=state.e0_centre)
        rows = e0_rows(labels, composition_of(structures, state.features.species))
        own = owners(on_device(state.features, None), structures, fold)
        fold_of_row = fold[labels.present("energy")]
        parts: list[Prediction] = []
        order: list[Int[np.ndarray, " members"]] = []
        for f in track(range(data.n_folds), "folds"):
            members = np.flatnonzero(fold == f)
            others = _without(state, data, own, f, rows[fold_of_row != f])
            parts.append(others.predict([structures[int(k)] for k in members], uncertainty=True))
            order.append(members)
    return join(parts).take(np.argsort(np.concatenate(order)))


def _without(
    state: Fitted, data: FoldFactors, own: Owners, fold: int, rows: Float[np.ndarray, "energies species_plus_1"]
) -> Fitted:
    """Return the state given all folds but one; `rows` are the `e0_rows` of the others."""
    d, n_species = state.features.n_weights, len(state.features.species)
    thinned, basis = without_fold(on_device(state.features, None), own, fold)
    features = on_device(thinned, device_of(state.features), getattr(state.features, "precision", "float64"))
    blocks = []
    for kind in data.kinds:
        for f in range(data.n_folds):
            if f != fold:
                block = data.scaled(kind, f, state.noise.sigma(kind), state.amplitude)
                blocks.append(np.concatenate([block[:, :d] @ basis, block[:, d:]], axis=1))
    blank = replace(state, features=features, seen=None)
    blank = replace(blank, posterior=Posterior.prior(len(blank.roots), blank.roots).condition(blocks))
    return blank.with_e0(triangle(rows)) if len(rows) else replace(blank, e0_factor=np.zeros((0, n_species + 1)))


class Bootstrap:
    """Members that differ by which structures they saw; their spread is the standard deviation.

    Structures are drawn with replacement, symmetry-equivalent ones together (Efron and Tibshirani, An Introduction to
    the Bootstrap (1993), chapter 6). All members share the model's inducing environments, noises and amplitudes, and
    one pass over the data: a member costs a factorisation, not a fit. The mean is that of the model itself.

    Parameters
    ----------
    model
        Not fitted, or prepared; `fit` fits it first, which settles noises and amplitudes.
    n_members
        Members, at least 2; 10 to 20 is usual. Memory: one triangle of M² each.
    seed
        Makes the draws repeatable.

    Raises
    ------
    ParameterError
        The number of members is not a whole number of at least 2.
    """

    def __init__(self, model: Model, *, n_members: int = 10, seed: int = 0) -> None:
        self.n_members = whole(n_members, "n_members", least=2, most=1000, usual="10 is usual")
        if not hasattr(model, "terms"):
            raise ParameterError(f"`model` must be a SparseGP or a LinearModel, got {type(model).__name__}.")
        self.model = model
        self.seed = int(seed)
        self.members_: list[Fitted] = []

    def fit(self, structures: Sequence[Atoms], *, keys: Mapping[str, str | None] | None = None) -> Bootstrap:
        """Fit the model and the members; parameters, errors as in `SparseGP.fit`."""
        structures = structure_list(structures)
        self.model.fit(structures, keys=keys)
        self.members_ = self._resample(structures, keys)
        return self

    @one_blas()
    def _resample(self, structures: list[Atoms], keys: Mapping[str, str | None] | None) -> list[Fitted]:
        state = self.model.state
        kinds = tuple(state.n_labels)
        labels = less_baseline(state.baseline, structures, resolve(structures, keys), kinds)
        groups = equal_vectors(mean_vectors(state.features.descriptor, structures), labels.n_atoms)
        weights = draws(groups, self.n_members, self.seed)
        d = len(state.posterior.target)
        sinks = [RowSink(d + 1) for _ in range(self.n_members)]

        def rows_of(piece: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
            part, here = structures[slice(*piece)], labels.take(list(range(*piece)))
            found = state.rows(part, here)
            return [(block, piece[0] + row_owners(part, here, kind)) for kind, block in found.items()]

        pieces = list(chunks(structures, ATOMS_PER_BATCH))
        for blocks in ordered(rows_of, track(pieces, "bootstrap")):
            for block, owner in blocks:
                for sink, weight in zip(sinks, weights, strict=True):
                    drawn = weight[owner] > 0.0
                    sink.append(np.sqrt(weight[owner][drawn])[:, None] * block[drawn])
        prior = Posterior.prior(d, state.roots)
        # A baseline is the same for all members: their spread does not need it.
        return [replace(state, posterior=prior.condition([sink.factor()]), baseline=None) for sink in sinks]

    def predict(self, structures: Sequence[Atoms], *, uncertainty: bool = True) -> Prediction:
        """Predict as the model does; standard deviations are the spread of the members.

        `label` adds the noise of a label to `latent`; neither carries the model's calibration factor.

        Raises
        ------
        NotFittedError
            The committee was never fitted.
        SpeciesError
            A structure holds an element that the model has never seen.
        """
        if not self.members_:
            raise NotFittedError("this committee was never fitted; call fit(structures) first.")
        structures = structure_list(structures)
        mean = self.model.predict(structures, uncertainty=False)
        if not uncertainty:
            return mean
        state = self.model.state
        check_species(structures, state.features.species)

        def part(piece: tuple[int, int]) -> Spread:
            batch = Batch.from_structures(structures[slice(*piece)], state.features.cutoff, start=piece[0])
            described = state.features.describe(batch)
            return spread(batch, [member.mean_described(described) for member in self.members_])

        pieces = list(chunks(structures, ATOMS_PER_PREDICTION))
        latent = Spread.joined(list(ordered(part, track(pieces, "predict"))))
        noise = {kind: state.calibration.noise.get(kind, 0.0) for kind in ("energy", "forces", "stress")}
        sizes = np.array([len(atoms) for atoms in structures])
        label = Spread(
            np.hypot(latent.energy_std, noise["energy"] * sizes),
            [np.hypot(f, noise["forces"]) for f in latent.forces_std],
            np.hypot(latent.stress_std, noise["stress"]),
            latent.local_energy_std,
        )
        return replace(mean, latent=latent, label=label)


def draws(groups: np.ndarray, n: int, seed: int) -> Float[np.ndarray, "n structures"]:
    """Return how often each draw of all groups with replacement holds each structure."""
    rng = np.random.default_rng(seed)
    n_groups = int(groups.max()) + 1
    return np.stack([np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)[groups] for _ in range(n)])


def spread(batch: Batch, means: Sequence[Mean]) -> Spread:
    """Return the standard deviation of members' predictions, one entry per structure."""

    def std(name: str) -> np.ndarray:
        return np.std([getattr(mean, name) for mean in means], axis=0, ddof=1)

    cuts = batch.offsets[1:-1]
    return Spread(std("energy"), np.split(std("forces"), cuts), std("stress"), np.split(std("local_energy"), cuts))
