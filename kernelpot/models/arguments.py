"""Checks of arguments that every entry of a model shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kernelpot.errors import ParameterError

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
