"""Training structures predicted by a posterior that never saw them, and the calibration that follows from it.

`calibrate` and `left_out` are methods of `SparseGP`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.check import check_species
from kernelpot.data.labels import resolve
from kernelpot.data.stream import structure_list
from kernelpot.errors import LabelError, NotFittedError, ParameterError
from kernelpot.features.inducing import mean_vectors
from kernelpot.features.sum_map import Owners, owners, without_fold
from kernelpot.features.torch import device_of, on_device
from kernelpot.linalg.factor import Posterior, triangle
from kernelpot.linalg.subsets import equal_vectors
from kernelpot.linalg.subsets import folds as share_out
from kernelpot.potentials.baselines.given import less_baseline
from kernelpot.potentials.calibration import calibrated, check_method
from kernelpot.potentials.fitted import Fitted, M, Model
from kernelpot.potentials.prediction import Prediction, join, residuals_of
from kernelpot.potentials.training import FoldFactors, TrainingSet, composition_of, e0_rows, fold_factors
from kernelpot.progress import track
from kernelpot.run import one_blas

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
        _refuse_known(held_out, model.training_)
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
    train = _checked(state, train)
    if groups:
        names = [str(atoms.info.get("config_type", "")) for atoms in train.structures]
        witness: np.ndarray = np.unique(names, return_inverse=True)[1]
        if witness.max() < 1:
            raise ParameterError(
                "`groups` needs at least two groups of training structures, found one; name them in "
                "atoms.info['config_type'], or use folds."
            )
        return predict_left_out(state, train, witness), train, witness
    witness = equal_vectors(mean_vectors(state.features.descriptor, train.structures), train.labels.n_atoms)
    if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or folds < 2:
        raise ParameterError(f"`folds` must be a whole number of at least 2, got {folds!r}; 16 is usual.")
    different = len(np.unique(witness))
    if different < 2:
        raise ParameterError("calibrate needs at least two different training structures, found one; give `held_out`.")
    fold = share_out(witness, min(int(folds), different), seed=model.seed, run=1)
    return predict_left_out(state, train, fold), train, witness


def _checked(state: Fitted, train: TrainingSet | None) -> TrainingSet:
    """Return the training set, where it is the one behind the posterior."""
    if train is None:
        raise NotFittedError(
            "only a model that was fitted here holds its training structures, not one from a file or from condition; "
            "give them as training=[...], or held-out structures that have labels."
        )
    labels = train.labels
    count = {
        "energy": int(labels.present("energy").sum()),
        "forces": sum(f.size for f in labels.forces if f is not None),
        "stress": int(np.isfinite(labels.stress).sum()),
    }
    expected = {kind: n for kind, n in state.n_labels.items() if n}
    found = {kind: n for kind, n in count.items() if kind in state.noise.kinds and n}
    if expected != found:
        raise ParameterError(
            f"`training` must be the structures that the model was fitted to, whose labels are {expected}; found "
            f"{found}. Structures that it has not seen go into `held_out`."
        )
    return train


def _refuse_known(held_out: Sequence[Atoms], train: TrainingSet | None) -> None:
    """Refuse held-out structures that are the very objects the model was fitted to."""
    known = {id(atoms) for atoms in train.structures} if train is not None else set()
    seen = [k for k, atoms in enumerate(held_out) if id(atoms) in known]
    if seen:
        raise ParameterError(
            f"`held_out` must be structures that the model has not seen, but structure {seen[0]} (from 0) is one that "
            f"it was fitted to ({len(seen)} in all); call calibrate() to leave training structures out by folds."
        )


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
    posterior = Posterior.prior(features.n_weights + n_species).condition(blocks)
    blank = replace(state, features=features, posterior=posterior, seen=None)
    return blank.with_e0(triangle(rows)) if len(rows) else replace(blank, e0_factor=np.zeros((0, n_species + 1)))
