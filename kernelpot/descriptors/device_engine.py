"""What the engine of a descriptor on a device of PyTorch has to offer."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.data.batch import Batch
from kernelpot.descriptors.device import DeviceBatch
from kernelpot.descriptors.grid import NeighbourGrid


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
