"""Fits: of labelled structures, with more of them or fewer, and with more inducing environments.

`condition`, `remove`, `add_inducing` and `to` are methods of `SparseGP`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from kernelpot.data.check import validate
from kernelpot.data.geometry import default_cutoff
from kernelpot.data.labels import Labels, resolve
from kernelpot.data.noise import KINDS, Noise
from kernelpot.data.stream import chunks, taken
from kernelpot.data.suspects import LabelCheck
from kernelpot.errors import LabelError, ParameterError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.inducing import mean_vectors, more_inducing
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.sum_map import SumMap
from kernelpot.features.torch import device_of, on_device
from kernelpot.linalg.devices import check_device
from kernelpot.linalg.factor import Posterior, RowSink, triangle
from kernelpot.linalg.subsets import alike, equal_vectors, folds
from kernelpot.potentials.baselines.given import less_baseline
from kernelpot.potentials.calibration import DEGREES
from kernelpot.potentials.extrapolation import Seen
from kernelpot.potentials.fitted import Fitted, M, accepted, changed
from kernelpot.potentials.noise_search import FoldErrors, left_out_in
from kernelpot.potentials.suspects.judge import check_folds
from kernelpot.potentials.terms import Term, Tried, find_coupling
from kernelpot.potentials.training import (
    RANK,
    TrainingSet,
    Workers,
    composition_of,
    distributed_factors,
    e0_rows,
    e0_spread,
    fold_factors,
    least_squares_e0,
    prior_roots,
)
from kernelpot.progress import say
from kernelpot.rules import whole
from kernelpot.run import one_blas, physical_memory
from kernelpot.units import MILLI

if TYPE_CHECKING:
    from ase import Atoms

N_FOLDS = 8

DONE = {
    "warn": 'all were fitted all the same: look at them (`kernelpot check`), or leave them out with suspects="drop" '
    "(--drop-suspects)",
    "drop": "their structures were left out",
    "robust": "they were weighed down",
    "ignore": "",
}
"""What `fit` does with labels that stand out, and says."""

NO_BETTER, SAYING = 0.8, 20
"""Left-out error over the size of the labels from which a model is said to be no good; structures needed to warn."""

COARSE, MANY = 0.95, 3000
"""Error of fitted labels over that of left-out ones from which the model is the limit; forces that can tell."""

SHORT, SOME = 0.75, 30
"""Cutoff over that which the data suggest below which a fit says so; structures that are asked."""

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
    known: Labels | None = None,
) -> tuple[Fitted, LabelCheck | None]:
    """Fit labels from the prior; amplitude and the terms' scales are kept where the noise is given.

    Where labels as they were before a baseline was taken off are `known`, each is judged by the others.
    """
    e0_factor = triangle(e0_rows(labels, composition_of(structures, features.species)))
    e0 = least_squares_e0(e0_factor)
    fold, groups, blocks = laid(features, structures, labels, seed)
    fold = fold if given_folds is None else given_folds
    n_folds = int(fold.max()) + 1
    memory = 2 * n_folds * len(kinds) * (features.n_columns + len(features.species) + 1) ** 2 * 8
    say(f"fit: {features.n_inducing} inducing environments, factors take up to {memory / 1e6:.0f} MB")
    if memory > (there := physical_memory()):
        raise ParameterError(
            f"a fit must fit into memory, that of {features.n_columns} inducing environments in {n_folds} folds takes "
            f"{memory / 2**30:.0f} GiB of {there / 2**30:.0f}; choose a smaller `n_inducing` (--n-inducing)."
        )
    plain = features.rescaled((1.0,) * len(features.widths))
    make_factors = fold_factors if workers is None else partial(distributed_factors, workers=workers)
    data = make_factors(plain, structures, labels, fold, kinds=kinds, e0=e0)
    errors = FoldErrors(data).at(features.scales)
    check = None
    if known is not None:
        check = check_folds(errors, features, structures, labels, fold, e0=e0, groups=groups, known=known)
    found = errors.settle(noise, amplitude, independent=len(np.unique(blocks)))
    features, data = features.rescaled(found.scales), data.rescaled(found.scales)
    rows = [
        data.scaled(kind, f, found.noise.sigma(kind), found.amplitude)
        for kind in data.kinds
        for f in range(data.n_folds)
    ]
    e0_std = e0_spread(features, found.amplitude)
    roots = prior_roots(features, e0_std)
    state = Fitted(
        features,
        Posterior.prior(len(roots), roots).condition(rows),
        found.noise,
        found.amplitude,
        e0,
        e0_factor,
        found.calibration,
        found.rmse,
        {kind: int(n.sum()) for kind, n in data.n_rows.items()},
        seen=Seen.of(features, structures, seed=seed),
        e0_std=e0_std,
    )
    return state, check


def laid(
    features: FeatureMap, structures: Sequence[Atoms], labels: Labels, seed: int
) -> tuple[Int[np.ndarray, " structures"], Int[np.ndarray, " structures"], Int[np.ndarray, " structures"]]:
    """Return each structure's fold, the group of its duplicates, and the block that counts as one witness."""
    means = mean_vectors(features.descriptor, structures)
    groups = equal_vectors(means, labels.n_atoms)
    n_folds = max(1, min(N_FOLDS, len(np.unique(groups))))
    blocks = alike(means, groups, n_folds)
    fold = folds(blocks, n_folds, seed=seed) if n_folds > 1 else np.zeros(len(groups), dtype=np.int64)
    return fold, groups, blocks


def space_of(
    model: Any,
    structures: Sequence[Atoms],
    labels: Labels,
    kinds: Sequence[str],
    given_folds: Int[np.ndarray, " structures"] | None = None,
) -> tuple[FeatureMap, tuple[tuple[Term, ...], tuple[Tried, ...]] | None]:
    """Return the features that a fit takes, with what was found for them: nothing where the model is prepared."""
    if model.features_ is not None:
        return model.features_, None
    found = find_coupling(model.terms, structures, labels, kinds=kinds, seed=model.seed, given_folds=given_folds)
    return changed(model, terms=found[0]).prepare(structures).plan()[0], found


@one_blas()
def judged(
    model: Any, structures: Sequence[Atoms], labels: Labels, ways: Sequence[Int[np.ndarray, " structures"]]
) -> tuple[FeatureMap, tuple[dict[str, float], ...]]:
    """Return the features of a fit, and the RMSE of each kind for every way to leave structures out.

    All from one pass over the data, without the posterior; noises are those of the first way.
    """
    kinds = require_labels(labels, model.noise)
    labels = less_baseline(model.baseline, structures, labels, kinds)
    features, _ = space_of(model, structures, labels, kinds, ways[0])
    first, *others = left_out_in(features, structures, labels, ways, kinds=kinds)
    means = mean_vectors(features.descriptor, structures)
    blocks = alike(means, equal_vectors(means, labels.n_atoms), int(ways[0].max()) + 1)
    independent = len(np.unique(blocks))
    found = first.settle(model.noise, model.terms[0].amplitude, independent=independent)
    ratio = {kind: found.noise.sigma(kind) / found.amplitude for kind in found.noise.kinds}
    left_out = [errors.at(found.scales).left_out(ratio) for errors in others]
    rmse = [{kind: float(one.rmse) for kind, one in left.items() if len(one)} for left in left_out]
    return features, (found.rmse, *rmse)


@one_blas()
def by_others(model: Any, structures: Sequence[Atoms], labels: Labels) -> LabelCheck | None:
    """Judge all labels by each other, in the features of a model."""
    kinds = require_labels(labels, model.noise)
    features = (model if model.features_ is not None else model.prepare(structures)).plan()[0]
    fitted = less_baseline(model.baseline, structures, labels, kinds)
    fold, groups, _ = laid(features, structures, labels, model.seed)
    e0 = least_squares_e0(e0_rows(fitted, composition_of(structures, features.species)))
    plain = features.rescaled((1.0,) * len(features.widths))
    data = fold_factors(plain, structures, fitted, fold, kinds=kinds, e0=e0)
    errors = FoldErrors(data).at(features.scales)
    return check_folds(errors, plain, structures, fitted, fold, e0=e0, groups=groups, known=labels)


def settled(model: Any, structures: Sequence[Atoms], labels: Labels, how: str) -> tuple[Labels, LabelCheck | None]:
    """Return the labels that a fit is to settle everything with, and what was found where some are left out."""
    if how not in DONE:
        raise ParameterError(f"`suspects` must be one of {', '.join(DONE)}, got {how!r}.")
    if how not in ("drop", "robust"):
        return labels, None
    check = by_others(model, structures, labels)
    return (labels, None) if check is None else (labels.without(check.structures), check)


def with_suspects(
    state: Fitted, structures: Sequence[Atoms], labels: Labels, check: LabelCheck | None
) -> tuple[Fitted, Labels]:
    """Return a state that has seen suspects too, and all labels, as it weighs them.

    Their noise is multiplied as the weights (ν + 1)/(ν + z²) of Student's t say for an error of z times the usual
    (Lange, Little and Taylor (1989), eq. 5). Noises, amplitude and calibration are settled without them: no score has
    seen a weight that knew the label it scores.
    """
    if check is None or not check.suspects:
        return state, labels
    out = list(check.structures)
    factors = {kind: np.ones(len(labels)) for kind in check.times}
    for kind, times in check.times.items():
        z = np.nan_to_num(np.maximum(times, 0.0))
        factors[kind][out] = np.maximum(1.0, np.sqrt((DEGREES + z[out] ** 2) / (DEGREES + 1.0)))
    labels = labels.weighed(factors)
    some = taken(structures, out)
    theirs = less_baseline(state.baseline, some, labels.take(out), state.noise.kinds)
    return state.condition(state.rows(some, theirs)), labels


def conclude(
    model: Any,
    state: Fitted,
    structures: Sequence[Atoms],
    known: Labels,
    every: Labels,
    check: LabelCheck | None,
    how: str,
) -> None:
    """Put what a fit left into its model, and say which labels stand out; `every` holds those that were left out."""
    state = replace(state, baseline=model.baseline)
    if how == "robust":
        state, known = with_suspects(state, structures, every, check)
    model.fitted_, model.training_, model.suspects_ = state, TrainingSet(structures, known), check
    poor, model.remarks_ = remarks_on(state, structures, known)
    if check is not None and check.suspects:
        warnings.warn(f"{check.headline()}; {DONE[how]}.", stacklevel=3)
    for remark in poor:
        warnings.warn(f"{remark}.", stacklevel=3)


def remarks_on(state: Fitted, structures: Sequence[Atoms], labels: Labels) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is to be said of a fit by its own left-out errors: that it is no good, then all of it."""
    told, sizes = [], {}
    energies, forces = int(labels.present("energy").sum()), labels.all_forces
    if energies > 2 * len(state.features.species):
        rest = np.linalg.lstsq(state.e0_factor[:, :-1], state.e0_factor[:, -1], rcond=RANK)[0]
        misfit = state.e0_factor[:, :-1] @ rest - state.e0_factor[:, -1]
        sizes["energy"] = float(np.linalg.norm(misfit) / np.sqrt(energies))
    if (finite := forces[np.isfinite(forces)]).size:
        sizes["forces"] = float(np.sqrt(np.mean(finite**2)))
    for kind, error in state.cross_validation.items():
        if kind in sizes and error > NO_BETTER * sizes[kind]:
            without = {"energy": "composition alone gives", "forces": "forces of zero give"}[kind]
            told.append(
                f"{kind}: left-out RMSE {1e3 * error:.3g} {MILLI[kind]}, where {without} {1e3 * sizes[kind]:.3g}: "
                "the model is hardly better than none; more labels or inducing environments may help"
            )
    poor = tuple(told) if len(structures) >= SAYING else ()
    error, misfit = (of.get("forces", np.nan) for of in (state.cross_validation, state.calibration.noise))
    if not poor and finite.size >= MANY and misfit > COARSE * error:
        told.append(
            f"forces that were fitted are missed by nearly as much as new ones ({1e3 * misfit:.3g} and "
            f"{1e3 * error:.3g} meV/Å): labels of this kind tell little more, a finer model may (n_inducing, now "
            f"{state.features.n_inducing}; n_max, l_max, cutoff)"
        )
    usual = default_cutoff([structures[k] for k in np.unique(np.linspace(0, len(structures) - 1, SOME).astype(int))])
    if state.features.cutoff < SHORT * usual:
        told.append(f"the cutoff, {state.features.cutoff:g} Å, is short: distances between atoms suggest {usual:g} Å")
    return poor, tuple(told)


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


def fold_numbers(folds: Sequence[int] | Sequence[str], n: int) -> Int[np.ndarray, " structures"]:
    """Return the fold of each of n structures, numbered from 0 in order of their names."""
    names, numbers = np.unique(np.asarray(folds), return_inverse=True)
    if np.ndim(folds) != 1 or len(folds) != n:
        raise ParameterError(f"`folds` must name one fold for each of {n} structures, got shape {np.shape(folds)}.")
    if len(names) < 2:
        raise ParameterError(f"`folds` must name at least two different folds, got only {names[0]!r}.")
    result: np.ndarray = numbers.astype(np.int64)
    return result


def condition(model: M, structures: Sequence[Atoms], *, keys: Mapping[str, str | None] | None = None) -> M:
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
    state, structures, labels = _labelled(model, structures, keys)
    kinds = state.noise.kinds
    if not any(labels.present(kind).any() for kind in kinds):
        raise LabelError(
            f"condition found no label of the kinds that have a noise ({', '.join(kinds)}); "
            "check `keys`, or compute the labels first."
        )
    for start, stop in chunks(structures):
        state = state.condition(state.rows(structures[start:stop], labels.take(list(range(start, stop)))))
    if state.seen is not None:
        state = replace(state, seen=state.seen.with_structures(state.features, structures))
    return changed(model, features_=model.features_, fitted_=state.rebased(structures, labels))


def remove(model: M, structures: Sequence[Atoms], *, keys: Mapping[str, str | None] | None = None) -> M:
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
    state, structures, labels = _labelled(model, structures, keys)
    if model.training_ is not None:
        model.training_.refuse_strangers(structures)
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
    rows = e0_rows(labels, composition_of(structures, state.features.species))
    state = replace(state, posterior=posterior, seen=seen, n_labels=n_labels).without_energies(rows)
    return changed(model, features_=model.features_, fitted_=state)


def add_inducing(model: M, structures: Sequence[Atoms], n: int, *, keys: Mapping[str, str | None] | None = None) -> M:
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
    n = whole(n, "n", least=1, usual="it is a number of inducing environments")
    state, structures, labels = _labelled(model, structures, keys)
    more = more_of(on_device(state.features, None), structures, n, seed=model.seed, tolerance=model.tolerance)
    precision = getattr(state.features, "precision", "float64")
    new, _ = fit_state(
        on_device(more, device_of(state.features), precision), structures, labels, state.noise,
        kinds=tuple(kind for kind in state.noise.kinds if labels.present(kind).any()),
        amplitude=state.amplitude, seed=model.seed,
    )  # fmt: skip
    return changed(model, features_=new.features, fitted_=replace(new, baseline=state.baseline))


def to(model: M, device: str | None, *, precision: str = "float64") -> M:
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
    state, features = model.fitted_, model.features_
    if state is not None:
        # The fitted map where both are one, so that the device holds it once.
        same = features is state.features
        state = replace(state, features=on_device(state.features, device, precision))
        features = state.features if same else features
    if features is not None and (state is None or features is not state.features):
        features = on_device(features, device, precision)
    return changed(
        model, device=device, precision=precision, features_=features, fitted_=state, training_=model.training_
    )


def _labelled(
    model: M, structures: Sequence[Atoms], keys: Mapping[str, str | None] | None
) -> tuple[Fitted, list[Atoms], Labels]:
    """Return the state with structures it can take, and their labels less the baseline."""
    state, structures = accepted(model, structures)
    validate(structures)
    return state, structures, less_baseline(state.baseline, structures, resolve(structures, keys), state.noise.kinds)


def more_of(features: FeatureMap, structures: Sequence[Atoms], n: int, *, seed: int, tolerance: float) -> FeatureMap:
    """Return features with up to n more inducing environments, shared over the terms that have any."""
    if isinstance(features, KernelMap):
        z = more_inducing(features.descriptor, structures, features.inducing, n, seed=seed)
        return KernelMap.from_inducing(features.descriptor, features.kernel, z, tolerance)
    if isinstance(features, SumMap):
        kernels = [t for t, term in enumerate(features.terms) if isinstance(term, KernelMap)]
        if kernels:
            shares = {t: n // len(kernels) + (k < n % len(kernels)) for k, t in enumerate(kernels)}
            terms = [
                more_of(term, structures, shares[t], seed=seed, tolerance=tolerance) if shares.get(t) else term
                for t, term in enumerate(features.terms)
            ]
            return replace(features, terms=tuple(terms))
    raise ParameterError("this model has no term with inducing environments, so none can be added.")
