"""A screen that sets broken frames aside, before spread criteria fall in love with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from kernelpot.data.check import place
from kernelpot.data.geometry import GeometryLimits, broken
from kernelpot.data.stream import structure_list
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.design.advice.screen import FACTOR, distant
from kernelpot.features.inducing import mean_vectors, species_of

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class Screening:
    """Which structures of a list are usable, and why the others are not.

    Attributes
    ----------
    kept
        Numbers of the structures that passed, in order.
    aside
        The others, each with the reason; together with `kept` they are the whole list.
    names
        What to call each structure that was set aside.
    """

    kept: Int[np.ndarray, " kept"]
    aside: tuple[tuple[int, str], ...]
    names: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line for each structure that was set aside."""
        total = len(self.kept) + len(self.aside)
        lines = [f"{len(self.aside)} of {total} structures set aside"]
        return "\n".join(
            lines + [f"  {name}: {reason}" for name, (_, reason) in zip(self.names, self.aside, strict=True)]
        )


def screen(
    structures: Sequence[Atoms],
    descriptor: Descriptor | None = None,
    *,
    limits: GeometryLimits | None = None,
    factor: float = FACTOR,
) -> Screening:
    """Set aside broken frames: atoms far too close, atoms torn out, cells blown up, and what resembles nothing else.

    Labels are not looked at, and nothing is dropped silently: every structure is kept or listed with a reason.

    Parameters
    ----------
    structures
        To be screened.
    descriptor
        Also compares mean descriptors: a structure is set aside where its third nearest neighbour among those whose
        geometry is sound is farther than `factor` times the 90th percentile (`kernelpot.design.advice.screen`).
        A rare kind of good structure is set aside by that too: look at what is listed. None leaves this out.
    limits
        What counts as broken geometry (`kernelpot.data.geometry`).
    factor
        See `descriptor`.

    Raises
    ------
    ParameterError
        There is no structure, or limits make no sense.
    """
    structures = structure_list(structures)
    reasons = dict(broken(structures, limits))
    sound = [k for k in range(len(structures)) if k not in reasons]
    if descriptor is not None and sound:
        some = [structures[k] for k in sound]
        known = descriptor if descriptor.species is not None else descriptor.with_species(species_of(some))
        sizes = np.array([len(atoms) for atoms in some])
        reasons |= {sound[k]: reason for k, reason in distant(mean_vectors(known, some), sizes, factor=factor)}
    aside = tuple(sorted(reasons.items()))
    kept = np.array([k for k in range(len(structures)) if k not in reasons], dtype=np.int64)
    return Screening(kept, aside, tuple(place(structures[k], k) for k, _ in aside))
