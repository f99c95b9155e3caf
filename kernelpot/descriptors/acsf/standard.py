"""Shift and scale of a descriptor's components, one set for each centre species."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.errors import ParameterError

LEAST = 1e-3
"""Smallest standard deviation that counts, relative to the species' largest."""

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Standard:
    """Components less a shift, times a scale.

    Attributes
    ----------
    shift, scale
        One row for each species.
    """

    shift: Table
    scale: Table

    def __post_init__(self) -> None:
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

    def settings(self) -> dict[str, Any]:
        """Return the tables as JSON values."""
        return {"shift": [list(row) for row in self.shift], "scale": [list(row) for row in self.scale]}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Standard:
        """Make what `settings` describes."""
        shift, scale = (
            tuple(tuple(float(value) for value in row) for row in settings[name]) for name in ("shift", "scale")
        )
        return cls(shift, scale)
