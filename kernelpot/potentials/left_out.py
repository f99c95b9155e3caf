"""Predictions of training structures by a posterior that never saw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.data.labels import Labels
from kernelpot.features.inducing import chunks
from kernelpot.features.placing import device_of, on_device
from kernelpot.features.thinned import Owners, owners, without_fold
from kernelpot.linalg.factor import Posterior
from kernelpot.potentials.baselines.given import less_baseline
from kernelpot.potentials.fitted import Fitted, join
from kernelpot.potentials.prediction import Prediction
from kernelpot.potentials.training import FoldFactors, composition_of, e0_rows, fold_factors
from kernelpot.progress import track
from kernelpot.run import one_blas, ordered

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_PER_PREDICTION = 256


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a model was fitted to, with the labels as they were read then.

    Attributes
    ----------
    structures, labels
        In one order.
    """

    structures: Sequence[Atoms]
    labels: Labels

    def __len__(self) -> int:
        return len(self.structures)


def predict_left_out(state: Fitted, train: TrainingSet, fold: Int[np.ndarray, " structures"]) -> Prediction:
    """Predict every structure by the model given all folds but its own.

    Noises, amplitude and scales are kept, so that each prediction is that of a refit without the fold: posterior and E0
    are made from the prior and the other folds' factors, nothing is subtracted, and the inducing environments that only
    this fold holds are left out with it: new structures have none of their own either. Rows are made
    twice, once for the factors and once for the standard deviations. Memory: folds · kinds · M² for the factors, and
    one posterior at a time.

    Parameters
    ----------
    state
        Fitted to these structures: its settings are used, its posterior is not.
    train
        The training structures with their labels.
    fold
        Fold of each structure, 0 to the number of folds less one.
    """
    structures, labels = train.structures, train.labels
    with one_blas():
        kinds = tuple(kind for kind in state.noise.kinds if labels.present(kind).any())
        labels = less_baseline(state.reference, structures, labels, kinds)
        data = fold_factors(state.features, structures, labels, fold, kinds=kinds, baseline=state.baseline)
        rows = e0_rows(labels, composition_of(structures, state.features.species))
        own = owners(on_device(state.features, None), structures, fold)
        fold_of_row = fold[labels.present("energy")]
        parts: list[Prediction] = []
        order: list[Int[np.ndarray, " members"]] = []
        for f in track(range(data.n_folds), "folds"):
            members = np.flatnonzero(fold == f)
            others = _without(state, data, own, f, rows[fold_of_row != f])
            parts.append(predict_by(others, [structures[int(k)] for k in members]))
            order.append(members)
    return join(parts).take(np.argsort(np.concatenate(order)))


def _without(
    state: Fitted, data: FoldFactors, own: Owners, fold: int, rows: Float[np.ndarray, "energies species_plus_1"]
) -> Fitted:
    """Return the state given all folds but one; `rows` are the `e0_rows` of the others."""
    d = state.features.n_weights
    thinned, basis = without_fold(on_device(state.features, None), own, fold)
    features = on_device(thinned, device_of(state.features), getattr(state.features, "precision", "float64"))
    blocks = [
        _projected(data.scaled(kind, f, state.noise.sigma(kind), state.amplitude), d, basis)
        for kind in data.kinds
        for f in range(data.n_folds)
        if f != fold
    ]
    n_species = len(state.features.species)
    posterior = Posterior.prior(features.n_weights + n_species).condition(blocks)
    blank = replace(state, features=features, posterior=posterior, e0_factor=np.zeros((0, n_species + 1)), seen=None)
    return blank.rebased(rows) if len(rows) else blank


def _projected(
    block: Float[np.ndarray, "rows columns"], d: int, basis: Float[np.ndarray, "d e"]
) -> Float[np.ndarray, "rows fewer"]:
    return np.concatenate([block[:, :d] @ basis, block[:, d:]], axis=1)


def predict_by(state: Fitted, structures: Sequence[Atoms]) -> Prediction:
    """Predict structures with standard deviations."""
    state.uncertainty.prepare()

    def part(piece: tuple[int, int]) -> Prediction:
        batch = Batch.from_structures(structures[slice(*piece)], state.reach, start=piece[0])
        return state.predict(batch, uncertainty=True)

    return join(list(ordered(part, chunks(structures, ATOMS_PER_PREDICTION))))
