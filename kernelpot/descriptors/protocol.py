"""What a descriptor of atomic environments has to offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.errors import ParameterError


@dataclass(frozen=True, eq=False)
class Displacements:
    """Derivatives of some centres' vectors, dense in the few atoms that move each centre and in nothing else.

    Attributes
    ----------
    rows
        d vector / d position of one atom, Å⁻¹ times the vector's unit.
    centre
        Row's centre, counted from the first centre asked for.
    target
        Row's moving atom, counted over the batch.
    virial
        d vector / d strain, ASE's Voigt order; off-diagonal strain is symmetric, ε_yz = ε_zy = δ/2.
    """

    rows: Float[np.ndarray, "rows 3 f"]
    centre: Int[np.ndarray, " rows"]
    target: Int[np.ndarray, " rows"]
    virial: Float[np.ndarray, "centres 6 f"]


class Environments(Protocol):
    """The vectors of a batch, with what it takes to differentiate them."""

    @property
    def vectors(self) -> Float[np.ndarray, "atoms f"]:
        """One vector per atom."""

    def vjp(self, gradient: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "pairs 3"]:
        """Return dE/d(pair vector), given dE/d(vectors)."""

    def displacements(self, start: int, stop: int) -> Displacements:
        """Return the derivatives of the vectors of atoms ``start:stop``."""


class Descriptor(Protocol):
    """A map from environments to vectors; `species` is None until the model has seen structures."""

    @property
    def cutoff(self) -> float:
        """Reach of an environment, Å."""

    @property
    def species(self) -> tuple[int, ...] | None:
        """Atomic numbers it tells apart, sorted."""

    def with_species(self, species: tuple[int, ...]) -> Descriptor:
        """Return the same descriptor for these elements."""

    def environments(self, batch: Batch) -> Environments:
        """Describe every atom of a batch."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values, for model files and reports."""


@dataclass(frozen=True, eq=False)
class ValuesOnly:
    """Vectors that are compared, and never differentiated.

    Attributes
    ----------
    vectors
        One for each atom.
    why
        What to do instead, for whoever asks for derivatives.
    """

    vectors: Float[np.ndarray, "atoms f"]
    why: str

    def vjp(self, gradient: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "pairs 3"]:  # noqa: ARG002
        """Refuse.

        Raises
        ------
        ParameterError
            Always.
        """
        raise ParameterError(self.why)

    def displacements(self, start: int, stop: int) -> Displacements:  # noqa: ARG002
        """Refuse.

        Raises
        ------
        ParameterError
            Always.
        """
        raise ParameterError(self.why)
