"""Element channels: densities of several elements mixed into a few by a matrix U, before the power spectrum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float

from kernelpot.elements.modes import ElementalModes
from kernelpot.elements.table import HEAVIEST, properties, symbol_of, symbols_to_numbers
from kernelpot.errors import ParameterError
from kernelpot.record import Field, OneOf, Positive, Record, Rule, Whole
from kernelpot.rules import whole

Vector = tuple[float, ...]
KINDS = ("auto", "identity", "weighted", "given", "modes", "elemental", "random")
RANK_TOLERANCE = 1e-8
"""Smallest singular value of U, relative to its largest, that still counts as a channel of its own."""
LEAST = 0.5
"""Smallest weight of an element in a single mode; the largest is 1."""
ALIKE = 2.5
"""Distance of two elements' properties, in standard deviations over the table, at which their similarity is e^(-1/2),
where nothing is known; copper and silver are 1.0 apart, carbon and oxygen 1.3, hydrogen and carbon 5.0."""
HYDROGEN = 0.5
"""Weight of hydrogen's density beside that of other elements where nothing is known."""
RANK = 1e-6
"""Smallest eigenvalue of a similarity of elements, relative to its largest, that gets a channel."""


class ChannelTable(Rule):
    """(atomic number, vector) of each element; in files, and as users give it, a table of symbols."""

    def read(self, value: Any, field: Field) -> tuple[tuple[int, Vector], ...]:  # noqa: ARG002
        """Return the rows, sorted by atomic number."""
        return value if isinstance(value, tuple) else _checked_table(value)

    def write(self, value: Any) -> dict[str, list[float]]:
        """Return the vectors by symbol."""
        return {symbol_of(z): list(vector) for z, vector in value}


@dataclass(frozen=True, repr=False)
class ElementChannels(Record):
    """What the densities of the elements are mixed into: c_k = Σ_a U_ka c_a, k = 1 … K channels.

    Made by `auto`, `similar`, `identity`, `weighted`, `given`, `modes`, `elemental` or `random`. The matrix is settled
    once the species are known (`for_species`), then stored with the descriptor's settings: a model file needs neither
    tables nor random numbers.

    Attributes
    ----------
    kind
        "auto", "identity", "weighted", "given", "modes", "elemental" or "random".
    n
        Number K of channels; 0 for one for each species.
    seed
        Of random channels.
    width
        Of the similarity of elements, for modes.
    table
        (atomic number, vector) of each element: its weight, its column of U or its properties.
    species
        Atomic numbers that `matrix` is for, one column each; None until they are known.
    matrix
        U, shape (K, species).
    """

    kind: Annotated[str, OneOf(KINDS)]
    n: Annotated[int, Whole()] = 0
    seed: Annotated[int, Whole()] = 0
    width: Annotated[float, Positive(), "", "1 is usual"] = 1.0
    table: Annotated[tuple[tuple[int, Vector], ...] | None, ChannelTable()] = None
    species: tuple[int, ...] | None = None
    matrix: tuple[Vector, ...] | None = None

    def __repr__(self) -> str:
        """Return the call, or what `SOAP` takes for channels that are to be found."""
        if self.kind == "auto" and self.matrix is None:
            return "'auto'"
        shown = ("kind", "n", "seed", "width", "species")
        return f"ElementChannels({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def check(self) -> None:
        """Refuse a matrix that is not for the species, or that makes one of them invisible."""
        if self.matrix is None:
            return
        u, species = np.array(self.matrix), self.species or ()
        names = ", ".join(symbol_of(z) for z in species)
        if u.shape != (self.n or len(species), len(species)) or not np.isfinite(u).all():
            raise ParameterError(
                f"element channels: the matrix must be finite with {self.n} rows and a column for each of {names}, "
                f"got shape {u.shape}."
            )
        singular = np.linalg.svd(u, compute_uv=False)
        rank = int((singular > RANK_TOLERANCE * singular[0]).sum())
        if rank < len(u):
            raise ParameterError(
                f"the {len(u)} element channels of {names} are linear combinations of {rank}; use {rank}, or a table "
                "that tells the elements apart."
            )
        for z, column in zip(species, u.T, strict=True):
            if np.linalg.norm(column) <= RANK_TOLERANCE * singular[0]:
                raise ParameterError(
                    f"element channels: {symbol_of(z)} has no weight in any channel, so its atoms would be invisible; "
                    "choose other channels or another seed."
                )

    @classmethod
    def auto(cls) -> ElementChannels:
        """Find the channels: the default of `SOAP`, also written ``channels="auto"``.

        `SparseGP.fit` looks for them, and for the coupling of centres, with the left-out errors of small models
        (`kernelpot.potentials.terms.find_coupling`). Where there are no labels to ask (`prepare`, design, property
        models) they are `similar` (width 2.5, hydrogen 0.5). One species has one channel, as without.
        """
        return cls("auto")

    @classmethod
    def similar(
        cls, species: Sequence[int], n: int | None = None, *, width: float = ALIKE, hydrogen: float = HYDROGEN
    ) -> ElementChannels:
        """Leading modes of a similarity of elements on a scale that does not depend on the elements present.

        κ_ab = exp(-d_ab²/2 width²) with d_ab the distance of the elements' tabulated properties, each standardised over
        the whole table: metals of one block are alike, hydrogen is like nothing, and neither are elements beyond the
        table. U holds the n leading eigenvectors of κ = UᵀU, columns of length 1, that of hydrogen times `hydrogen`
        where there are others.

        Parameters
        ----------
        species
            Atomic numbers.
        n
            Number K of channels; None: as many as tell the elements apart.
        width
            Larger: elements are more alike.
        hydrogen
            Weight of hydrogen's density beside those of other elements.

        Raises
        ------
        ParameterError
            `n`, `width` or `hydrogen` is not positive.
        """
        for name, value in (("width", width), ("hydrogen", hydrogen)):
            if not isinstance(value, int | float | np.number) or not 0.0 < value < np.inf:
                raise ParameterError(f"`{name}` must be a positive number, got {value!r}; 2.5 and 0.5 are usual.")
        found = tuple(sorted({int(z) for z in species}))
        kappa = np.eye(len(found))
        tabulated = [k for k, z in enumerate(found) if z <= HEAVIEST]
        if tabulated:
            rows = np.array(properties([found[k] for k in tabulated]))
            square = ((rows[:, None, :] - rows[None, :, :]) ** 2).sum(axis=2)
            kappa[np.ix_(tabulated, tabulated)] = np.exp(-0.5 * square / width**2)
        eigenvalues = np.linalg.eigvalsh(kappa)
        distinct = int((eigenvalues > RANK * eigenvalues[-1]).sum())
        n = distinct if n is None else min(_count(n), distinct)
        u = _leading(kappa, found, n)
        if len(found) > 1:
            u = u * np.where(np.array(found) == 1, hydrogen, 1.0)
        return cls.given({symbol_of(z): column.tolist() for z, column in zip(found, u.T, strict=True)})

    @classmethod
    def identity(cls) -> ElementChannels:
        """One channel for each element, as without `channels`."""
        return cls("identity")

    @classmethod
    def weighted(cls, weights: Mapping[str, float]) -> ElementChannels:
        """One channel for each element, with a weight: U is diagonal.

        Parameters
        ----------
        weights
            Chemical symbol -> weight of its density, above 0; 1 for elements that are not named.

        Raises
        ------
        ParameterError
            A symbol is unknown, or a weight is not a positive number.
        """
        rows = _checked_table(weights)
        for number, vector in rows:
            if len(vector) != 1 or vector[0] <= 0:
                raise ParameterError(
                    f"element channels: the weight of {symbol_of(number)} must be a number above 0, got "
                    f"{weights[symbol_of(number)]!r}."
                )
        return cls("weighted", table=rows)

    @classmethod
    def given(cls, table: Mapping[str, Sequence[float]]) -> ElementChannels:
        """Use the vectors of a table as they stand: the vector of an element is its column of U.

        Parameters
        ----------
        table
            Chemical symbol -> vector of K numbers.

        Raises
        ------
        ParameterError
            A symbol is unknown, a vector is empty, not finite, of another length or all zero.
        """
        rows = _checked_table(table)
        for number, vector in rows:
            if not any(vector):
                raise ParameterError(
                    f"element channels: the vector of {symbol_of(number)} is all zero, so its atoms would be invisible;"
                    " give it another."
                )
        return cls("given", len(rows[0][1]), table=rows)

    @classmethod
    def modes(
        cls, n: int, table: Mapping[str, Sequence[float]] | None = None, *, width: float = 1.0
    ) -> ElementChannels:
        """Leading modes of the similarity of the species present, from elemental properties.

        κ_ab = exp(-d_ab²/2(width · d)²) with d_ab the distance of the elements' properties (each standardised over the
        table) and d its root mean square over the pairs of species present. U holds the n leading eigenvectors of
        κ = UᵀU (Willatt, Musil and Ceriotti, Phys. Chem. Chem. Phys. 20, 29661 (2018)), every element then scaled to
        weight 1. A single mode would see all elements alike: their weights run from ½ to 1 along the second instead,
        heavy elements last.

        Parameters
        ----------
        n
            Number K of channels, at most the number of species.
        table
            Chemical symbol -> vector of properties; None: atomic number, period, group, valence electrons, covalent
            and van der Waals radii.
        width
            Larger: elements are more alike; smaller: modes come closer to one channel for each element.

        Raises
        ------
        ParameterError
            `n` or `width` is not positive, or the table is unusable.
        """
        return cls("modes", _count(n), width=width, table=None if table is None else _checked_table(table))

    @classmethod
    def elemental(cls, modes: ElementalModes) -> ElementChannels:
        """Take the columns of U from elemental modes, `ElementalModes.weights`.

        With more modes than species, U is replaced by the triangular factor R of U = QR, one channel for each species:
        UᵀU = RᵀR, so that the dot products of power spectra stay as they are, and nothing repeats itself.

        Parameters
        ----------
        modes
            ``SOAP(channels=modes)`` does the same.
        """
        columns = {symbol: column.tolist() for symbol, column in modes.weights().items()}
        return cls("elemental", int(modes.n), table=_checked_table(columns))

    @classmethod
    def random(cls, n: int, seed: int = 0) -> ElementChannels:
        """Seeded Gaussian matrix with orthonormalised rows.

        Random mixing of element channels as in Darby et al., Phys. Rev. Lett. 131, 028001 (2023), here once for all
        radial functions; with one channel for each species it is a rotation, which leaves dot products as they are.

        Parameters
        ----------
        n
            Number K of channels, at most the number of species.
        seed
            Of the generator.

        Raises
        ------
        ParameterError
            `n` is not a positive whole number, or `seed` not a whole number from 0 on.
        """
        return cls("random", _count(n), seed=seed)

    @property
    def array(self) -> Float[np.ndarray, "k species"]:
        """U.

        Raises
        ------
        ParameterError
            The species are not known yet.
        """
        if self.matrix is None:
            raise ParameterError("these element channels have no matrix yet; call for_species((29, 79)) first.")
        return np.array(self.matrix)

    def for_species(self, species: tuple[int, ...], n: int | None = None) -> ElementChannels:
        """Return the same channels with the matrix for these atomic numbers; n is how many "auto" may take.

        Raises
        ------
        ParameterError
            There are more channels than species, the channels depend on each other, or the table lacks an element.
        """
        if self.species == species and self.matrix is not None:
            return self
        if self.kind == "auto":
            made = ElementChannels.similar(species, n).for_species(species)
            return replace(made, kind="auto", table=None)
        names = ", ".join(symbol_of(z) for z in species)
        if self.n > len(species) and self.kind != "elemental":
            raise ParameterError(
                f"{self.n} element channels for {len(species)} species ({names}) would repeat each other; "
                f"use at most {len(species)}."
            )
        if self.kind == "given":
            u = np.array(self._rows(species)).T
        elif self.kind == "elemental":
            u = np.array(self._rows(species)).T
            if len(u) > u.shape[1]:
                r = np.linalg.qr(u)[1]
                u = r * np.where(np.diag(r) < 0.0, -1.0, 1.0)[:, None]
            return replace(self, n=len(u), species=species, matrix=u.tolist())
        elif self.kind == "modes":
            u = _modes(self._properties(species), species, self.n, self.width)
        elif self.kind == "random":
            u = np.linalg.qr(np.random.default_rng(self.seed).normal(size=(self.n, len(species))).T)[0].T
        else:
            weights = dict(self.table or ())
            u = np.diag([weights.get(z, (1.0,))[0] for z in species])
        return replace(self, species=species, matrix=u.tolist())

    def _rows(self, species: tuple[int, ...]) -> list[Vector]:
        known = dict(self.table or ())
        absent = [symbol_of(z) for z in species if z not in known]
        if absent:
            raise ParameterError(
                f"the table of element channels has no row for {', '.join(absent)} "
                f"(it has {', '.join(symbol_of(z) for z in known)}); add one."
            )
        return [known[z] for z in species]

    def _properties(self, species: tuple[int, ...]) -> Float[np.ndarray, "species p"]:
        """Rows less the table's mean, over its standard deviation; what is the same for all elements is left out."""
        if self.table is None:
            return np.array(properties(species))
        everything = np.array([vector for _, vector in self.table])
        spread = everything.std(axis=0)
        varies = spread > 0.0
        return (np.array(self._rows(species)) - everything.mean(axis=0))[:, varies] / spread[varies]


@dataclass(frozen=True)
class Channels(Rule):
    """Element channels, or elemental modes to make them of; the identity is None, as the loops do it anyway."""

    def read(self, value: Any, field: Field) -> ElementChannels | None:
        """Return the channels."""
        channels = ElementChannels.elemental(value) if isinstance(value, ElementalModes) else value
        if isinstance(channels, str) and channels == "auto":
            channels = ElementChannels.auto()
        if not isinstance(channels, ElementChannels):
            raise field.refused('be "auto", ElementChannels, ElementalModes or None', value)
        return None if channels.kind == "identity" else channels

    def back(self, stored: Any) -> ElementChannels:
        """Make the channels, with the matrix stored there."""
        return ElementChannels.from_settings(stored)


def _count(n: int) -> int:
    return whole(n, "n", least=1, usual="it is the number of element channels")


def _checked_table(table: Mapping[str, Sequence[float] | float]) -> tuple[tuple[int, Vector], ...]:
    """Sort a table by atomic number, after looking at every row."""
    if not isinstance(table, Mapping) or not table:
        raise ParameterError(
            f"the table of element channels must map symbols to vectors, got {table!r}; {{'Ag': [1, 0]}} is one."
        )
    numbers = symbols_to_numbers(list(table))
    rows = []
    for number, (symbol, values) in zip(numbers, table.items(), strict=True):
        vector = np.atleast_1d(np.asarray(values, dtype=np.float64))
        if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
            raise ParameterError(
                f"the table of element channels needs a vector of finite numbers for {symbol}, got {values!r}."
            )
        rows.append((number, tuple(vector.tolist())))
    lengths = {len(vector) for _, vector in rows}
    if len(lengths) > 1:
        raise ParameterError(
            f"the vectors in the table of element channels must have one length, got {sorted(lengths)}."
        )
    return tuple(sorted(rows))


def _modes(
    rows: Float[np.ndarray, "species p"], species: tuple[int, ...], n: int, width: float
) -> Float[np.ndarray, "k species"]:
    """Leading eigenvectors of the similarity of the rows, with columns of length 1."""
    square = ((rows[:, None, :] - rows[None, :, :]) ** 2).sum(axis=2)
    pairs = square[np.triu_indices(len(rows), 1)]
    # Elements with the same row are the same element; one species alone has no distance.
    scale = pairs.mean() if pairs.any() else 1.0
    return _leading(np.exp(-0.5 * square / (width**2 * scale)), species, n)


def _leading(
    kappa: Float[np.ndarray, "species species"], species: tuple[int, ...], n: int
) -> Float[np.ndarray, "k species"]:
    """Leading eigenvectors of a similarity, with columns of length 1; what they do not see lies between all of them."""
    values, vectors = np.linalg.eigh(kappa)
    modes = (vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0.0))).T
    # The largest entry is positive; rounded, so that of equal ones it is the first on every machine.
    modes = modes * np.sign(np.take_along_axis(modes, np.abs(modes).round(9).argmax(axis=1)[:, None], axis=1))
    if n == 1 and len(species) > 1:
        heavier = np.asarray(species) - np.mean(species)
        contrast = modes[1] * (np.sign((modes[1] @ heavier).round(9)) or 1.0)
        low, high = contrast.min(), contrast.max()
        return LEAST + (1.0 - LEAST) * (contrast[None, :] - low) / (high - low or 1.0)
    length = np.linalg.norm(modes[:n], axis=0)
    found: np.ndarray = modes[:n] / np.where(length > RANK_TOLERANCE, length, 1.0)
    found[:, length <= RANK_TOLERANCE] = np.sqrt(1.0 / n)
    return found
