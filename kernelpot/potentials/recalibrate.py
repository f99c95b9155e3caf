"""A model whose standard deviations are those of errors on labels that it did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from kernelpot.data.labels import Labels
from kernelpot.errors import LabelError, NotFittedError, ParameterError
from kernelpot.features.folds import folds as share_out
from kernelpot.features.inducing import mean_vectors
from kernelpot.linalg.subsets import equal_vectors
from kernelpot.potentials.fitted import Calibration, Fitted
from kernelpot.potentials.left_out import TrainingSet, predict_left_out
from kernelpot.potentials.prediction import Prediction
from kernelpot.potentials.residuals import Residuals, residuals_of
from kernelpot.potentials.spreading import METHODS, Spreading, fit_spreading

if TYPE_CHECKING:
    from ase import Atoms

FEWEST = 2
"""Structures with labels of a kind below which its calibration is left as it is."""


def recalibrated(state: Fitted, residuals: Mapping[str, Residuals], witness: np.ndarray, method: str) -> Fitted:
    """Return the state with the standard deviations of these residuals.

    Parameters
    ----------
    state
        Fitted.
    residuals
        Unseen, of each kind.
    witness
        Number of the independent structure behind each structure: equal for duplicates.
    method
        One of `METHODS`.
    """
    found: dict[str, Spreading] = {}
    for kind, errors in residuals.items():
        witnesses = len(np.unique(witness[np.unique(errors.structure)]))
        if witnesses >= FEWEST:
            found[kind] = fit_spreading(errors, method=method, witnesses=witnesses)
    old = state.calibration
    calibration = Calibration(
        {**old.factor, **{kind: s.factor for kind, s in found.items()}},
        {**old.noise, **{kind: s.floor for kind, s in found.items()}},
        {**old.shape, **{kind: s.shape for kind, s in found.items()}},
    )
    return replace(state, calibration=calibration)


def left_out(
    state: Fitted, train: TrainingSet, *, n_folds: int, groups: bool, seed: int
) -> tuple[Prediction, Int[np.ndarray, " structures"]]:
    """Predict every training structure by the model without its fold, or without its whole group.

    Returns
    -------
    Prediction, witness
        In the order of the structures; witness is equal for duplicates, or for structures of one group.

    Raises
    ------
    ParameterError
        There are fewer than two folds, groups or different structures.
    """
    if groups:
        names = [str(atoms.info.get("config_type", "")) for atoms in train.structures]
        witness: np.ndarray = np.unique(names, return_inverse=True)[1]
        fold = witness
        if fold.max() < 1:
            raise ParameterError(
                "`groups` needs at least two groups of training structures, found one; name them in "
                "atoms.info['config_type'], or use folds."
            )
    else:
        witness = equal_vectors(mean_vectors(state.features.descriptor, train.structures), train.labels.n_atoms)
        n_folds = _checked(n_folds, len(np.unique(witness)))
        fold = share_out(witness, n_folds, seed=seed, run=1)
    return predict_left_out(state, train, fold), witness


def check_training(state: Fitted, train: TrainingSet | None) -> TrainingSet:
    """Return the training set, where it is the one behind the posterior.

    Raises
    ------
    NotFittedError
        There is none, as in a model that was loaded.
    ParameterError
        It holds other labels than the posterior does.
    """
    if train is None:
        raise NotFittedError(
            "only a model that was fitted here holds its training structures, not one from a file or from condition; "
            "give them as training=[...], or held-out structures that have labels."
        )
    expected = {kind: n for kind, n in state.n_labels.items() if n}
    found = {kind: n for kind, n in _count(train.labels).items() if kind in state.noise.kinds and n}
    if expected != found:
        raise ParameterError(
            f"`training` must be the structures that the model was fitted to, whose labels are {expected}; found "
            f"{found}. Structures that it has not seen go into `held_out`."
        )
    return train


def check_method(method: str) -> None:
    """Refuse a method that does not exist.

    Raises
    ------
    ParameterError
        It is none of `METHODS`.
    """
    if method not in METHODS:
        raise ParameterError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")


def held_out_residuals(prediction: Prediction, labels: Labels) -> dict[str, Residuals]:
    """Return the residuals of structures that the model did not see.

    Raises
    ------
    LabelError
        There is no label.
    """
    residuals = residuals_of(prediction, labels)
    if not residuals:
        raise LabelError("calibrate needs labels, found none; name them with keys={'energy': ..., 'forces': ...}.")
    return residuals


def refuse_known(held_out: Sequence[Atoms], train: TrainingSet | None) -> None:
    """Refuse held-out structures that are the very objects the model was fitted to.

    Raises
    ------
    ParameterError
        One of them is.
    """
    known = {id(atoms) for atoms in train.structures} if train is not None else set()
    seen = [k for k, atoms in enumerate(held_out) if id(atoms) in known]
    if seen:
        raise ParameterError(
            f"`held_out` must be structures that the model has not seen, but structure {seen[0]} (from 0) is one that "
            f"it was fitted to ({len(seen)} in all); call calibrate() to leave training structures out by folds."
        )


def _checked(n_folds: int, most: int) -> int:
    if isinstance(n_folds, bool) or not isinstance(n_folds, int | np.integer) or n_folds < 2:
        raise ParameterError(f"`folds` must be a whole number of at least 2, got {n_folds!r}; 16 is usual.")
    if most < 2:
        raise ParameterError("calibrate needs at least two different training structures, found one; give `held_out`.")
    return min(int(n_folds), most)


def _count(labels: Labels) -> dict[str, int]:
    return {
        "energy": int(labels.present("energy").sum()),
        "forces": sum(f.size for f in labels.forces if f is not None),
        "stress": int(np.isfinite(labels.stress).sum()),
    }
