"""Functions of one distance: the smooth pair energies that a Gaussian process prior allows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.descriptors.protocol import Species, ValuesOnly, species_places
from kernelpot.descriptors.radial import RadialTable
from kernelpot.errors import ParameterError
from kernelpot.record import Positive, Record

POINTS_PER_LENGTH = 2.0
"""Grid points for each correlation length."""

SMALLEST_EIGENVALUE = 1e-8
"""Share of the largest eigenvalue below which a direction of the grid is dropped."""


@dataclass(frozen=True)
class PairFunctions:
    """φ(r) = f(r) W k(Z, r) with k(r, r') = exp(-(r - r')²/2ℓ²) on a grid Z, W = K_ZZ^(-1/2).

    f(r) = (1 - x)³ (1 + 3x + 6x²), x = r/cutoff, takes a pair energy to zero with two derivatives. A radial basis: the
    width σ that tables ask for is ℓ.
    """

    def values(
        self,
        r: Float[np.ndarray, " points"],
        *,
        cutoff: float,
        n_max: int,
        l_max: int,  # noqa: ARG002
        sigma: float,
    ) -> Float[np.ndarray, "points l n"]:
        """Return φ(r), shape (points, 1, n_max)."""
        grid, white = grid_of(cutoff, sigma)
        x = r / cutoff
        f = (1.0 - x) ** 3 * (1.0 + 3.0 * x + 6.0 * x**2)
        kernel = np.exp(-0.5 * ((r[:, None] - grid) / sigma) ** 2)
        return (f[:, None] * (kernel @ white))[:, None, :n_max]


@lru_cache(maxsize=16)
def grid_of(cutoff: float, length: float) -> tuple[Float[np.ndarray, " z"], Float[np.ndarray, "z n"]]:
    """Return the grid of distances with the whitening of its kernel matrix."""
    grid = np.linspace(0.0, cutoff, int(np.ceil(POINTS_PER_LENGTH * cutoff / length)) + 1)
    eigenvalues, vectors = np.linalg.eigh(np.exp(-0.5 * ((grid[:, None] - grid) / length) ** 2))
    kept = eigenvalues > SMALLEST_EIGENVALUE * eigenvalues[-1]
    return grid, np.ascontiguousarray(vectors[:, kept] / np.sqrt(eigenvalues[kept]))


@dataclass(frozen=True)
class TwoBody(Record):
    """Pair energies: a term whose parts are pairs, cheap and of long reach.

    The prior of the energy of two atoms at distance r is a Gaussian process with covariance f(r) f(r')
    exp(-(r - r')²/2ℓ²), for each pair of elements its own (Bartók and Csányi, Int. J. Quantum Chem. 115, 1051 (2015),
    section 3; squared exponential: Rasmussen and Williams (2006), eq. 4.9).

    Parameters
    ----------
    cutoff
        Å. Energies and their first two derivatives vanish there.
    length
        Correlation length ℓ of a pair energy, Å.
    amplitude
        Prior standard deviation of a pair energy, eV, before it fades; cross-validation sets it where it searches.
    species
        Atomic numbers to tell apart; None: those of the structures the model is given first.

    Raises
    ------
    ParameterError
        A parameter breaks its rule.
    """

    cutoff: Annotated[float, Positive(0.01, 50.0), "Å", "5 to 8 is usual"] = 6.0
    length: Annotated[float, Positive(), "Å", "0.4 to 1 is usual"] = 0.6
    amplitude: Annotated[float, Positive(1e-20, 1e20), "eV", "1.0 is usual"] = 1.0
    species: Annotated[tuple[int, ...] | None, Species()] = None

    def check(self) -> None:
        """Refuse a length that the cutoff does not allow."""
        if not self.cutoff / 100.0 <= self.length <= self.cutoff:
            raise ParameterError(
                f"`length` must lie between cutoff/100 and the cutoff ({self.cutoff} Å), got {self.length}; "
                "0.4 to 1 is usual."
            )

    @property
    def table(self) -> RadialTable:
        """The functions on nodes."""
        n = grid_of(self.cutoff, self.length)[1].shape[1]
        return RadialTable.from_basis(PairFunctions(), cutoff=self.cutoff, n_max=n, l_max=0, sigma=self.length)

    @property
    def n_functions(self) -> int:
        """Functions of one pair of elements."""
        return int(self.table.nodes.shape[2])

    @property
    def n_features(self) -> int:
        """Length of an atom's vector."""
        return 1 + len(self.species or ()) * self.n_functions

    def with_species(self, species: tuple[int, ...]) -> TwoBody:
        """Return the same descriptor for these atomic numbers, sorted."""
        return replace(self, species=tuple(species))

    def channels(self, numbers: Int[np.ndarray, " atoms"]) -> Int[np.ndarray, " atoms"]:
        """Return each atom's place in `species`.

        Raises
        ------
        SpeciesError
            An atomic number is not among them.
        """
        return species_places(self.species, numbers, "TwoBody")

    def environments(self, batch: Batch) -> ValuesOnly:
        """Describe every atom by the sums of its pairs' functions, one block for each neighbour element, after a 1."""
        channel = self.channels(batch.numbers)
        r = np.linalg.norm(batch.vectors, axis=1)
        vectors = np.zeros((batch.n_atoms, self.n_features))
        vectors[:, 0] = 1.0
        inside = r < self.cutoff
        values = PairFunctions().values(
            r[inside], cutoff=self.cutoff, n_max=self.n_functions, l_max=0, sigma=self.length
        )[:, 0]
        for a in range(len(self.species or ())):
            mine = channel[batch.second[inside]] == a
            columns = slice(1 + a * self.n_functions, 1 + (a + 1) * self.n_functions)
            np.add.at(vectors[:, columns], batch.first[inside][mine], values[mine])
        return ValuesOnly(vectors, _ONLY_VALUES)


_ONLY_VALUES = "TwoBody is a term of its own and takes no kernel; give it to SparseGP as one of a list of terms."
