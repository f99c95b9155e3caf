"""What a feature map offers: the one seam between descriptors with their kernels and every model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.data.batch import Batch
from kernelpot.descriptors.protocol import Descriptor

E0_PRIOR = 10.0
"""Prior standard deviation of the energy of an isolated atom where no energy is known, eV; unit of its column."""

E0_ABOUT = 0.02
"""The same about the least squares of the labelled energies, over the amplitude of a kernel with a constant of its own.

What environments do not explain is then the composition's: with 10 eV, constants and kernel trade eV of the same
energies, and the sum is wrong wherever the kernel falls (docs/mathematics.md).
"""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows over raw columns (amplitude 1, not whitened, not divided by noise); None for kinds not asked for."""

    energy: Float[np.ndarray, "structures m"]  # total energies: Σ_i k(x_i, Z)
    forces: Float[np.ndarray, "components m"] | None  # -∂/∂r of the total energy, atoms first, then x, y, z
    # (1/V) ∂/∂ε of the total energy, structures first, then ASE's Voigt order; NaN without a volume
    stress: Float[np.ndarray, "stresses m"] | None


class Described(Protocol):
    """A batch whose environments are described once, for everything that follows."""

    @property
    def batch(self) -> Batch:
        """Structures with their pairs."""

    @property
    def species(self) -> Int[np.ndarray, " atoms"]:
        """Place of every atom's element among the map's species."""


class Form(Protocol):
    """An energy that is linear in the features, at fixed weights."""

    @property
    def paths(self) -> tuple[str, ...]:
        """How each block of weights is evaluated."""

    def local_and_pairs(self, described: Any) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""


class FeatureMap(Protocol):
    """Features φ of structures with prior weights N(0, I), and the residual variance that they leave out.

    Raw columns are what structures are described by; whitening turns rows over raw columns into rows over features. All
    at amplitude 1: whoever uses features multiplies by the amplitude.
    """

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, sorted."""

    @property
    def cutoff(self) -> float:
        """Reach, Å."""

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor that structures are compared by (duplicates, folds, maps of a pool)."""

    @property
    def n_columns(self) -> int:
        """Raw columns, m."""

    @property
    def n_inducing(self) -> int:
        """Inducing environments, M."""

    @property
    def n_weights(self) -> int:
        """Features, d, without the E0 columns."""

    @property
    def has_constant(self) -> bool:
        """Whether the kernel of some term carries a constant energy of each species."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each term of a sum; one number for a single map."""

    @property
    def scales(self) -> tuple[float, ...]:
        """Prior standard deviation of each term, in units of the amplitude; 1 for a single map."""

    def rescaled(self, scales: Sequence[float]) -> FeatureMap:
        """Return the map whose terms have these prior standard deviations in units of the amplitude."""

    def describe(self, batch: Batch) -> Any:
        """Describe a batch: the `Described` that the other methods take."""

    def rows(self, described: Any, kinds: Collection[str]) -> Rows:
        """Return the rows of a batch; energies come whatever is asked for."""

    def whiten(self, rows: Float[np.ndarray, "rows m"]) -> Float[np.ndarray, "rows d"]:
        """Turn rows over raw columns into rows over features."""

    def unwhiten(self, weights: Float[np.ndarray, "d ..."]) -> Float[np.ndarray, "m ..."]:
        """Turn weights of features, or columns of them, into weights of raw columns."""

    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool = True) -> Form:
        """Return the energy with these weights of raw columns, eV."""

    def drawn_form(self, weights: Float[np.ndarray, " m"], rng: np.random.Generator, scale: float) -> Form:
        """Return `form` plus scale times an energy drawn from the prior that the features leave out, eV.

        Kernels without a finite form of their own (all but `DotProduct` with zeta 1 and 2) add nothing.
        """

    def energies_and_pairs(
        self, form: Any, batch: Batch, described: Any = None
    ) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return what `form` makes of a batch, which need not be described as a whole; if it is, that may be used."""

    def local_values(
        self, described: Any
    ) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[np.ndarray, "a columns"]]]:
        """Yield atoms, raw columns and the atoms' values there; everything else is zero."""

    def local_prior(self, described: Any) -> Float[np.ndarray, " atoms"]:
        """Return the prior variance of every atom's energy."""

    def residual(self, described: Any, kind: str, white: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, " rows"]:
        """Return the prior variance of every label of a kind that its whitened row does not carry."""

    def energy_residual(
        self, left: Any, right: Any, white: tuple[Float[np.ndarray, "left d"], Float[np.ndarray, "right d"]]
    ) -> Float[np.ndarray, "left right"]:
        """Return the prior covariance of two batches' total energies that their whitened rows do not carry."""

    def block_residual(
        self, described: Any, kind: str, number: int, white: Float[np.ndarray, "c d"]
    ) -> Float[np.ndarray, "c c"]:
        """Return the prior covariance that whitened rows leave out of an atom's force or of a structure's stress."""

    def weights_of(self, number: int) -> Bool[np.ndarray, " d"]:
        """Tell which features belong to environments of an element."""

    def settings(self) -> dict[str, Any]:
        """Return what the arrays do not hold, as JSON values."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that make the map, by name."""

    def shares(self) -> str:
        """Describe for people how many raw columns belong to what."""


def dense_local_values(features: FeatureMap, described: Described) -> Float[np.ndarray, "atoms m"]:
    """Return every atom's raw columns, zeros included."""
    result = np.zeros((described.batch.n_atoms, features.n_columns))
    for atoms, columns, values in features.local_values(described):
        result[atoms, columns] = values
    return result


class Single(ABC):
    """A map of one term, which is its own unit."""

    @abstractmethod
    def describe(self, batch: Batch) -> Any:
        """Describe a batch."""

    def thin(self, described: Any) -> bool:
        """Whether the environments are kept, so that pairs may be left out."""
        return hasattr(described.environments, "part")

    def around(self, described: Any, atoms: Int[np.ndarray, " some"], *, thin: bool) -> Any:
        """Return the part of one structure that some atoms' forces and energies need, these atoms first."""
        batch, kept = described.batch.surroundings(atoms, thin=thin)
        if not thin:
            return self.describe(batch)
        return replace(
            described,
            batch=batch,
            environments=described.environments.part(batch, kept),
            **{name: getattr(described, name)[kept] for name in ("x", "norm", "species")},
        )

    def energies_and_pairs(
        self, form: Any, batch: Batch, described: Any = None
    ) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        found: tuple[np.ndarray, np.ndarray] = form.local_and_pairs(
            self.describe(batch) if described is None else described
        )
        return found

    @property
    @abstractmethod
    def n_weights(self) -> int:
        """Features, d, without the E0 columns."""

    @property
    def has_constant(self) -> bool:
        """Pairs and vectors that grow with their neighbours do not."""
        return False

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of the one term."""
        return (self.n_weights,)

    @property
    def scales(self) -> tuple[float, ...]:
        """A single term is the unit."""
        return (1.0,)

    def rescaled(self, scales: Sequence[float]) -> Self:
        """Return the map itself: it has no other to be scaled against."""
        if tuple(scales) != (1.0,):
            raise ValueError(f"a single term has the scale 1, got {tuple(scales)}")
        return self


class FiniteRank(ABC):
    """No residual covariance."""

    @abstractmethod
    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool = True) -> Form:
        """Return the energy with these weights of raw columns, eV."""

    def drawn_form(
        self,
        weights: Float[np.ndarray, " m"],
        rng: np.random.Generator,  # noqa: ARG002
        scale: float,  # noqa: ARG002
    ) -> Form:
        """Return the map's `form`: its features leave nothing to be drawn."""
        return self.form(weights)

    def residual(
        self,
        described: Any,  # noqa: ARG002
        kind: str,  # noqa: ARG002
        white: Float[np.ndarray, "rows d"],
    ) -> Float[np.ndarray, " rows"]:
        """Return zeros: the finite rank is the prior."""
        return np.zeros(len(white))

    def energy_residual(
        self,
        left: Any,  # noqa: ARG002
        right: Any,  # noqa: ARG002
        white: tuple[Float[np.ndarray, "left d"], Float[np.ndarray, "right d"]],
    ) -> Float[np.ndarray, "left right"]:
        """Return zeros: the finite rank is the prior."""
        return np.zeros((len(white[0]), len(white[1])))

    def block_residual(
        self,
        described: Any,  # noqa: ARG002
        kind: str,  # noqa: ARG002
        number: int,  # noqa: ARG002
        white: Float[np.ndarray, "c d"],
    ) -> Float[np.ndarray, "c c"]:
        """Return zeros: the finite rank is the prior."""
        return np.zeros((len(white), len(white)))
