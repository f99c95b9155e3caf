"""Features of an environment: kernel values with inducing environments, whitened so that the prior on weights is I."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Self

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.descriptors.protocol import Descriptor, Environments
from kernelpot.features.normalise import unit
from kernelpot.kernels import Kernel
from kernelpot.record import Named


@dataclass(frozen=True, eq=False)
class Described:
    """A batch whose environments are described and normalised once, for everything that follows."""

    batch: Batch
    environments: Environments
    x: Float[np.ndarray, "atoms f"]
    norm: Float[np.ndarray, " atoms"]
    species: Int[np.ndarray, " atoms"]


@dataclass(frozen=True, eq=False)
class KernelSpace:
    """φ(x) = diag(λ)^(-1/2) Uᵀ k(Z, x), with K_ZZ = U diag(λ) Uᵀ, in one block for each centre species.

    The kernel is taken at amplitude 1; whoever uses the features multiplies by the amplitude.

    Attributes
    ----------
    descriptor
        With its species set.
    kernel
        Of two unit vectors; zero between centres of different species.
    inducing
        Unit vectors of the inducing environments, one array per species.
    whitening
        U diag(λ)^(-1/2) of each species.
    """

    descriptor: Annotated[Descriptor, Named("descriptor")]
    kernel: Annotated[Kernel, Named("kernel")]
    inducing: tuple[Float[np.ndarray, "m f"], ...]
    whitening: tuple[Float[np.ndarray, "m d"], ...]

    @classmethod
    def from_inducing(
        cls,
        descriptor: Descriptor,
        kernel: Kernel,
        inducing: tuple[Float[np.ndarray, "m f"], ...],
        tolerance: float = 1e-10,
    ) -> Self:
        """Diagonalise K_ZZ of each species; eigenvalues below tolerance · λ_max are dropped."""
        whitening = []
        for z in inducing:
            eigenvalues, vectors = np.linalg.eigh(kernel.value(z @ z.T))
            kept = eigenvalues > tolerance * eigenvalues[-1]
            # One memory order, as of arrays from a file: products then agree to the last bit.
            whitening.append(np.ascontiguousarray(vectors[:, kept] / np.sqrt(eigenvalues[kept])))
        return cls(descriptor, kernel, inducing, tuple(whitening))

    @cached_property
    def starts(self) -> Int[np.ndarray, " species_plus_1"]:
        """First column of each species' block, before whitening."""
        return np.concatenate([[0], np.cumsum([len(z) for z in self.inducing])])

    @property
    def n_inducing(self) -> int:
        """Inducing environments of all species, M."""
        return int(self.starts[-1])

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, in the order of the blocks."""
        return self.descriptor.species or ()

    @property
    def n_weights(self) -> int:
        """Whitened features, d, without the E0 columns."""
        return sum(w.shape[1] for w in self.whitening)

    def describe(self, batch: Batch) -> Described:
        """Describe and normalise the environments of a batch.

        Raises
        ------
        SpeciesError
            The batch holds an element without inducing environments.
        """
        return self.describe_again(batch, self.descriptor.environments(batch))

    def describe_again(self, batch: Batch, environments: Environments) -> Described:
        """Normalise environments that another map of the same descriptor has described."""
        x, norm = unit(environments.vectors)
        return Described(batch, environments, x, norm, np.searchsorted(self.species, batch.numbers))

    def dots(self, described: Described) -> list[tuple[Int[np.ndarray, " a"], Float[np.ndarray, "a m"]]]:
        """Return, for each species, its atoms and their dot products with its inducing environments."""
        result = []
        for a, z in enumerate(self.inducing):
            atoms = np.flatnonzero(described.species == a)
            whole = len(atoms) == len(described.x)
            result.append((atoms, (described.x if whole else described.x[atoms]) @ z.T))
        return result

    def whiten(self, rows: Float[np.ndarray, "rows m"]) -> Float[np.ndarray, "rows d"]:
        """Turn rows over kernel values into rows over whitened features."""
        s = self.starts
        return np.concatenate([rows[:, s[a] : s[a + 1]] @ w for a, w in enumerate(self.whitening)], axis=1)

    def unwhiten(self, weights: Float[np.ndarray, "d ..."]) -> Float[np.ndarray, "m ..."]:
        """Turn weights of whitened features, or columns of them, into weights of kernel values."""
        parts, start = [], 0
        for w in self.whitening:
            parts.append(w @ weights[start : start + w.shape[1]])
            start += w.shape[1]
        return np.concatenate(parts)
