"""Descriptor vectors as features: a linear model of the local energy, one block of weights per centre species."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.batch import Batch
from kernelpot.data.stream import chunks
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.protocol import Descriptor, Environments
from kernelpot.features.feature_map import FiniteRank, Rows, Single
from kernelpot.features.vectors import DescribedBatch, SpeciesRows, rows_of
from kernelpot.record import NEVER, Named, Record

if TYPE_CHECKING:
    from ase import Atoms

CENTRES = 64
"""Centres whose derivatives are made at a time."""


@dataclass(frozen=True, eq=False)
class LinearMap(FiniteRank, Single, Record):
    """φ(x) = x / s of the centre's species: finite rank is the prior itself, and there is no residual variance."""

    descriptor: Annotated[Descriptor, Named("descriptor")]  # with its species set
    normalise: bool  # take unit vectors
    # s, root mean square length of the vectors of each species' environments
    lengths: Float[np.ndarray, " species"]
    n_features: Annotated[int, NEVER] = 0

    def check(self) -> None:
        """Take the length of vectors from the descriptor where it is not given."""
        if self.n_features == 0:
            descriptor: Any = self.descriptor
            object.__setattr__(self, "n_features", descriptor.n_features)

    def verify(self) -> None:
        """Refuse lengths that are not those of the descriptor's species."""
        if isinstance(self.descriptor, TwoBody):
            raise ValueError("pair energies have a feature map of their own")
        if len(self.lengths) != len(self.species) or not (self.lengths > 0.0).all():
            raise ValueError("the lengths of vectors must be positive, one for each species")

    @classmethod
    def from_structures(cls, descriptor: Descriptor, structures: Sequence[Atoms], *, normalise: bool) -> LinearMap:
        """Measure the vectors' lengths on structures."""
        species = descriptor.species or ()
        squares, number = np.zeros(len(species)), np.zeros(len(species))
        width = 0
        for start, stop in chunks(structures):
            batch = Batch.from_structures(structures[start:stop], descriptor.cutoff, start=start)
            vectors = descriptor.environments(batch).vectors
            place, width = np.searchsorted(species, batch.numbers), vectors.shape[1]
            squares += np.bincount(place, np.einsum("if,if->i", vectors, vectors), len(species))
            number += np.bincount(place, minlength=len(species))
        lengths = np.ones(len(species)) if normalise else np.sqrt(squares / np.maximum(number, 1.0))
        return cls(descriptor, normalise, np.where(lengths > 0.0, lengths, 1.0), width)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, in the order of the blocks."""
        return self.descriptor.species or ()

    @property
    def cutoff(self) -> float:
        """Reach of the descriptor, Å."""
        return self.descriptor.cutoff

    @property
    def n_columns(self) -> int:
        """Components of the vectors of all species."""
        return len(self.species) * self.n_features

    @property
    def n_inducing(self) -> int:
        """A linear model needs none."""
        return 0

    @property
    def n_weights(self) -> int:
        """One weight for each component."""
        return self.n_columns

    def describe(self, batch: Batch) -> DescribedBatch:
        """Describe the environments of a batch."""
        return self.describe_again(batch, self.descriptor.environments(batch))

    def describe_again(self, batch: Batch, environments: Environments) -> DescribedBatch:
        """Take environments that another map of the same descriptor has described."""
        return DescribedBatch.of(batch, environments, self.species, normalise=self.normalise)

    def block(self, a: int) -> slice:
        """Columns of a species."""
        return slice(a * self.n_features, (a + 1) * self.n_features)

    def rows(self, described: DescribedBatch, kinds: Collection[str]) -> Rows:
        """Return the rows of a batch: vectors and their derivatives, summed."""
        parts = [SpeciesRows(*part, 1.0, None) for part in self.local_values(described)]
        return rows_of(described, kinds, parts, CENTRES)

    @property
    def _scale(self) -> Float[np.ndarray, " m"]:
        return np.repeat(1.0 / self.lengths, self.n_features)

    def whiten(self, rows: Float[np.ndarray, "rows m"]) -> Float[np.ndarray, "rows d"]:
        """Divide every species' block by its length."""
        return rows * self._scale

    def unwhiten(self, weights: Float[np.ndarray, "d ..."]) -> Float[np.ndarray, "m ..."]:
        """Divide every species' block by its length."""
        result: np.ndarray = (weights.T * self._scale).T
        return result

    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool = True) -> LinearForm:  # noqa: ARG002
        """Return the energy with these weights."""
        return LinearForm(weights.reshape(len(self.species), self.n_features))

    def local_values(
        self, described: DescribedBatch
    ) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[np.ndarray, "a columns"]]]:
        """Yield the atoms of each species, its columns, and their vectors."""
        for a in range(len(self.species)):
            atoms = np.flatnonzero(described.species == a)
            yield atoms, self.block(a), described.x[atoms]

    def local_prior(self, described: DescribedBatch) -> Float[np.ndarray, " atoms"]:
        """Squared length of every atom's features."""
        return np.einsum("if,if->i", described.x, described.x) / self.lengths[described.species] ** 2

    def weights_of(self, number: int) -> Bool[np.ndarray, " d"]:
        """Tell which features belong to environments centred on an element."""
        return np.repeat(np.asarray(self.species) == number, self.n_features)

    def shares(self) -> str:
        """Say how many components there are."""
        return f"linear in {self.n_features} components of {len(self.species)} centre species"


@dataclass(frozen=True, eq=False)
class LinearForm:
    """E_i = w_a·x_i, a the species of atom i; in arrays of NumPy or in tensors."""

    weights: Float[Any, "species f"]

    @property
    def paths(self) -> tuple[str, ...]:
        """One product for each species."""
        return ("linear",) * len(self.weights)

    def of_species(self, a: int, x: Float[Any, "a f"]) -> tuple[Any, Any]:
        """Return the energies of environments of one species, eV, with their gradients in the vectors."""
        return x @ self.weights[a], 0.0 * x + self.weights[a]

    def evaluate(self, described: DescribedBatch) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "atoms f"]]:
        """Return every atom's energy, eV, with its gradient in the vector as the map takes it."""
        gradient = self.weights[described.species]
        return np.einsum("if,if->i", gradient, described.x), gradient

    def local_and_pairs(
        self, described: DescribedBatch
    ) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        local, gradient = self.evaluate(described)
        return local, described.pull(gradient)
