"""What a property model subtracts before a kernel is fitted: nothing, the mean, or a sum over elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from kernelpot.errors import ParameterError, SpeciesError
from kernelpot.structures.composites import structures_of
from kernelpot.structures.encoded import Encoded

KINDS = ("mean", "composition", None)


@dataclass(frozen=True, eq=False)
class Baseline:
    """A sum over elements, a constant, or zero."""

    kind: str | None  # "composition", "mean" or None
    values: Float[np.ndarray, "terms outputs"]  # One for each element and output; of "mean" one for each output
    species: tuple[int, ...] = ()  # Atomic numbers of "composition", in the order of `values`

    @classmethod
    def fitted(
        cls, kind: str | None, encoded: Any, y: Float[np.ndarray, "n outputs"], weights: Float[np.ndarray, " n"]
    ) -> Baseline:
        """Fit to y by weighted least squares; where elements cannot be told apart, the smallest values that do."""
        if kind is not None and not (isinstance(kind, str) and kind in KINDS):
            raise ParameterError(f'`baseline` must be "auto", "mean", "composition" or None, got {kind!r}.')
        if kind is None:
            return cls(None, np.empty((0, y.shape[1])))
        if kind == "mean":
            return cls(kind, (weights @ y / weights.sum())[None])
        structures = _structures(encoded)
        species = tuple(np.unique(structures.all_numbers).tolist())
        root = np.sqrt(weights)[:, None]
        values = np.linalg.lstsq(root * structures.counts(species), root * y, rcond=None)[0]
        return cls(kind, values, species)

    def predict(self, encoded: Any, n: int) -> Float[np.ndarray, "n outputs"]:
        """Return the baseline of n items."""
        if self.kind == "composition":
            structures = _structures(encoded)
            strange = set(np.unique(structures.all_numbers).tolist()) - set(self.species)
            if strange:
                from ase.data import chemical_symbols

                names = ", ".join(chemical_symbols[z] for z in sorted(strange))
                raise SpeciesError(
                    f"element {names} was never seen by this model; fit with structures that contain it."
                )
            return structures.counts(self.species) @ self.values
        if self.kind == "mean":
            return np.repeat(self.values, n, axis=0)
        return np.zeros((n, self.values.shape[1]))


def _structures(encoded: Any) -> Encoded:
    """Return the structures behind what a kernel encoded."""
    structures = structures_of(encoded)
    if structures is None:
        raise ParameterError('`baseline` "composition" needs structures, got rows of features; "mean" takes these.')
    return structures
