"""A batch on a device of PyTorch, with the quintic Hermite tables that functions of a distance are read from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.data.batch import Batch


@dataclass(frozen=True, eq=False)
class DeviceBatch:
    """What of a batch the engines read, on a device; geometry always in float64.

    Attributes
    ----------
    batch
        On the host.
    device
        PyTorch's name of the device.
    species
        Place of every atom's element among the species.
    """

    batch: Batch
    device: str
    species: Int[np.ndarray, " atoms"]

    def _there(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.device)

    @cached_property
    def vectors(self) -> Float[Tensor, "pairs 3"]:
        """Pair vectors, Å."""
        return self._there(self.batch.vectors)

    @cached_property
    def distances(self) -> Float[Tensor, " pairs"]:
        """Lengths of the pair vectors, Å."""
        return torch.linalg.vector_norm(self.vectors, dim=1)

    @cached_property
    def first(self) -> Int[Tensor, " pairs"]:
        """First atom of each pair."""
        return self._there(self.batch.first)

    @cached_property
    def second(self) -> Int[Tensor, " pairs"]:
        """Second atom of each pair."""
        return self._there(self.batch.second)

    @cached_property
    def reverse(self) -> Int[Tensor, " pairs"]:
        """Number of the pair that leads back from the second atom of each pair to the first.

        Vectors there and back differ in their sign alone, to the last bit, so that both sort alike.
        """
        batch = self.batch
        there = np.lexsort((*batch.vectors.T, batch.second, batch.first))
        back = np.lexsort((*-batch.vectors.T, batch.first, batch.second))
        result = np.empty(len(there), dtype=np.int64)
        result[there] = back
        return self._there(result)

    @cached_property
    def elements(self) -> Int[Tensor, " atoms"]:
        """`species` on the device."""
        return self._there(self.species)

    @cached_property
    def structure(self) -> Int[Tensor, " atoms"]:
        """Structure of each atom."""
        return self._there(self.batch.structure)

    @cached_property
    def most_neighbours(self) -> int:
        """Largest number of pairs of any atom."""
        return int(np.diff(self.batch.pair_offsets).max())

    def atoms_of(self, start: int, stop: int) -> list[tuple[int, Int[Tensor, " a"] | slice]]:
        """Return each species among the atoms ``start:stop`` with its atoms, counted from start."""
        here = self.species[start:stop]
        found = np.unique(here)
        if len(found) == 1:
            return [(int(found[0]), slice(0, stop - start))]
        return [(int(a), self._there(np.flatnonzero(here == a))) for a in found]


@dataclass(frozen=True, eq=False)
class DeviceTable:
    """Functions of a distance on nodes, read by quintic Hermite interpolation (`RadialTable`, C²).

    Attributes
    ----------
    nodes
        Value, h slope, h² curvature of each node, one after another.
    step
        h, Å.
    """

    nodes: Float[Tensor, "nodes_times_3 columns"]
    step: float

    @classmethod
    def make(
        cls, nodes: Float[np.ndarray, "nodes 3 columns"], step: float, device: str, dtype: torch.dtype
    ) -> DeviceTable:
        """Put a table on a device."""
        flat = nodes.reshape(-1, nodes.shape[2])
        return cls(torch.as_tensor(flat, device=device, dtype=dtype), step)

    def places(self, r: Float[Tensor, " points"]) -> tuple[Int[Tensor, "points 6"], Float[Tensor, " points"]]:
        """Return the six rows of `nodes` that each distance reads, and where between its nodes it lies."""
        x = r / self.step
        k = x.long().clamp_(max=len(self.nodes) // 3 - 2)
        return (3 * k)[:, None] + torch.arange(6, device=r.device), x - k

    def read(
        self, places: Int[Tensor, "points 6"], weights: Float[Tensor, "points 6"]
    ) -> Float[Tensor, "points columns"]:
        """Return the weighted sums of the rows at those places, without copies of the rows."""
        weights = weights.to(self.nodes.dtype)
        return torch.nn.functional.embedding_bag(places, self.nodes, per_sample_weights=weights, mode="sum")


def hermite(t: Float[Tensor, " pairs"]) -> Float[Tensor, "pairs 6"]:
    """Return the quintic Hermite weights of (value, slope, curvature) at t = 0, then of those at t = 1."""
    t2, t3, s3 = t**2, t**3, (1.0 - t) ** 3
    rise = t3 * (10.0 - t * (15.0 - 6.0 * t))
    return torch.stack(
        [
            1.0 - rise,
            t - t3 * (6.0 - t * (8.0 - 3.0 * t)),
            0.5 * t2 * s3,
            rise,
            -t3 * (4.0 - t * (7.0 - 3.0 * t)),
            0.5 * t3 * (1.0 - t) ** 2,
        ],
        dim=1,
    )


def hermite_slope(t: Float[Tensor, " points"]) -> Float[Tensor, "points 6"]:
    """Return the derivatives by t of the weights that `hermite` returns."""
    t2, u = t**2, 1.0 - t
    rise = 30.0 * t2 * u**2
    return torch.stack(
        [
            -rise,
            1.0 - t2 * (18.0 - t * (32.0 - 15.0 * t)),
            0.5 * t * u**2 * (2.0 - 5.0 * t),
            rise,
            -t2 * (12.0 - t * (28.0 - 15.0 * t)),
            0.5 * t2 * u * (3.0 - 5.0 * t),
        ],
        dim=1,
    )
