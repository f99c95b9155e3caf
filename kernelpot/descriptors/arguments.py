"""Checks that descriptors share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from kernelpot.data.batch import Batch
from kernelpot.data.check import HEAVIEST
from kernelpot.errors import ParameterError, SpeciesError
from kernelpot.record import Field, Rule


@dataclass(frozen=True)
class Species(Rule):
    """Atomic numbers in rising order, each once."""

    def read(self, value: Any, field: Field) -> tuple[int, ...]:
        """Return them sorted, as `species_places` searches in rising order."""
        try:
            given = [] if isinstance(value, str | bytes) else list(value)
        except TypeError:
            given = []
        known = [isinstance(z, int | np.integer) and not isinstance(z, bool) and 1 <= z <= HEAVIEST for z in given]
        if not known or not all(known):
            raise field.refused(f"be atomic numbers from 1 to {HEAVIEST}, such as (14,)", value)
        return tuple(sorted({int(z) for z in given}))

    def back(self, stored: Any) -> Any:
        """Refuse what is not in rising order: arrays of a file stand in the order that is written."""
        if list(stored) != sorted(set(stored)):
            raise ValueError(f"the species must be atomic numbers in rising order, found {stored}")
        return stored


def species_places(
    species: tuple[int, ...] | None, numbers: Int[np.ndarray, " atoms"], name: str
) -> Int[np.ndarray, " atoms"]:
    """Return each atom's place among a descriptor's species."""
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


def check_reach(batch: Batch, cutoff: float, name: str) -> None:
    """Refuse a batch without the pairs that a descriptor's cutoff needs."""
    if batch.cutoff < cutoff:
        raise ParameterError(
            f"the batch lists pairs up to {batch.cutoff} Å but the {name} cutoff is {cutoff} Å; "
            "build the batch with the descriptor's cutoff."
        )


def checked_scaling(scaling: tuple[float, float], cutoff: float) -> tuple[float, float]:
    """Return (r0, m) as numbers within their limits."""
    try:
        r0, m = (float(value) for value in scaling)
    except (TypeError, ValueError):
        raise ParameterError(f"`scaling` must be a pair (r0 in Å, m), got {scaling!r}; (2.0, 4) is one.") from None
    if not cutoff / 1000.0 <= r0 <= 1000.0 * cutoff:
        raise ParameterError(
            f"`scaling`: r0 must lie between cutoff/1000 and 1000 · cutoff (cutoff {cutoff} Å), got {r0}; "
            "a bond length or two is usual."
        )
    # Below 2 the weight has no second derivative at the centre.
    if not 2.0 <= m <= 32.0:
        raise ParameterError(f"`scaling`: m must lie between 2 and 32, got {m}; 2 to 8 is usual.")
    return r0, m
