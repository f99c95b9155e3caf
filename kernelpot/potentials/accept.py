"""What the entries of models accept: structures, elements, folds and masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from jaxtyping import Bool, Int

from kernelpot.data.check import HEAVIEST, place
from kernelpot.data.stream import Stream
from kernelpot.errors import ParameterError, SpeciesError
from kernelpot.rules import reals

if TYPE_CHECKING:
    from ase import Atoms


def structure_list(structures: Sequence[Atoms]) -> list[Atoms]:
    """Return the structures as a list, which must hold at least one; a `Stream` stays what it is."""
    if hasattr(structures, "positions"):
        raise ParameterError("`structures` must be a list of ase.Atoms, got a single one; write [atoms].")
    if isinstance(structures, Stream):
        # Read when it is used; every batch is checked then.
        return cast("list[Atoms]", structures)
    try:
        result = list(structures)
    except TypeError:
        raise ParameterError(f"`structures` must be a list of ase.Atoms, got {structures!r}.") from None
    if not result:
        raise ParameterError(
            "`structures` must hold at least one structure, got none; check the file or the selection."
        )
    for number, atoms in enumerate(result):
        if not hasattr(atoms, "positions") or not hasattr(atoms, "cell"):
            raise ParameterError(
                f"`structures` must be a list of ase.Atoms, item {number} is of type {type(atoms).__name__}; "
                "kernelpot.read makes such a list from a file."
            )
    return result


def require_potential(model: object) -> None:
    """Refuse a model of one property of a structure: an estimator of scikit-learn, such as `KernelRidge` or `GP`."""
    if hasattr(model, "__sklearn_tags__"):
        raise ParameterError(
            f"`model` must be a potential, such as SparseGP or ForceRidge, got a {type(model).__name__}, which knows "
            "one property and no forces; take its own `predict`, `std` and `score`."
        )


def check_species(structures: Sequence[Atoms], known: Sequence[int]) -> None:
    """Refuse elements that a model has never seen, and say where they are."""
    from ase.data import chemical_symbols

    for number, atoms in enumerate(structures):
        strange = sorted({int(z) for z in atoms.numbers} - set(known))
        if strange and strange[0] > 0 and strange[-1] <= HEAVIEST:
            names = ", ".join(chemical_symbols[z] for z in strange)
            usable = ", ".join(chemical_symbols[z] for z in known)
            raise SpeciesError(
                f"{place(atoms, number)}: element {names} was never seen by this model (it knows {usable}); "
                "fit with structures that contain it."
            )


def fold_numbers(folds: Sequence[int] | Sequence[str], n: int) -> Int[np.ndarray, " structures"]:
    """Return the fold of each of n structures, numbered from 0 in order of their names."""
    names, numbers = np.unique(np.asarray(folds), return_inverse=True)
    if np.ndim(folds) != 1 or len(folds) != n:
        raise ParameterError(f"`folds` must name one fold for each of {n} structures, got shape {np.shape(folds)}.")
    if len(names) < 2:
        raise ParameterError(f"`folds` must name at least two different folds, got only {names[0]!r}.")
    result: np.ndarray = numbers.astype(np.int64)
    return result


def element_numbers(elements: Sequence[str], known: Sequence[int]) -> list[int]:
    """Return the atomic numbers of chemical symbols that a model knows."""
    from ase.data import atomic_numbers

    unknown = [str(name) for name in elements if not isinstance(name, str) or atomic_numbers.get(name) not in known]
    if unknown or not elements:
        raise SpeciesError(
            f"no such element in the model: {', '.join(unknown) or 'none was named'}; give symbols such as 'Cu'."
        )
    return [atomic_numbers[name] for name in elements]


def force_masks(
    structures: Sequence[Atoms], masks: str | Sequence[Bool[np.ndarray, " atoms"]] | None
) -> list[Bool[np.ndarray, " atoms"]] | None:
    """Return one array of booleans for each structure: which of its atoms have forces."""
    if masks is None:
        return None
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
