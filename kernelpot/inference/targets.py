"""Labels in units of their own, less a mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from kernelpot.errors import DataError, ParameterError, SpeciesError
from kernelpot.rules import shown
from kernelpot.structures.composites import structures_of

MEANS = ("zero", "constant", "composition")

FREEDOM = 3.0
"""Prior standard deviation of the mean's coefficients, in units of what the mean leaves of the targets."""


@dataclass(frozen=True, eq=False)
class Trend:
    """Columns of the mean: none, a constant, or the number of atoms of each element."""

    kind: str  # One of `MEANS`
    species: tuple[int, ...] = ()  # Atomic numbers, for "composition"
    sizes: tuple[float, ...] = ()  # What each column is divided by

    @classmethod
    def of(cls, kind: str, items: Sequence[Any], *, extensive: bool | None = None, alike: bool = True) -> Trend:
        """Prepare the columns for training items, alike in size or as they are.

        "auto" is "composition" where items have extensive kernels; with None it is no kind.
        """
        if isinstance(kind, str) and kind == "auto" and extensive is not None:
            kind = "composition" if extensive else "constant"
        if not isinstance(kind, str) or kind not in MEANS:
            raise ParameterError(
                f"`mean` must be one of {', '.join(MEANS)}, got {kind!r}; a regression also takes auto."
            )
        if kind != "composition":
            return cls(kind, (), (1.0,) if kind == "constant" else ())
        encoded = structures_of(items)
        if encoded is None and not all(hasattr(item, "numbers") for item in items):
            if extensive:
                raise DataError(f"items must be structures, ase.Atoms, whose elements count, got {shown(items)}.")
            raise ParameterError(
                '`mean="composition"` counts the elements of structures; with features take "constant".'
            )
        numbers = np.concatenate([item.numbers for item in items]) if encoded is None else encoded.all_numbers
        species = tuple(np.unique(numbers).tolist())
        if not alike:
            return cls(kind, species, (1.0,) * len(species))
        counts = _counts(items, species)
        return cls(kind, species, tuple(np.sqrt(np.mean(np.square(counts), axis=0)).tolist()))

    def columns(self, items: Sequence[Any]) -> Float[np.ndarray, "n q"]:
        """Return the columns for items."""
        if self.kind == "constant":
            return np.ones((len(items), 1))
        if self.kind == "zero":
            return np.zeros((len(items), 0))
        return _counts(items, self.species) / np.array(self.sizes)


@dataclass(frozen=True, eq=False)
class Targets:
    """How targets become numbers of order one: y = columns · coefficients + scale · z."""

    trend: Trend  # Columns of the mean
    # Least-squares estimate; what is left of it belongs to the Gaussian process
    coefficients: Float[np.ndarray, "q T"]
    # Standard deviation of what the mean leaves, for each output; ones without `normalise`
    scale: Float[np.ndarray, " T"]

    @classmethod
    def of(
        cls,
        trend: Trend,
        columns: Float[np.ndarray, "n q"],
        y: Float[np.ndarray, "n T"],
        *,
        normalise: bool,
        weights: Float[np.ndarray, " n"] | None = None,
    ) -> Targets:
        """Estimate the mean by least squares, where elements cannot be told apart the smallest, and the scale."""
        root = 1.0 if weights is None else np.sqrt(weights)[:, None]
        coefficients = np.linalg.lstsq(root * columns, root * y, rcond=1e-10)[0]
        rest = y - columns @ coefficients
        size = np.sqrt(np.mean(np.square(rest), axis=0))
        # What least squares leaves of constant targets is round-off.
        flat = size <= 1e-12 * np.abs(y).max(axis=0)
        scale = np.where(flat, 1.0, size) if normalise else np.ones(y.shape[1])
        return cls(trend, coefficients, scale)

    def standardised(self, columns: Float[np.ndarray, "n q"], y: Float[np.ndarray, "n T"]) -> Float[np.ndarray, "n T"]:
        """Return z."""
        return (y - columns @ self.coefficients) / self.scale

    def restored(
        self, columns: Float[np.ndarray, "n q"], z: Float[np.ndarray, "... n T"]
    ) -> Float[np.ndarray, "... n T"]:
        """Return y."""
        return columns @ self.coefficients + self.scale * z


def _counts(items: Sequence[Any], species: tuple[int, ...]) -> Float[np.ndarray, "n species"]:
    encoded = structures_of(items)
    if encoded is not None:
        owner = np.repeat(np.arange(len(encoded)), encoded.n_atoms)
        for strange in np.flatnonzero(~np.isin(encoded.all_numbers, species))[:1]:
            raise _unknown(int(owner[strange]), int(encoded.all_numbers[strange]))
        return encoded.counts(species)
    result = np.zeros((len(items), len(species)))
    place = {z: k for k, z in enumerate(species)}
    for row, item in enumerate(items):
        if not hasattr(item, "numbers"):
            raise DataError(f"item {row} must be a structure, ase.Atoms, whose elements count, got {shown(item)}.")
        for z, count in zip(*np.unique(item.numbers, return_counts=True), strict=True):
            if int(z) not in place:
                raise _unknown(row, int(z))
            result[row, place[int(z)]] = count
    return result


def _unknown(row: int, z: int) -> SpeciesError:
    return SpeciesError(
        f"structure {row} holds element {z}, which no training structure has; its part of the mean is unknown. Train "
        'with it, or take mean="constant".'
    )
