"""What a descriptor of atomic environments has to offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.errors import ParameterError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kernelpot.descriptors.grid import DeviceBatch, NeighbourGrid


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


class DescriptorEngine(Protocol):
    """Vectors of atoms on a `NeighbourGrid` with their derivatives by its slots.

    What `describe` returns besides the vectors, c, goes back into everything that follows; one row for each atom.
    """

    @property
    def device(self) -> str:
        """PyTorch's name of the device."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of vectors and derivatives; distances are float64."""

    @property
    def n_elements(self) -> int:
        """Elements that neighbours are told apart by."""

    def check_reach(self, batch: Batch) -> None:
        """Refuse a batch without the pairs that the cutoff needs."""

    def value_bytes(self, there: DeviceBatch) -> float:
        """Return the memory that one atom takes in vectors and their transpose."""

    def jacobian_bytes(self, there: DeviceBatch, columns: int) -> float:
        """Return the memory that one atom takes in `changes` and its product with that many columns."""

    def grid(self, there: DeviceBatch, start: int, stop: int) -> NeighbourGrid:
        """Sort the neighbours of atoms ``start:stop`` into slots."""

    def describe(self, grid: NeighbourGrid, elements: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n f"], Tensor]:
        """Return the vectors of the grid's atoms, and c."""

    def pull(self, grid: NeighbourGrid, c: Tensor, gradient: Float[Tensor, "n f"]) -> Float[Tensor, "inside 3"]:
        """Return dE/dr of every pair of the grid, given dE/d(vectors)."""

    def changes(self, grid: NeighbourGrid, c: Tensor, norm: Float[Tensor, " n"] | None) -> Float[Tensor, "n 3 slots f"]:
        """Return ∂(vectors)/∂r of every slot, over the norm of each atom's vector where it is given."""

    def backwards(self, grid: NeighbourGrid, there: DeviceBatch, c: Tensor) -> Float[Tensor, "n 3 slots f"]:
        """Return ∂(vector of j)/∂r_i for every neighbour j of the grid's atoms i, given the c of all atoms."""
