"""What a descriptor of atomic environments has to offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.data.check import HEAVIEST
from kernelpot.errors import ParameterError, SpeciesError
from kernelpot.record import Field, Rule


@dataclass(frozen=True, eq=False)
class Displacements:
    """Derivatives of some centres' vectors, dense in the few atoms that move each centre and in nothing else."""

    rows: Float[np.ndarray, "rows 3 f"]  # d vector / d position of one atom, Å⁻¹ times the vector's unit
    centre: Int[np.ndarray, " rows"]  # Row's centre, counted from the first centre asked for
    target: Int[np.ndarray, " rows"]  # Row's moving atom, counted over the batch
    # d vector / d strain, ASE's Voigt order; off-diagonal strain is symmetric, ε_yz = ε_zy = δ/2
    virial: Float[np.ndarray, "centres 6 f"]


class Environments(Protocol):
    """The vectors of a batch, with what it takes to differentiate them."""

    @property
    def vectors(self) -> Float[np.ndarray, "atoms f"]:
        """One vector per atom."""

    def vjp(self, gradient: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "pairs 3"]:
        """Return dE/d(pair vector), given dE/d(vectors)."""

    def displacements(self, start: int, stop: int) -> Displacements:
        """Return the derivatives of the vectors of atoms ``start:stop``."""


class Descriptor(Protocol):
    """A map from environments to vectors; `species` is None until the model has seen structures."""

    @property
    def cutoff(self) -> float:
        """Reach of an environment, Å."""

    @property
    def species(self) -> tuple[int, ...] | None:
        """Atomic numbers it tells apart, sorted."""

    def with_species(self, species: tuple[int, ...]) -> Descriptor:
        """Return the same descriptor for these elements."""

    def environments(self, batch: Batch) -> Environments:
        """Describe every atom of a batch."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values, for model files and reports."""


@dataclass(frozen=True, eq=False)
class ValuesOnly:
    """Vectors that are compared, and never differentiated."""

    vectors: Float[np.ndarray, "atoms f"]  # One for each atom
    why: str  # What to do instead, for whoever asks for derivatives

    def vjp(self, gradient: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "pairs 3"]:  # noqa: ARG002
        """Refuse."""
        raise ParameterError(self.why)

    def displacements(self, start: int, stop: int) -> Displacements:  # noqa: ARG002
        """Refuse."""
        raise ParameterError(self.why)


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


def check_reach(descriptor: Descriptor, batch: Batch) -> None:
    """Refuse a batch without the pairs that a descriptor's cutoff needs."""
    if batch.cutoff < descriptor.cutoff:
        raise ParameterError(
            f"the batch lists pairs up to {batch.cutoff} Å but the {type(descriptor).__name__} cutoff is "
            f"{descriptor.cutoff} Å; build the batch with the descriptor's cutoff."
        )


def places(descriptor: Descriptor, batch: Batch) -> Int[np.ndarray, " atoms"]:
    """Return each atom's place among a descriptor's species, of a batch that reaches its cutoff."""
    check_reach(descriptor, batch)
    return species_places(descriptor.species, batch.numbers, type(descriptor).__name__)


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
