"""Tabulated properties of the elements, complete by a stated rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Float

from kernelpot.elements.periodic_table import group, period, symbol_of, symbols_to_numbers, valence
from kernelpot.errors import ParameterError

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

    Attributes
    ----------
    names
        Properties, in the order of the columns; `COLUMNS` has their units.
    measured
        As tabulated, NaN where a value is missing.
    """

    names: tuple[str, ...]
    measured: Float[np.ndarray, "elements p"]

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
        """Return the columns of some properties.

        Raises
        ------
        ParameterError
            There is no property of a name, or none is asked for.
        """
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
    """Return an element's row in the table.

    Raises
    ------
    ParameterError
        It is no chemical symbol, or the table does not reach so far.
    """
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
