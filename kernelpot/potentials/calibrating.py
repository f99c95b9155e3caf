"""The part of a model that measures its own standard deviations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Self

import numpy as np

from kernelpot.data.labels import resolve
from kernelpot.potentials.arguments import check_species, structure_list
from kernelpot.potentials.left_out import TrainingSet, predict_by
from kernelpot.potentials.posteriors import Posteriors
from kernelpot.potentials.prediction import Prediction
from kernelpot.potentials.recalibrate import (
    check_method,
    check_training,
    held_out_residuals,
    left_out,
    recalibrated,
    refuse_known,
)
from kernelpot.potentials.residuals import residuals_of

if TYPE_CHECKING:
    from ase import Atoms


class Calibrating(Posteriors):
    """Calibration of a fitted model, by folds of its training structures or by structures it has not seen."""

    seed: int
    training_: TrainingSet | None

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
        state = self._state()
        if held_out is None:
            train = self._training(training, keys)
            prediction, witness = left_out(state, train, n_folds=folds, groups=groups, seed=self.seed)
            residuals = residuals_of(prediction, train.labels)
        else:
            held_out = structure_list(held_out)
            refuse_known(held_out, self.training_)
            check_species(held_out, state.features.species)
            residuals = held_out_residuals(predict_by(state, held_out), resolve(held_out, keys))
            witness = np.arange(len(held_out))
        model = copy(self)
        model.fitted_ = recalibrated(state, residuals, witness, method)
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
        return left_out(self._state(), train, n_folds=folds, groups=groups, seed=self.seed)[0], train

    def _training(self, training: Sequence[Atoms] | None, keys: Mapping[str, str | None] | None) -> TrainingSet:
        known = self.training_
        if training is not None:
            structures = structure_list(training)
            known = TrainingSet(structures, resolve(structures, keys))
        return check_training(self._state(), known)
