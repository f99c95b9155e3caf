"""From labelled structures to a fitted state: folds, factors, noises, posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from kernelpot.data.labels import Labels
from kernelpot.data.noise import KINDS, Noise
from kernelpot.errors import LabelError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.folds import folds, runs
from kernelpot.features.inducing import chunks, mean_vectors
from kernelpot.linalg.factor import Posterior, triangle
from kernelpot.linalg.subsets import equal_vectors
from kernelpot.potentials.calibration import calibrate, common_scale, noise_of
from kernelpot.potentials.distributed import Workers, distributed_factors
from kernelpot.potentials.extrapolation import Seen
from kernelpot.potentials.fitted import Calibration, Fitted
from kernelpot.potentials.noise_search import FoldErrors
from kernelpot.potentials.training import (
    FoldFactors,
    composition_of,
    e0_rows,
    fold_factors,
    labelled_rows,
    least_squares_e0,
    whiten_columns,
)
from kernelpot.progress import say
from kernelpot.run import one_blas

if TYPE_CHECKING:
    from ase import Atoms

N_FOLDS = 8


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
    """Fit the labels from the prior.

    Parameters
    ----------
    features
        Feature map. Its terms' scales are kept where the noise is given.
    structures, labels
        Structures with their labels, in one order.
    noise
        Noises, or how to find them: "cv", "evidence" or "tempered".
    kinds
        Kinds of labels to fit, from `require_labels`.
    amplitude
        Prior standard deviation of a local energy where the noise is given, eV.
    seed
        Makes the folds repeatable.
    given_folds
        Fold of each structure, numbered from 0 without gaps; None: folds that keep duplicates and runs whole.
    workers
        Processes that make the rows; None: this one.
    """
    e0_factor = triangle(e0_rows(labels, composition_of(structures, features.species)))
    baseline = least_squares_e0(e0_factor)
    groups = equal_vectors(mean_vectors(features.descriptor, structures), labels.n_atoms)
    n_folds = max(1, min(N_FOLDS, len(np.unique(groups))))
    fold = folds(groups, n_folds, seed=seed) if n_folds > 1 else np.zeros(len(groups), dtype=np.int64)
    if given_folds is not None:
        fold, n_folds = given_folds, int(given_folds.max()) + 1
    say(_memory_plan(features, kinds, n_folds))
    plain = features.rescaled((1.0,) * len(features.widths))
    make_factors = fold_factors if workers is None else partial(distributed_factors, workers=workers)
    data = make_factors(plain, structures, labels, fold, kinds=kinds, baseline=baseline)
    found, amplitude, scales, calibration, scores = _regularise(
        data, features.scales, noise, amplitude, independent=len(np.unique(runs(groups, n_folds)))
    )
    features, data = features.rescaled(scales), data.rescaled(scales)
    blocks = [data.scaled(kind, f, found.sigma(kind), amplitude) for kind in data.kinds for f in range(data.n_folds)]
    posterior = Posterior.prior(features.n_weights + len(features.species)).condition(blocks)
    n_labels = {kind: int(n.sum()) for kind, n in data.n_rows.items()}
    seen = Seen.of(features, structures, seed=seed)
    return Fitted(features, posterior, found, amplitude, baseline, e0_factor, calibration, scores, n_labels, seen=seen)


def require_labels(labels: Labels, noise: Noise | str) -> tuple[str, ...]:
    """Return the kinds of labels that are there and have a noise.

    Raises
    ------
    LabelError
        There is none, or neither energies nor forces are there.
    """
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


def condition_state(state: Fitted, structures: Sequence[Atoms], labels: Labels) -> Fitted:
    """Return the state given more labelled structures, with noises, amplitude and calibration kept.

    Raises
    ------
    LabelError
        There is no label of a kind that has a noise.
    """
    kinds = state.noise.kinds
    if not any(labels.present(kind).any() for kind in kinds):
        raise LabelError(
            f"condition found no label of the kinds that have a noise ({', '.join(kinds)}); "
            "check `keys`, or compute the labels first."
        )
    for start, stop in chunks(structures):
        part = labels.take(list(range(start, stop)))
        rows = labelled_rows(state.features, structures[start:stop], part, kinds=kinds, baseline=state.baseline)
        white = {kind: whiten_columns(state.features, block) for kind, block in rows.items()}
        state = state.condition(white, {kind: len(block) for kind, block in rows.items()})
    if state.seen is not None:
        state = replace(state, seen=state.seen.with_structures(state.features, structures))
    return state.rebased(e0_rows(labels, composition_of(structures, state.features.species)))


def _regularise(
    data: FoldFactors, scales: tuple[float, ...], noise: Noise | str, amplitude: float, *, independent: int
) -> tuple[Noise, float, tuple[float, ...], Calibration, dict[str, float]]:
    """Settle noises, amplitude, the terms' scales and calibration."""
    if data.n_folds < 2:
        if isinstance(noise, str):
            raise LabelError(f'noise="{noise}" needs at least two different structures, got one; give a Noise(...).')
        given = {kind: noise.sigma(kind) for kind in data.kinds}
        return noise, amplitude, scales, Calibration(dict.fromkeys(given, 1.0), given), {}
    errors = FoldErrors(data).at(scales)
    if isinstance(noise, Noise):
        ratio = {kind: noise.sigma(kind) / amplitude for kind in data.kinds}
        left = errors.left_out(ratio, variance=True)
        given = {kind: noise.sigma(kind) for kind in data.kinds}
        return noise, amplitude, scales, calibrate(given, ratio, amplitude, left), left.rmse
    ratio, scales = errors.search(noise, independent=independent)
    errors = errors.at(scales)
    left = errors.left_out(ratio, variance=True)
    if noise == "cv":
        found = common_scale(ratio, left, errors.telling)
    else:
        found = errors.log_evidence(ratio, errors.powers if noise == "tempered" else None)[1]
    calibration = calibrate(errors.residual_noise(ratio), ratio, found, left)
    return noise_of(ratio, found), found, scales, calibration, left.rmse


def _memory_plan(features: FeatureMap, kinds: Sequence[str], n_folds: int) -> str:
    columns = features.n_columns + len(features.species) + 1
    triangles = 2 * n_folds * len(kinds) * columns**2 * 8
    return f"fit: {features.n_inducing} inducing environments, factors take up to {triangles / 1e6:.0f} MB"
