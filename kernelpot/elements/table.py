"""Tabulated properties of the elements, complete by a stated rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Float

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
    """Return the atomic numbers of chemical symbols."""
    from ase.data import atomic_numbers

    strange = [symbol for symbol in symbols if atomic_numbers.get(symbol, 0) < 1]
    if strange:
        raise ParameterError(f"{', '.join(map(repr, strange))} is no chemical symbol; write elements as 'Ag'.")
    return [int(atomic_numbers[symbol]) for symbol in symbols]


LAST = 96
"""Heaviest element of the table, Cm; beyond it radii and electronegativities are hardly known."""

COLUMNS: dict[str, str] = {
    "period": "",
    "group": "",
    "s electrons": "",
    "p electrons": "",
    "d electrons": "",
    "f electrons": "",
    "covalent radius": "Å",
    "atomic radius": "Å",
    "van der Waals radius": "Å",
    "Pauling electronegativity": "",
    "Allen electronegativity": "eV",
    "ionisation energy": "eV",
    "electron affinity": "eV",
    "polarizability": "a.u.",
    "atomic volume": "cm³/mol",
}
"""Properties in the order of the table, with their units."""

UNBOUND = (2, 4, 7, 10, 12, 18, 25, 30, 36, 48, 54, 70, 80, 86)
"""Elements without a stable negative ion (Andersen, Haugen and Hotop, J. Phys. Chem. Ref. Data 28, 1511 (1999))."""

GAS = 0.02
"""Density, g/cm³, below which an element is a gas, whose volume is that of its pressure rather than of its atoms."""

RIDGE = 1.0
"""Penalty of the regression that fills gaps, in the units of one element."""


@dataclass(frozen=True, eq=False)
class ElementTable:
    """Properties of the elements H to Cm, one row each.

    Gaps are filled by ridge regression (Hoerl and Kennard, Technometrics 12, 55 (1970)) on the columns that are known
    of every element, each standardised, fitted to the elements that have the value; what it says is kept within the
    range of the measured values.
    """

    names: tuple[str, ...]  # Properties, in the order of the columns; `COLUMNS` has their units
    measured: Float[np.ndarray, "elements p"]  # As tabulated, NaN where a value is missing

    @cached_property
    def values(self) -> Float[np.ndarray, "elements p"]:
        """Properties with the gaps filled."""
        complete = np.isfinite(self.measured).all(axis=0)
        known = self.measured[:, complete]
        known = (known - known.mean(axis=0)) / known.std(axis=0)
        result = self.measured.copy()
        for column in np.flatnonzero(~complete):
            have = np.isfinite(self.measured[:, column])
            guess = ridge(known[have], self.measured[have, column], known[~have])
            result[~have, column] = np.clip(guess, result[have, column].min(), result[have, column].max())
        return result

    @property
    def filled(self) -> Bool[np.ndarray, "elements p"]:
        """Whether a value was filled in."""
        return ~np.isfinite(self.measured)

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Chemical symbols of the rows."""
        return tuple(symbol_of(z) for z in range(1, len(self.measured) + 1))

    def filled_in(self) -> dict[str, tuple[str, ...]]:
        """Return the elements whose value was filled in, for each property that has gaps."""
        gaps = {
            name: tuple(s for s, gap in zip(self.symbols, self.filled[:, k], strict=True) if gap)
            for k, name in enumerate(self.names)
        }
        return {name: elements for name, elements in gaps.items() if elements}

    def only(self, names: Sequence[str]) -> Float[np.ndarray, "elements p"]:
        """Return the columns of some properties."""
        asked = [names] if isinstance(names, str) else list(names)
        strange = [name for name in asked if name not in self.names]
        if strange or not asked or len(set(asked)) < len(asked):
            raise ParameterError(
                f"`properties` must be different ones of {', '.join(self.names)}, got {names!r}; None takes all."
            )
        return self.values[:, [self.names.index(name) for name in asked]]


@lru_cache(maxsize=1)
def element_table() -> ElementTable:
    """Return the table, read from mendeleev once.

    Covalent radii of Cordero et al. (2008), atomic radii of Rahm, Hoffmann and Ashcroft (2016), van der Waals radii of
    Alvarez (2013), polarizabilities of Schwerdtfeger and Nagle (2019), the rest as mendeleev has it. Period, group and
    valence electrons follow Madelung's rule; lanthanides and actinides are in group 3. An element without a stable
    negative ion (`UNBOUND`) has affinity 0. The volume of gases counts as missing.
    """
    # Here, as it takes seconds to load.
    from mendeleev.fetch import fetch_table

    numbers = list(range(1, LAST + 1))
    table = fetch_table("elements").set_index("atomic_number").loc[numbers]
    ions = fetch_table("ionizationenergies")
    first = ions[ions["ion_charge"] == 0].set_index("atomic_number")["ionization_energy"].loc[numbers]
    density = table["density"].to_numpy(dtype=np.float64)
    affinity = table["electron_affinity"].to_numpy(dtype=np.float64, copy=True)
    affinity[np.array(UNBOUND) - 1] = 0.0
    columns = {
        "period": np.array([period(z) for z in numbers]),
        "group": np.array([group(z) for z in numbers]),
        **{f"{name} electrons": np.array([valence(z)[k] for z in numbers]) for k, name in enumerate("spdf")},
        "covalent radius": table["covalent_radius_cordero"].to_numpy() / 100.0,
        "atomic radius": table["atomic_radius_rahm"].to_numpy() / 100.0,
        "van der Waals radius": table["vdw_radius_alvarez"].to_numpy() / 100.0,
        "Pauling electronegativity": table["en_pauling"].to_numpy(),
        "Allen electronegativity": table["en_allen"].to_numpy(),
        "ionisation energy": first.to_numpy(),
        "electron affinity": affinity,
        "polarizability": table["dipole_polarizability"].to_numpy(),
        "atomic volume": np.where(density > GAS, table["atomic_weight"].to_numpy() / density, np.nan),
    }
    return ElementTable(tuple(COLUMNS), np.column_stack([columns[name] for name in COLUMNS]).astype(np.float64))


def row_of(symbol: str) -> int:
    """Return an element's row in the table."""
    number = symbols_to_numbers([symbol])[0]
    if number > LAST:
        raise ParameterError(
            f"elemental properties reach to {symbol_of(LAST)}, got {symbol}; give a table of your own."
        )
    return number - 1


def ridge(
    x: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"], at: Float[np.ndarray, "m p"], penalty: float = RIDGE
) -> Float[np.ndarray, " m"]:
    """Predict y at new rows by ridge regression with a free constant."""
    centre, mean = x.mean(axis=0), y.mean()
    part = x - centre
    weights = np.linalg.solve(part.T @ part + penalty * np.eye(x.shape[1]), part.T @ (y - mean))
    result: np.ndarray = mean + (at - centre) @ weights
    return result
