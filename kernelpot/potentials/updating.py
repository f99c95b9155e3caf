"""Models that change after the fit: more structures, fewer structures, more inducing environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float

from kernelpot.data.check import place, validate
from kernelpot.data.labels import Labels, resolve
from kernelpot.errors import LabelError, ParameterError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.inducing import chunks, more_inducing
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.placing import device_of, on_device
from kernelpot.features.sum_map import SumMap
from kernelpot.linalg.factor import RowSink
from kernelpot.potentials.arguments import check_species, structure_list
from kernelpot.potentials.baselines.given import less_baseline
from kernelpot.potentials.fitted import Fitted
from kernelpot.potentials.fitting import condition_state, fit_state
from kernelpot.potentials.left_out import TrainingSet
from kernelpot.potentials.posteriors import Posteriors
from kernelpot.potentials.training import composition_of, e0_rows, labelled_rows, scale_rows, whiten_columns

if TYPE_CHECKING:
    from ase import Atoms

ROUND_OFF = 1e-13
"""Eigenvalues of a Gram matrix of unit columns that tell nothing."""

FEWER = "too little would be left of what they told ({}); fit again without them."


class Updates(Posteriors):
    """The part of a model that changes a fit without starting from the prior."""

    features_: FeatureMap | None
    fitted_: Fitted | None
    seed: int
    tolerance: float
    training_: TrainingSet | None

    _clone: Callable[..., Any]

    def _updated(self, state: Fitted, features: FeatureMap | None) -> Self:
        model: Self = self._clone()
        model.features_, model.fitted_ = features, state
        return model

    def _labelled(
        self, structures: Sequence[Atoms], keys: Mapping[str, str | None] | None
    ) -> tuple[Fitted, list[Atoms], Labels]:
        """Return the state with structures it can take, and their labels less the baseline."""
        state = self._state()
        structures = structure_list(structures)
        check_species(structures, state.features.species)
        validate(structures)
        labels = less_baseline(state.reference, structures, resolve(structures, keys), state.noise.kinds)
        return state, structures, labels

    def condition(self, structures: Sequence[Atoms], *, keys: Mapping[str, str | None] | None = None) -> Self:
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
        return self._updated(condition_state(*self._labelled(structures, keys)), self.features_)

    def remove(self, structures: Sequence[Atoms], *, keys: Mapping[str, str | None] | None = None) -> Self:
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
        state, structures, labels = self._labelled(structures, keys)
        if self.training_ is not None:
            refuse_strangers(structures, self.training_)
        return self._updated(removed_state(state, structures, labels), self.features_)

    def add_inducing(
        self, structures: Sequence[Atoms], n: int, *, keys: Mapping[str, str | None] | None = None
    ) -> Self:
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
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ParameterError(f"`n` must be a positive whole number of inducing environments, got {n!r}.")
        state, structures, labels = self._labelled(structures, keys)
        plain = grown(on_device(state.features, None), structures, int(n), seed=self.seed, tolerance=self.tolerance)
        precision = getattr(state.features, "precision", "float64")
        features = on_device(plain, device_of(state.features), precision)
        new = fit_state(
            features, structures, labels, state.noise,
            kinds=tuple(kind for kind in state.noise.kinds if labels.present(kind).any()),
            amplitude=state.amplitude, seed=self.seed,
        )  # fmt: skip
        return self._updated(replace(new, reference=state.reference), features)


def refuse_strangers(structures: Sequence[Atoms], training: TrainingSet) -> None:
    """Refuse structures that are none of the training set's.

    Raises
    ------
    ParameterError
        One is not.
    """
    known = {_mark(atoms) for atoms in training.structures}
    for number, atoms in enumerate(structures):
        if _mark(atoms) not in known:
            raise ParameterError(
                f"{place(atoms, number)} cannot be removed: it is none of the structures that the model was fitted to."
            )


def _mark(atoms: Atoms) -> tuple[bytes, bytes, bytes]:
    return atoms.numbers.tobytes(), atoms.positions.tobytes(), np.asarray(atoms.cell.array).tobytes()


def removed_state(state: Fitted, structures: list[Atoms], labels: Labels) -> Fitted:
    """Return the state without these labelled structures.

    Raises
    ------
    LabelError
        There are more labels than the state has seen.
    ParameterError
        Digits would be lost.
    """
    kinds, features = state.noise.kinds, state.features
    sink = RowSink(len(state.posterior.target) + 1)
    n_labels = dict(state.n_labels)
    for start, stop in chunks(structures):
        part = labels.take(list(range(start, stop)))
        rows = labelled_rows(features, structures[start:stop], part, kinds=kinds, baseline=state.baseline)
        for kind, block in rows.items():
            n_labels[kind] = n_labels.get(kind, 0) - len(block)
            white = whiten_columns(features, block)
            sink.append(scale_rows(white, features.n_weights, state.noise.sigma(kind), state.amplitude))
    if sink.n_rows == 0 or min(n_labels.values()) < 0:
        raise LabelError(
            "remove needs structures with the labels that were fitted; "
            + ("found none." if sink.n_rows == 0 else "these have more labels than the model has seen.")
        )
    try:
        posterior = state.posterior.without(sink.compact())
        seen = None if state.seen is None else state.seen.without_structures(features, structures)
    except (np.linalg.LinAlgError, ParameterError) as error:
        raise ParameterError(f"these structures cannot be removed: {FEWER.format(error)}") from None
    energies = e0_rows(labels, composition_of(structures, features.species))
    factor = _fewer_energies(state.e0_factor, energies, state.baseline)
    return replace(state, posterior=posterior, seen=seen, n_labels=n_labels).with_e0(factor)


def _fewer_energies(
    factor: Float[np.ndarray, "rank n"], rows: Float[np.ndarray, "energies n"], baseline: Float[np.ndarray, " species"]
) -> Float[np.ndarray, "n n"]:
    """Return F with FᵀF = factorᵀ factor - rowsᵀ rows, what is below round-off left out.

    Energies are taken relative to the baseline meanwhile: all-electron ones of 1e5 eV per atom, once squared, would
    leave no digits for the species' shares.
    """
    relative = np.eye(factor.shape[1])
    relative[:-1, -1] = -baseline
    kept, gone = factor @ relative, rows @ relative
    scale = np.linalg.norm(kept, axis=0)
    scale[scale == 0.0] = 1.0
    eigenvalues, vectors = np.linalg.eigh((kept.T @ kept - gone.T @ gone) / np.outer(scale, scale))
    root = np.sqrt(np.where(eigenvalues > ROUND_OFF, eigenvalues, 0.0))[:, None] * vectors.T * scale
    root[:, -1] += root[:, :-1] @ baseline
    result: np.ndarray = root
    return result


def grown(features: FeatureMap, structures: Sequence[Atoms], n: int, *, seed: int, tolerance: float) -> FeatureMap:
    """Return the feature map with up to n more inducing environments.

    Raises
    ------
    ParameterError
        No term has inducing environments.
    """
    if isinstance(features, KernelMap):
        z = more_inducing(features.descriptor, structures, features.inducing, n, seed=seed)
        return KernelMap.from_inducing(features.descriptor, features.kernel, z, tolerance)
    if isinstance(features, SumMap):
        kernels = [t for t, term in enumerate(features.terms) if isinstance(term, KernelMap)]
        if kernels:
            shares = {t: n // len(kernels) + (k < n % len(kernels)) for k, t in enumerate(kernels)}
            terms = [
                grown(term, structures, shares[t], seed=seed, tolerance=tolerance) if shares.get(t) else term
                for t, term in enumerate(features.terms)
            ]
            return replace(features, terms=tuple(terms))
    raise ParameterError("this model has no term with inducing environments, so none can be added.")
