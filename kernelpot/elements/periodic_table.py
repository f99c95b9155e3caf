"""Properties of the elements that tell how alike they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from kernelpot.errors import ParameterError

NOBLE = (2, 10, 18, 36, 54, 86, 118)
PROPERTIES = (
    "atomic number",
    "period",
    "group",
    "valence s electrons",
    "valence p electrons",
    "valence d electrons",
    "valence f electrons",
    "covalent radius",
    "van der Waals radius",
)
HEAVIEST = 103
"""Last element of the table; the properties are standardised over 1 … HEAVIEST."""

# Order of filling by n + l, then n (Madelung's rule): (n, l) of each subshell.
_FILLING = sorted(((n, l) for n in range(1, 8) for l in range(min(n, 4))), key=lambda s: (sum(s), s[0]))  # noqa: E741


def period(number: int) -> int:
    """Return the period (row of the periodic table) of an element."""
    return 1 + sum(number > last for last in NOBLE)


def valence(number: int) -> tuple[int, int, int, int]:
    """Return the valence s, p, d and f electrons, filled by Madelung's rule.

    They are those beyond the last noble gas, without a full d shell below p electrons or a full f shell below d or p
    electrons. The rule's exceptions (Cu, Ag, Pd, …) are not made: this describes places in the table.
    """
    core = max((last for last in NOBLE if last < number), default=0)
    found = [0, 0, 0, 0]
    left, placed = number, 0
    for _, l in _FILLING:  # noqa: E741
        electrons = min(left, 2 * (2 * l + 1))
        if placed >= core:
            found[l] += electrons
        placed += electrons
        left -= electrons
        if left == 0:
            break
    s, p, d, f = found
    return s, p, 0 if p else d, 0 if p or d else f


def group(number: int) -> int:
    """Return the group (column of the periodic table), 3 for all lanthanides and actinides; 18 for helium."""
    if number == NOBLE[0]:
        return 18
    s, p, d, f = valence(number)
    if p:
        return 12 + p
    return 3 if f else s + d


def properties(species: Sequence[int]) -> Float[np.ndarray, "species p"]:
    """Return the properties of elements, each standardised over the elements that have it.

    `PROPERTIES` names them: covalent radii of Cordero et al., Dalton Trans. 2832 (2008), van der Waals radii of
    Alvarez, Dalton Trans. 42, 8617 (2013), both as ASE has them. What is unknown for one of the species is left out.

    Raises
    ------
    ParameterError
        An element is heavier than the table reaches.
    """
    from ase.data import covalent_radii, missing
    from ase.data.vdw_alvarez import vdw_radii

    heavy = [symbol_of(z) for z in species if z > HEAVIEST]
    if heavy:
        raise ParameterError(
            f"elemental properties reach to {symbol_of(HEAVIEST)}, got {', '.join(heavy)}; give a table of your own."
        )
    numbers = list(range(1, HEAVIEST + 1))
    shells = np.array([valence(z) for z in numbers])
    covalent = covalent_radii[numbers].copy()
    covalent[covalent == missing] = np.nan
    radii = np.full(len(numbers), np.nan)
    known = min(len(vdw_radii), HEAVIEST + 1)
    radii[: known - 1] = vdw_radii[1:known]
    table = np.column_stack(
        [numbers, [period(z) for z in numbers], [group(z) for z in numbers], shells, covalent, radii]
    )
    table = (table - np.nanmean(table, axis=0)) / np.nanstd(table, axis=0)
    rows = table[np.asarray(species) - 1]
    return rows[:, np.isfinite(rows).all(axis=0)]


def symbol_of(number: int) -> str:
    """Return an element's symbol."""
    from ase.data import chemical_symbols

    return str(chemical_symbols[number])


def symbols_to_numbers(symbols: Sequence[str]) -> list[int]:
    """Return the atomic numbers of chemical symbols.

    Raises
    ------
    ParameterError
        One is no element's.
    """
    from ase.data import atomic_numbers

    strange = [symbol for symbol in symbols if atomic_numbers.get(symbol, 0) < 1]
    if strange:
        raise ParameterError(f"{', '.join(map(repr, strange))} is no chemical symbol; write elements as 'Ag'.")
    return [int(atomic_numbers[symbol]) for symbol in symbols]
