"""What labels would tell a model: its rows for design, before any label exists.

The functions of a model are methods of `SparseGP`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from kernelpot.data.check import check_species, place
from kernelpot.data.labels import relative, resolve
from kernelpot.data.noise import KINDS, Noise
from kernelpot.data.sources import factors_of, masked_atoms
from kernelpot.data.stream import structure_list
from kernelpot.errors import ParameterError, SpeciesError
from kernelpot.features.information import LinearRows, all_linear_rows, make_information
from kernelpot.features.torch import on_device
from kernelpot.kernels import DotProduct
from kernelpot.potentials.baselines.given import evaluated
from kernelpot.potentials.fitted import M, Model, accepted, changed
from kernelpot.potentials.fitting import more_of
from kernelpot.potentials.prediction import Mean
from kernelpot.record import checked
from kernelpot.rules import real, reals, whole

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.design.information import Information

TRUNCATE = 1e-5
"""Share of the trace of a block's label kind that compression drops; of certificates it costs one or two per cent."""


def widened(model: M, structures: Sequence[Atoms], n: int) -> M:
    """Return a model to plan with: this one's noise, amplitude and features, with inducing environments of a pool too.

    Nothing of what the model was fitted to counts in it: give the labelled structures as ``existing``.

    Parameters
    ----------
    structures
        Such as the pool that is chosen from; labels are not looked at.
    n
        Upper limit of new inducing environments, the farthest from those that are there.

    Raises
    ------
    NotFittedError
        This model was never fitted.
    SpeciesError
        A structure holds an element that the model has never seen.
    ParameterError
        n is not a positive whole number, or no term has inducing environments.
    """
    state, structures = accepted(model, structures)
    n = whole(n, "n", least=1, usual="it is a number of inducing environments")
    features = more_of(on_device(state.features, None), structures, n, seed=model.seed, tolerance=model.tolerance)
    first, *others = getattr(model, "terms")  # noqa: B009
    terms = (first.with_amplitude(state.amplitude), *others)
    return changed(model, features_=features, noise=state.noise, terms=terms)


def information(
    model: Model,
    structures: Sequence[Atoms],
    *,
    labels: str = "planned",
    truncate: float = TRUNCATE,
    keys: Mapping[str, str | None] | None = None,
    noise: Noise | None = None,
    amplitude: float | None = None,
    masks: str | Sequence[Bool[np.ndarray, " atoms"]] | None = None,
) -> Information:
    """Return what labels of these structures would tell about the weights, before any exists.

    Parameters
    ----------
    structures
        Candidates, or structures that are labelled already.
    labels
        "planned" counts every kind that has a noise; "present" only the labels that are there.
    truncate
        Share of each kind's trace that the compression of a block may drop; 0 keeps every row.
    keys
        Names of labels that are present, as in `kernelpot.read`.
    noise, amplitude
        Planned with in place of the model's own, to see how much a choice depends on them.
    masks
        Which atoms have forces: one array of booleans per structure, or the name of one in ``atoms.arrays`` (all
        atoms of a structure that has none). For regions that a calculation holds fixed or does not describe. None: all
        but those of a column `force_mask`.

    Raises
    ------
    ParameterError
        A mask does not have one boolean for each atom.
    NotFittedError
        The inducing environments are not fixed yet: call `prepare(pool)` first.
    """
    if labels not in ("planned", "present"):
        raise ParameterError(f'`labels` must be "planned" or "present", got {labels!r}.')
    if not isinstance(noise, Noise | None):
        raise ParameterError(f"`noise` must be a Noise such as Noise(energy=0.002, forces=0.1), got {noise!r}.")
    truncate = real(truncate, "truncate", most=1.0)
    features, own_noise, own_amplitude = model.plan()
    structures = structure_list(structures)
    check_species(structures, features.species)
    noise = own_noise if noise is None else noise
    if amplitude is None:
        amplitude = own_amplitude
    checked(DotProduct, "amplitude", amplitude)
    present = resolve(structures, keys) if labels == "present" else None
    return make_information(
        features,
        structures,
        noise,
        amplitude,
        present=present,
        truncate=truncate,
        masks=_masks(structures, masks),
        factors=relative([factors_of(atoms, place(atoms, number))[0] for number, atoms in enumerate(structures)]),
    )


def linear_rows(model: Model, structures: Sequence[Atoms], kinds: Sequence[str] = KINDS) -> LinearRows:
    """Return the labels of structures as linear functionals of the weights, in eV, eV/Å and eV/Å³.

    Parameters
    ----------
    structures
        Their labels are not looked at.
    kinds
        Forces and stresses cost some hundred times what energies do; leave out what is not needed.

    Raises
    ------
    NotFittedError
        The inducing environments are not fixed yet.
    SpeciesError
        A structure holds an element that the model has never seen.
    """
    features, _, amplitude = model.plan()
    structures = structure_list(structures)
    check_species(structures, features.species)
    return all_linear_rows(features, structures, amplitude, kinds)


def baseline_share(model: Model, structures: Sequence[Atoms]) -> Mean:
    """Return what the baseline adds to these structures, to go with `linear_rows`; zeros where there is none."""
    baseline = model.baseline if model.fitted_ is None else model.fitted_.baseline
    return evaluated(baseline, structure_list(structures))


def weights_of(model: Model, *elements: str) -> Int[np.ndarray, " some"]:
    """Return the numbers of the weights that belong to some elements, for the criterion "Ds".

    Parameters
    ----------
    elements
        Chemical symbols; the weights are those of environments centred on these, and of their isolated atoms.

    Raises
    ------
    SpeciesError
        The model does not know an element.
    """
    from ase.data import atomic_numbers

    features = model.plan()[0]
    unknown = [
        str(name) for name in elements if not isinstance(name, str) or atomic_numbers.get(name) not in features.species
    ]
    if unknown or not elements:
        raise SpeciesError(
            f"no such element in the model: {', '.join(unknown) or 'none was named'}; give symbols such as 'Cu'."
        )
    numbers = [atomic_numbers[name] for name in elements]
    owned = np.any([features.weights_of(number) for number in numbers], axis=0)
    return np.flatnonzero(np.concatenate([owned, np.isin(features.species, numbers)]))


def _masks(
    structures: Sequence[Atoms], masks: str | Sequence[Bool[np.ndarray, " atoms"]] | None
) -> list[Bool[np.ndarray, " atoms"]] | None:
    """Return one array of booleans for each structure: which of its atoms have forces."""
    if masks is None:
        hidden = [masked_atoms(atoms, place(atoms, number)) for number, atoms in enumerate(structures)]
        return [~mask for mask in hidden] if any(mask.any() for mask in hidden) else None
    if isinstance(masks, str):
        given = [np.asarray(atoms.arrays.get(masks, np.ones(len(atoms), dtype=bool))) for atoms in structures]
        if not any(masks in atoms.arrays for atoms in structures):
            raise ParameterError(f"no structure has an array {masks!r}; name one in `atoms.arrays`, or give the masks.")
    else:
        if not isinstance(masks, Iterable):
            raise ParameterError(f"`masks` must hold an array of booleans for each structure, got {masks!r}.")
        given = [reals(mask, "masks") for mask in masks]
    if len(given) != len(structures):
        raise ParameterError(f"`masks` must hold one mask per structure, {len(structures)}; got {len(given)}.")
    for number, (mask, atoms) in enumerate(zip(given, structures, strict=True)):
        if mask.dtype != np.bool_ or mask.shape != (len(atoms),):
            raise ParameterError(
                f"the mask of structure {number} must hold {len(atoms)} booleans, got {mask.dtype} of {mask.shape}."
            )
    return given
