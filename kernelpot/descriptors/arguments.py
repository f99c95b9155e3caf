"""Checks that descriptors share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from kernelpot.errors import ParameterError, SpeciesError


def positive(name: str, value: float, usual: str) -> None:
    """Refuse a length or energy that is not positive and finite.

    Raises
    ------
    ParameterError
        It is not a number, or not positive, or not finite.
    """
    real = not isinstance(value, bool) and isinstance(value, int | float | np.number)
    if not real or not np.isfinite(value) or value <= 0:
        raise ParameterError(f"`{name}` must be positive and in {usual}, got {value!r}.")


def species_places(
    species: tuple[int, ...] | None, numbers: Int[np.ndarray, " atoms"], name: str
) -> Int[np.ndarray, " atoms"]:
    """Return each atom's place among a descriptor's species.

    Raises
    ------
    ParameterError
        The descriptor has no species yet.
    SpeciesError
        An atomic number is not among them.
    """
    if species is None:
        raise ParameterError(f"this {name} has no `species` yet; pass species=(14,) or call with_species first.")
    known = np.asarray(species)
    place = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    strange = known[place] != numbers
    if strange.any():
        from ase.data import chemical_symbols

        names = ", ".join(chemical_symbols[z] for z in sorted(set(numbers[strange].tolist())))
        usable = ", ".join(chemical_symbols[z] for z in species)
        raise SpeciesError(
            f"element {names} was never seen by this model (it knows {usable}); fit with structures that contain it."
        )
    return place.astype(np.int64)
