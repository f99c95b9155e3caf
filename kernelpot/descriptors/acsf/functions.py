"""The functions of an ACSF as the arrays that loops over pairs and triples read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kernelpot.errors import ParameterError
from kernelpot.record import Field, Record, Rule

Row = tuple[float, ...]
Rows = tuple[Row, ...]

CUTOFF_FUNCTIONS = ("polynomial", "cosine")
MOST_FUNCTIONS = 500
"""Of a kind."""
LARGEST = 1e4
"""Of η (Å⁻²), ζ and κ (Å⁻¹)."""
TABLE_ERROR = 1e-12
"""Largest error of tabulated Gaussians, whose values are at most 1."""
FEWEST_NODES, MOST_NODES = 256, 2**14


_RULES = {
    "eta": (0.0, LARGEST, f"lie between 0 and {LARGEST:g} Å⁻²"),
    "Rs": (-LARGEST, LARGEST, f"be a distance in Å, at most {LARGEST:g}"),
    "kappa": (-LARGEST, LARGEST, f"lie between -{LARGEST:g} and {LARGEST:g} Å⁻¹"),
    "zeta": (1.0, LARGEST, "be at least 1, or there is no slope where three atoms lie on a line"),
    "lambda": (-1.0, 1.0, "lie between -1 and 1"),
}


@dataclass(frozen=True)
class FunctionRows(Rule):
    """Parameters of one kind of symmetry functions: rows of finite numbers, each column within its limits."""

    columns: tuple[str, ...]

    def read(self, value: Any, field: Field) -> Rows:
        """Return the rows as tuples."""
        what = self.columns[0] if len(self.columns) == 1 else f"[{', '.join(self.columns)}]"
        try:
            array = np.array(_listed(value), dtype=float)
        except (TypeError, ValueError, OverflowError):
            array = np.array(np.nan)
        if array.size == 0 and array.ndim <= 2:
            return ()
        if len(self.columns) == 1 and array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2 or array.shape[1] != len(self.columns) or not np.isfinite(array).all():
            raise field.refused(f"be a list of {what}, finite numbers", value)
        if len(array) > MOST_FUNCTIONS:
            raise ParameterError(f"`{field.name}` must list at most {MOST_FUNCTIONS} functions, got {len(array)}.")
        for column, values in zip(self.columns, array.T, strict=True):
            least, most, rule = _RULES[column]
            if (values < least).any() or (values > most).any():
                raise ParameterError(f"`{field.name}`: {column} must {rule}, got {values.tolist()}.")
        return tuple(tuple(row) for row in array.tolist())

    def write(self, value: Rows) -> list[Any]:
        """Return the rows as lists, those of a single column as numbers."""
        return [row[0] if len(self.columns) == 1 else list(row) for row in value]


def _listed(rows: Iterable[Any]) -> list[Any]:
    if isinstance(rows, str | bytes):
        raise TypeError("text")
    listed = [list(row) if isinstance(row, Iterable) and not isinstance(row, str | bytes) else row for row in rows]
    flat = [value for row in listed for value in (row if isinstance(row, list) else [row])]
    if any(isinstance(value, bool | str | bytes) for value in flat):
        raise TypeError("no numbers")
    return listed


class Angular(NamedTuple):
    """What loops over triples read of an ACSF; see `SymmetryFunctions`."""

    places: Int[np.ndarray, "2 3 functions"]
    powers: Float[np.ndarray, "2 powers"]
    table: Float[np.ndarray, "intervals etas 6"]
    step: float


class Functions(NamedTuple):
    """What the loops read of an ACSF: `SymmetryFunctions` as arrays, and how a neighbour of element a counts.

    `identity`: functions of each element and of each pair of elements apart; else weights[:, a] in each channel.
    """

    fade: int
    cutoff: float
    etas: Float[np.ndarray, " etas"]
    radial: Float[np.ndarray, "3 radial"]
    angular: Angular
    n_angular: int
    weights: Float[np.ndarray, "channels elements"]
    identity: bool


@dataclass(frozen=True)
class SymmetryFunctions:
    """Radial functions 1, G2, G3 and angular functions G4, G5, as parameters and as arrays.

    With f the cutoff function and c = cos θ_jik (Behler, J. Chem. Phys. 134, 074106 (2011), eqs. 5-9; the factor
    2^(1-ζ) as there, each pair j, k of neighbours once):
    G1 = Σ_j f(r_ij), G2 = Σ_j exp(-η(r_ij - Rs)²) f(r_ij), G3 = Σ_j cos(κ r_ij) f(r_ij),
    G4 = 2^(1-ζ) Σ_jk (1 + λc)^ζ exp(-η(r_ij² + r_ik² + r_jk²)) f(r_ij) f(r_ik) f(r_jk), G5 without r_jk.
    """

    cutoff: float  # Å
    cutoff_function: str  # "cosine": (1 + cos(π r/cutoff))/2; "polynomial": (1 - (r/cutoff)²)³
    g2: Rows  # g2, g3, g4, g5: [η, Rs], [κ], [η, ζ, λ] and [η, ζ, λ]
    g3: Rows
    g4: Rows
    g5: Rows

    @property
    def n_radial(self) -> int:
        """Radial functions of one element or channel."""
        return 1 + len(self.g2) + len(self.g3)

    @property
    def n_angular(self) -> int:
        """Angular functions of one pair of elements or channel."""
        return len(self.g4) + len(self.g5)

    @cached_property
    def radial(self) -> Float[np.ndarray, "3 radial"]:
        """η, Rs and κ of every radial function; exp(-η(r - Rs)²) cos(κr) f(r) is all of them."""
        rows = [(0.0, 0.0, 0.0), *((*row, 0.0) for row in self.g2), *((0.0, 0.0, *row) for row in self.g3)]
        return np.ascontiguousarray(np.array(rows).T)

    @cached_property
    def etas(self) -> Float[np.ndarray, " etas"]:
        """Every η of angular functions once."""
        return np.unique([row[0] for row in self.g4 + self.g5])

    @cached_property
    def powers(self) -> Float[np.ndarray, "2 powers"]:
        """Every (ζ, λ) once."""
        found = sorted({row[1:] for row in self.g4 + self.g5}, key=lambda row: (row[1], row[0]))
        return np.ascontiguousarray(np.array(found).reshape(-1, 2).T)

    @cached_property
    def angular(self) -> Int[np.ndarray, "2 3 functions"]:
        """Of kind G4 and of kind G5: place of the power, place of η, place among the angular functions; -1 ends."""
        powers = list(map(tuple, self.powers.T.tolist()))
        result = np.full((2, 3, max(len(self.g4), len(self.g5)) + 1), -1)
        for kind, (rows, start) in enumerate(((self.g4, 0), (self.g5, len(self.g4)))):
            places = [
                (powers.index(row[1:]), int(np.searchsorted(self.etas, row[0])), start + k)
                for k, row in enumerate(rows)
            ]
            result[kind, :, : len(rows)] = np.array(sorted(places), dtype=np.int64).reshape(-1, 3).T
        return result

    @property
    def table(self) -> tuple[Float[np.ndarray, "intervals etas 6"], float]:
        """exp(-ηs) f(√s) of every η for s = r² up to cutoff²: polynomials in equal intervals of s, with their step."""
        return _tabulated(float(self.cutoff), self.cutoff_function, tuple(self.etas.tolist()) if self.g4 else ())

    def loops(self, weights: Float[np.ndarray, "channels elements"], *, identity: bool) -> Functions:
        """Return what the loops take."""
        angular = Angular(self.angular, self.powers, *self.table)
        fade = CUTOFF_FUNCTIONS.index(self.cutoff_function)
        return Functions(fade, self.cutoff, self.etas, self.radial, angular, self.n_angular, weights, identity)


def cutoff_series(
    cutoff: float, name: str, s: Float[np.ndarray, " points"]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Return the cutoff function of s = r² with its first two derivatives by s.

    Both are smooth functions of s, so that a table in s needs no square roots.
    """
    if name == "polynomial":
        u = 1.0 - s / cutoff**2
        return u**3, -3.0 * u**2 / cutoff**2, 6.0 * u / cutoff**4
    a = (np.pi / cutoff) ** 2
    x = np.sqrt(a * s)
    # cos√x is a power series in x; its derivatives are taken from it where the closed forms lose digits.
    small = x < 0.1
    safe = np.where(small, 1.0, x)
    first = np.where(small, -0.5 + x**2 / 12.0 - x**4 / 240.0 + x**6 / 10080.0, -np.sin(safe) / (2.0 * safe))
    second = np.where(
        small,
        1.0 / 12.0 - x**2 / 120.0 + x**4 / 3360.0 - x**6 / 181440.0,
        (np.sin(safe) - safe * np.cos(safe)) / (4.0 * safe**3),
    )
    return 0.5 * (1.0 + np.cos(x)), 0.5 * a * first, 0.5 * a * a * second


@lru_cache(maxsize=16)
def _tabulated(cutoff: float, name: str, etas: Row) -> tuple[Float[np.ndarray, "intervals etas 6"], float]:
    """Double the nodes until quintic Hermite interpolation (C²) is good to `TABLE_ERROR` halfway between them."""
    if not etas:
        return np.zeros((1, 0, 6)), 1.0
    eta = np.array(etas)

    def functions(s: Float[np.ndarray, " points"]) -> tuple[Float[np.ndarray, "points etas"], ...]:
        f, slope, curvature = (part[:, None] for part in cutoff_series(cutoff, name, s))
        gauss = np.exp(-eta * s[:, None])
        return gauss * f, gauss * (slope - eta * f), gauss * (curvature - 2.0 * eta * slope + eta**2 * f)

    n = FEWEST_NODES
    while True:
        s = np.linspace(0.0, cutoff**2, n + 1)
        h = s[1]
        value, slope, curvature = functions(s)
        value, slope, curvature = value, h * slope, h * h * curvature
        middle = 0.5 * (value[:-1] + value[1:]) + 5.0 / 32.0 * (slope[:-1] - slope[1:])
        middle += (curvature[:-1] + curvature[1:]) / 64.0
        error = np.abs(middle - functions(s[:-1] + 0.5 * h)[0]).max()
        if error < TABLE_ERROR or n >= MOST_NODES:
            return _polynomials(value, slope, curvature), float(h)
        n *= 2


def _polynomials(
    value: Float[np.ndarray, "nodes etas"],
    slope: Float[np.ndarray, "nodes etas"],
    curvature: Float[np.ndarray, "nodes etas"],
) -> Float[np.ndarray, "intervals etas 6"]:
    """Return the coefficients of 1, t … t⁵ between nodes, from values and derivatives by t at both ends."""
    rise, before, after = value[1:] - value[:-1], slope[:-1], slope[1:]
    bend, bent = 0.5 * curvature[:-1], 0.5 * curvature[1:]
    parts = [
        value[:-1],
        before,
        bend,
        10.0 * rise - 6.0 * before - 4.0 * after - 3.0 * bend + bent,
        -15.0 * rise + 8.0 * before + 7.0 * after + 3.0 * bend - 2.0 * bent,
        6.0 * rise - 3.0 * before - 3.0 * after - bend + bent,
    ]
    return np.ascontiguousarray(np.stack(parts, axis=-1))


LEAST = 1e-3
"""Smallest standard deviation that counts, relative to the species' largest."""

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Standard(Record):
    """Components less a shift, times a scale."""

    shift: Table  # shift, scale: One row for each species
    scale: Table

    def check(self) -> None:
        """Refuse tables that are none."""
        if not self.shift or len({len(row) for row in self.shift + self.scale}) != 1:
            raise ParameterError("shifts and scales must be tables of equal rows, at least one.")
        if len(self.shift) != len(self.scale):
            raise ParameterError("shifts and scales must have a row for each species.")
        if not np.isfinite(self.shifts).all() or not np.isfinite(self.scales).all() or not (self.scales > 0.0).all():
            raise ParameterError("shifts must be finite, and scales positive and finite.")

    @classmethod
    def of(cls, values: Float[np.ndarray, "atoms f"], species: Int[np.ndarray, " atoms"], n_species: int) -> Standard:
        """Take means and standard deviations of the atoms of each species; those that are absent stay as they are."""
        size = values.shape[1]
        shift, scale = np.zeros((n_species, size)), np.full((n_species, size), 1.0 / np.sqrt(size))
        for a in range(n_species):
            mine = values[species == a]
            if not len(mine):
                continue
            shift[a] = mine.mean(axis=0)
            spread = np.sqrt(np.mean((mine - shift[a]) ** 2, axis=0))
            # Equal environments have no spread but round-off.
            if spread.max(initial=0.0) > 1e-9 * np.abs(mine).max(initial=1e-300):
                scale[a] /= np.maximum(spread, LEAST * spread.max())
        return cls(*(tuple(map(tuple, table.tolist())) for table in (shift, scale)))

    @property
    def shape(self) -> tuple[int, int]:
        """Species and components."""
        return len(self.shift), len(self.shift[0])

    @cached_property
    def shifts(self) -> Float[np.ndarray, "species f"]:
        """`shift` as an array."""
        return np.array(self.shift)

    @cached_property
    def scales(self) -> Float[np.ndarray, "species f"]:
        """`scale` as an array."""
        return np.array(self.scale)
