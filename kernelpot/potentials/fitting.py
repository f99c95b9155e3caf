"""Fitted states from labelled structures: all of them, more, fewer, and each fold left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.check import place
from kernelpot.data.labels import Labels
from kernelpot.data.noise import KINDS, Noise
from kernelpot.errors import LabelError, NotFittedError, ParameterError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.folds import folds, runs
from kernelpot.features.inducing import chunks, mean_vectors, more_inducing
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.placing import device_of, on_device
from kernelpot.features.sum_map import SumMap
from kernelpot.features.thinned import Owners, owners, without_fold
from kernelpot.linalg.factor import Posterior, RowSink, triangle
from kernelpot.linalg.subsets import equal_vectors
from kernelpot.potentials.baselines.given import less_baseline
from kernelpot.potentials.extrapolation import Seen
from kernelpot.potentials.fitted import Fitted
from kernelpot.potentials.noise_search import FoldErrors
from kernelpot.potentials.prediction import Prediction, join
from kernelpot.potentials.training import (
    FoldFactors,
    TrainingSet,
    Workers,
    composition_of,
    distributed_factors,
    e0_rows,
    fold_factors,
    least_squares_e0,
)
from kernelpot.progress import say, track
from kernelpot.run import one_blas

if TYPE_CHECKING:
    from ase import Atoms

N_FOLDS = 8

ROUND_OFF = 1e-13
"""Eigenvalues of a Gram matrix of unit columns that tell nothing."""

FEWER = "too little would be left of what they told ({}); fit again without them."


@one_blas()
def fit_state(
    features: FeatureMap,
    structures: Sequence[Atoms],
    labels: Labels,
    noise: Noise | str,
    *,
    kinds: Sequence[str],
    amplitude: float,
    seed: int,
    given_folds: Int[np.ndarray, " structures"] | None = None,
    workers: Workers | None = None,
) -> Fitted:
    """Fit labels from the prior; amplitude and the terms' scales are kept where the noise is given."""
    e0_factor = triangle(e0_rows(labels, composition_of(structures, features.species)))
    e0 = least_squares_e0(e0_factor)
    groups = equal_vectors(mean_vectors(features.descriptor, structures), labels.n_atoms)
    n_folds = max(1, min(N_FOLDS, len(np.unique(groups))))
    fold = folds(groups, n_folds, seed=seed) if n_folds > 1 else np.zeros(len(groups), dtype=np.int64)
    if given_folds is not None:
        fold, n_folds = given_folds, int(given_folds.max()) + 1
    memory = 2 * n_folds * len(kinds) * (features.n_columns + len(features.species) + 1) ** 2 * 8
    say(f"fit: {features.n_inducing} inducing environments, factors take up to {memory / 1e6:.0f} MB")
    plain = features.rescaled((1.0,) * len(features.widths))
    make_factors = fold_factors if workers is None else partial(distributed_factors, workers=workers)
    data = make_factors(plain, structures, labels, fold, kinds=kinds, e0=e0)
    errors = FoldErrors(data).at(features.scales)
    found = errors.settle(noise, amplitude, independent=len(np.unique(runs(groups, n_folds))))
    features, data = features.rescaled(found.scales), data.rescaled(found.scales)
    blocks = [
        data.scaled(kind, f, found.noise.sigma(kind), found.amplitude)
        for kind in data.kinds
        for f in range(data.n_folds)
    ]
    return Fitted(
        features,
        Posterior.prior(features.n_weights + len(features.species)).condition(blocks),
        found.noise,
        found.amplitude,
        e0,
        e0_factor,
        found.calibration,
        found.rmse,
        {kind: int(n.sum()) for kind, n in data.n_rows.items()},
        seen=Seen.of(features, structures, seed=seed),
    )


def require_labels(labels: Labels, noise: Noise | str) -> tuple[str, ...]:
    """Return the kinds of labels that are there and have a noise; one must, and energies or forces must be there."""
    wanted = KINDS if isinstance(noise, str) else noise.kinds
    if not labels.present("energy").any() and not labels.present("forces").any():
        raise LabelError(
            "fit needs energies or forces, found neither; name them with keys={'energy': ..., 'forces': ...}."
        )
    found = tuple(kind for kind in wanted if labels.present(kind).any())
    if not found:
        raise LabelError(
            f"fit found no label of the kinds that have a noise ({', '.join(wanted)}); check `noise` or `keys`."
        )
    return found


# ---- more and fewer structures


def conditioned(state: Fitted, structures: Sequence[Atoms], labels: Labels) -> Fitted:
    """Return the state given more labelled structures, with noises, amplitude and calibration kept."""
    kinds = state.noise.kinds
    if not any(labels.present(kind).any() for kind in kinds):
        raise LabelError(
            f"condition found no label of the kinds that have a noise ({', '.join(kinds)}); "
            "check `keys`, or compute the labels first."
        )
    for start, stop in chunks(structures):
        part = labels.take(list(range(start, stop)))
        state = state.condition(state.rows(structures[start:stop], part))
    if state.seen is not None:
        state = replace(state, seen=state.seen.with_structures(state.features, structures))
    return state.rebased(structures, labels)


def refuse_strangers(structures: Sequence[Atoms], training: TrainingSet) -> None:
    """Refuse structures that are none of the training set's."""

    def mark(atoms: Atoms) -> tuple[bytes, bytes, bytes]:
        return atoms.numbers.tobytes(), atoms.positions.tobytes(), np.asarray(atoms.cell.array).tobytes()

    known = set(map(mark, training.structures))
    for number, atoms in enumerate(structures):
        if mark(atoms) not in known:
            raise ParameterError(
                f"{place(atoms, number)} cannot be removed: it is none of the structures that the model was fitted to."
            )


def removed(state: Fitted, structures: Sequence[Atoms], labels: Labels) -> Fitted:
    """Return the state without these labelled structures, where that can be done without losing digits."""
    sink = RowSink(len(state.posterior.target) + 1)
    n_labels = dict(state.n_labels)
    for start, stop in chunks(structures):
        for kind, block in state.rows(structures[start:stop], labels.take(list(range(start, stop)))).items():
            n_labels[kind] = n_labels.get(kind, 0) - len(block)
            sink.append(block)
    if sink.n_rows == 0 or min(n_labels.values()) < 0:
        raise LabelError(
            "remove needs structures with the labels that were fitted; "
            + ("found none." if sink.n_rows == 0 else "these have more labels than the model has seen.")
        )
    try:
        posterior = state.posterior.without(sink.compact())
        seen = None if state.seen is None else state.seen.without_structures(state.features, structures)
    except (np.linalg.LinAlgError, ParameterError) as error:
        raise ParameterError(f"these structures cannot be removed: {FEWER.format(error)}") from None
    factor = _fewer_energies(state, e0_rows(labels, composition_of(structures, state.features.species)))
    return replace(state, posterior=posterior, seen=seen, n_labels=n_labels).with_e0(factor)


def _fewer_energies(state: Fitted, rows: Float[np.ndarray, "energies n"]) -> Float[np.ndarray, "n n"]:
    """Return F with FᵀF = factorᵀ factor - rowsᵀ rows, what is below round-off left out.

    Energies are taken relative to E0 meanwhile: all-electron ones of 1e5 eV per atom, once squared, would leave no
    digits for the species' shares.
    """
    factor, e0 = state.e0_factor, state.e0_centre
    relative = np.eye(factor.shape[1])
    relative[:-1, -1] = -e0
    kept, gone = factor @ relative, rows @ relative
    scale = np.linalg.norm(kept, axis=0)
    scale[scale == 0.0] = 1.0
    eigenvalues, vectors = np.linalg.eigh((kept.T @ kept - gone.T @ gone) / np.outer(scale, scale))
    root = np.sqrt(np.where(eigenvalues > ROUND_OFF, eigenvalues, 0.0))[:, None] * vectors.T * scale
    root[:, -1] += root[:, :-1] @ e0
    result: np.ndarray = root
    return result


# ---- more inducing environments


def grown(state: Fitted, structures: Sequence[Atoms], labels: Labels, n: int, *, seed: int, tolerance: float) -> Fitted:
    """Return a fit of all these structures with up to n more inducing environments, at the same noises."""
    plain = _more(on_device(state.features, None), structures, n, seed=seed, tolerance=tolerance)
    new = fit_state(
        _placed_as(state, plain), structures, labels, state.noise,
        kinds=tuple(kind for kind in state.noise.kinds if labels.present(kind).any()),
        amplitude=state.amplitude, seed=seed,
    )  # fmt: skip
    return replace(new, baseline=state.baseline)


def _more(features: FeatureMap, structures: Sequence[Atoms], n: int, *, seed: int, tolerance: float) -> FeatureMap:
    if isinstance(features, KernelMap):
        z = more_inducing(features.descriptor, structures, features.inducing, n, seed=seed)
        return KernelMap.from_inducing(features.descriptor, features.kernel, z, tolerance)
    if isinstance(features, SumMap):
        kernels = [t for t, term in enumerate(features.terms) if isinstance(term, KernelMap)]
        if kernels:
            shares = {t: n // len(kernels) + (k < n % len(kernels)) for k, t in enumerate(kernels)}
            terms = [
                _more(term, structures, shares[t], seed=seed, tolerance=tolerance) if shares.get(t) else term
                for t, term in enumerate(features.terms)
            ]
            return replace(features, terms=tuple(terms))
    raise ParameterError("this model has no term with inducing environments, so none can be added.")


def _placed_as(state: Fitted, features: FeatureMap) -> FeatureMap:
    """Return a map on the device of the state's own, in its precision."""
    return on_device(features, device_of(state.features), getattr(state.features, "precision", "float64"))


# ---- leaving out


def check_training(state: Fitted, train: TrainingSet | None) -> TrainingSet:
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


def refuse_known(held_out: Sequence[Atoms], train: TrainingSet | None) -> None:
    """Refuse held-out structures that are the very objects the model was fitted to."""
    known = {id(atoms) for atoms in train.structures} if train is not None else set()
    seen = [k for k, atoms in enumerate(held_out) if id(atoms) in known]
    if seen:
        raise ParameterError(
            f"`held_out` must be structures that the model has not seen, but structure {seen[0]} (from 0) is one that "
            f"it was fitted to ({len(seen)} in all); call calibrate() to leave training structures out by folds."
        )


def left_out(
    state: Fitted, train: TrainingSet, *, n_folds: int, groups: bool, seed: int
) -> tuple[Prediction, Int[np.ndarray, " structures"]]:
    """Predict every training structure by the model without its fold, or without its whole group.

    The second array numbers what is independent: duplicates alike, or the structures of one group.
    """
    if groups:
        names = [str(atoms.info.get("config_type", "")) for atoms in train.structures]
        witness: np.ndarray = np.unique(names, return_inverse=True)[1]
        if witness.max() < 1:
            raise ParameterError(
                "`groups` needs at least two groups of training structures, found one; name them in "
                "atoms.info['config_type'], or use folds."
            )
        return predict_left_out(state, train, witness), witness
    witness = equal_vectors(mean_vectors(state.features.descriptor, train.structures), train.labels.n_atoms)
    if isinstance(n_folds, bool) or not isinstance(n_folds, int | np.integer) or n_folds < 2:
        raise ParameterError(f"`folds` must be a whole number of at least 2, got {n_folds!r}; 16 is usual.")
    different = len(np.unique(witness))
    if different < 2:
        raise ParameterError("calibrate needs at least two different training structures, found one; give `held_out`.")
    return predict_left_out(state, train, folds(witness, min(int(n_folds), different), seed=seed, run=1)), witness


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
    features = _placed_as(state, thinned)
    blocks = []
    for kind in data.kinds:
        for f in range(data.n_folds):
            if f != fold:
                block = data.scaled(kind, f, state.noise.sigma(kind), state.amplitude)
                blocks.append(np.concatenate([block[:, :d] @ basis, block[:, d:]], axis=1))
    posterior = Posterior.prior(features.n_weights + n_species).condition(blocks)
    blank = replace(state, features=features, posterior=posterior, seen=None)
    return blank.with_e0(triangle(rows)) if len(rows) else replace(blank, e0_factor=np.zeros((0, n_species + 1)))
