"""Checks of arguments that every entry of a model shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kernelpot.data.check import HEAVIEST, place
from kernelpot.errors import ParameterError, SpeciesError

if TYPE_CHECKING:
    from ase import Atoms


def structure_list(structures: Sequence[Atoms]) -> list[Atoms]:
    """Return the structures as a list.

    Raises
    ------
    ParameterError
        It is a single structure, empty, or holds something else.
    """
    if hasattr(structures, "positions"):
        raise ParameterError("`structures` must be a list of ase.Atoms, got a single one; write [atoms].")
    result = list(structures)
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


def check_species(structures: Sequence[Atoms], known: Sequence[int]) -> None:
    """Refuse elements that a model has never seen, and say where they are.

    Raises
    ------
    SpeciesError
        A structure holds another element.
    """
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
