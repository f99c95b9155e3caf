"""Elemental modes: tabulated properties of the elements compressed to a few numbers each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float

from kernelpot.elements.encoders import Autoencoder, Encoder, Principal
from kernelpot.elements.table import COLUMNS, LAST, element_table, row_of
from kernelpot.errors import ParameterError

METHODS = ("pca", "autoencoder")
FLOOR = 0.1
"""Least entry of a column of U before it is scaled to length 1; the greatest is 1."""
LEAST = 0.5
"""Least weight of an element where there is one mode alone; the greatest is 1."""


@dataclass(frozen=True)
class ElementalModes:
    """A few numbers for each element, H to Cm, compressed from its tabulated properties.

    Properties are standardised over a fixed reference set of elements and encoded to n modes, each then mapped to
    [0, 1] over the table. Which elements a data set holds does not enter: asking for one more changes no other's modes.

    As element channels (``SOAP(channels=ElementalModes(4))``) the modes are the columns of U, see `weights`. As numbers
    of elements they describe compositions (`CompositionFeatures`).

    Parameters
    ----------
    n
        Number of modes, at most the number of properties, and fewer than the reference elements.
    method
        "pca": principal components, linear. "autoencoder": a small network (Herr et al. (2019)), which keeps more of
        the properties in as many modes, and depends on its seed.
    elements
        Chemical symbols of the reference set; None: the whole table. The others are encoded as well.
    properties
        Names of properties (`kernelpot.elements.table.COLUMNS`); None: all.
    seed
        Of the autoencoder's first weights.

    Raises
    ------
    ParameterError
        A parameter breaks its rule.
    """

    n: int = 4
    method: str = "pca"
    elements: tuple[str, ...] | None = None
    properties: tuple[str, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ParameterError(f'`method` of elemental modes must be "pca" or "autoencoder", got {self.method!r}.')
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or not 0 <= self.seed < 2**32:
            raise ParameterError(f"`seed` must be a whole number of 32 bits, 0 or more, got {self.seed!r}.")
        for name in ("elements", "properties"):
            given = getattr(self, name)
            if given is None:
                continue
            if isinstance(given, str) or not all(isinstance(item, str) for item in _listed(name, given)):
                raise ParameterError(f"`{name}` must be a list of names or None, got {given!r}.")
            object.__setattr__(self, name, tuple(given))
        for name in self.properties or ():
            if name not in COLUMNS:
                raise ParameterError(f"`properties` must be different ones of {', '.join(COLUMNS)}, got {name!r}.")
        rows = [row_of(symbol) for symbol in self.elements or ()]
        most = len(COLUMNS) if self.properties is None else len(self.properties)
        most = min(most, (LAST if self.elements is None else len(rows)) - 1)
        if len(set(rows)) < len(rows) or len(set(self.properties or ())) < len(self.properties or ()):
            raise ParameterError("`elements` and `properties` of elemental modes must not name anything twice.")
        if isinstance(self.n, bool) or not isinstance(self.n, int | np.integer) or not 1 <= self.n <= most:
            raise ParameterError(
                f"`n`, the number of elemental modes, must be a whole number from 1 to {most} with these properties "
                f"and reference elements, got {self.n!r}; 2 to 6 is usual."
            )

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(COLUMNS) if self.properties is None else self.properties

    @cached_property
    def _reference(self) -> list[int]:
        return list(range(LAST)) if self.elements is None else sorted(row_of(symbol) for symbol in self.elements)

    @cached_property
    def _standard(self) -> Float[np.ndarray, "elements p"]:
        """Properties of all elements, standardised over the reference set; one that is the same there is zero."""
        values = element_table().only(self._names)
        reference = values[self._reference]
        spread = reference.std(axis=0)
        return np.where(spread > 0.0, (values - reference.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0), 0.0)

    @cached_property
    def encoder(self) -> Encoder:
        """What the reference set was compressed with."""
        return _fitted(self)

    @cached_property
    def vectors(self) -> Float[np.ndarray, "elements n"]:
        """Modes of every element of the table, H first, each from 0 to 1."""
        codes = self.encoder.encode(self._standard)
        low, high = codes.min(axis=0), codes.max(axis=0)
        return (codes - low) / np.where(high > low, high - low, 1.0)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Chemical symbols of `vectors`."""
        return element_table().symbols

    def vector(self, symbol: str) -> Float[np.ndarray, " n"]:
        """Return the modes of one element.

        Raises
        ------
        ParameterError
            It is no chemical symbol, or heavier than Cm.
        """
        return self.vectors[row_of(symbol)].copy()

    def table(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Return the modes of every element by its symbol."""
        return {symbol: vector.copy() for symbol, vector in zip(self.symbols, self.vectors, strict=True)}

    def weights(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Return every element's column of U, for element channels.

        Modes are raised to [0.1, 1], so that no element is invisible, and columns scaled to length 1, so that an atom
        of any element weighs the same: the kernel then sees the angle between two elements. One mode alone has no
        angle; it gives weights from ½ to 1.
        """
        if self.n == 1:
            columns = LEAST + (1.0 - LEAST) * self.vectors
        else:
            columns = FLOOR + (1.0 - FLOOR) * self.vectors
            columns = columns / np.linalg.norm(columns, axis=1, keepdims=True)
        return {symbol: column.copy() for symbol, column in zip(self.symbols, columns, strict=True)}

    @property
    def reconstruction(self) -> dict[str, float]:
        """Root mean square error of every property as the modes have it, in standard deviations over the reference."""
        x = self._standard[self._reference]
        error = np.sqrt(((self.encoder.decode(self.encoder.encode(x)) - x) ** 2).mean(axis=0))
        return dict(zip(self._names, error.tolist(), strict=True))

    @property
    def explained(self) -> float:
        """Share of the variance of the standardised properties of the reference set that the modes keep."""
        x = self._standard[self._reference]
        left = ((self.encoder.decode(self.encoder.encode(x)) - x) ** 2).sum()
        return float(1.0 - left / (x**2).sum())


@lru_cache(maxsize=64)
def _fitted(modes: ElementalModes) -> Encoder:
    """Fit an encoder once for all equal modes."""
    reference = modes._standard[modes._reference]
    if modes.method == "pca":
        return Principal.fit(reference, int(modes.n))
    return Autoencoder.fit(reference, int(modes.n), int(modes.seed))


def _listed(name: str, given: Sequence[str]) -> list[str]:
    try:
        return list(given)
    except TypeError:
        raise ParameterError(f"`{name}` must be a list of names or None, got {given!r}.") from None
