"""Neighbours of some atoms on a regular grid, so that sums over neighbours are batched matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.data.batch import Batch
from kernelpot.descriptors.harmonics_torch import Harmonics


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


@dataclass(frozen=True, eq=False)
class NeighbourGrid:
    """Neighbours of the atoms ``start:stop``, by element of the neighbour, each list padded to the longest.

    Slot s of element a of atom i is number ``((i - start) · elements + a) · width + s``. A slot that nobody fills has
    weight zero, so that it adds nothing to any sum.

    Attributes
    ----------
    start, stop
        Atoms.
    n_elements, width
        Elements, and slots of each.
    pair
        Number of each pair within the cutoff, in the batch.
    place
        Its slot.
    target
        Second atom of each slot; 0 where there is none.
    u, r
        Direction and distance (Å) of each slot, float64.
    fade, fade_slope
        Weight of each slot and its derivative, Å⁻¹.
    table, harmonics
        Radial and angular functions; what they return is of their precision.
    """

    start: int
    stop: int
    n_elements: int
    width: int
    pair: Int[Tensor, " inside"]
    place: Int[Tensor, " inside"]
    target: Int[Tensor, " slots"]
    u: Float[Tensor, "3 slots"]
    r: Float[Tensor, " slots"]
    fade: Float[Tensor, " slots"]
    fade_slope: Float[Tensor, " slots"]
    table: DeviceTable
    harmonics: Harmonics

    @classmethod
    def make(
        cls,
        there: DeviceBatch,
        start: int,
        stop: int,
        *,
        n_elements: int,
        cutoff: float,
        fade_width: float,
        table: DeviceTable,
        harmonics: Harmonics,
    ) -> NeighbourGrid:
        """Sort the pairs of atoms ``start:stop`` into slots."""
        offsets = there.batch.pair_offsets
        a, b = int(offsets[start]), int(offsets[stop])
        pair = torch.nonzero(there.distances[a:b] < cutoff).squeeze(1) + a
        key = (there.first[pair] - start) * n_elements
        if n_elements > 1:
            key, order = torch.sort(key + there.elements[there.second[pair]], stable=True)
            pair = pair[order]
        n_lists = (stop - start) * n_elements
        counts = torch.bincount(key, minlength=n_lists)
        width = max(1, int(counts.max()))
        begins = torch.cumsum(counts, 0) - counts
        place = key * width + torch.arange(len(key), device=key.device) - begins[key]

        size = n_lists * width
        distances = there.distances[pair]
        # What no pair fills points along z at half the cutoff, with weight zero.
        u = torch.zeros((3, size), dtype=torch.float64, device=key.device)
        u[2] = 1.0
        u[:, place] = (there.vectors[pair] / distances[:, None]).T
        r = torch.full((size,), 0.5 * cutoff, dtype=torch.float64, device=key.device)
        r[place] = distances
        target = torch.zeros(size, dtype=torch.long, device=key.device)
        target[place] = there.second[pair]
        fade, slope = torch.zeros_like(r), torch.zeros_like(r)
        fade[place] = 1.0
        if fade_width > 0.0:
            t = ((distances - cutoff) / fade_width + 1.0).clamp_(min=0.0)
            fade[place] = 1.0 - t**3 * (10.0 - t * (15.0 - 6.0 * t))
            slope[place] = -30.0 / fade_width * t**2 * (1.0 - t) ** 2
        return cls(start, stop, n_elements, width, pair, place, target, u, r, fade, slope, table, harmonics)

    @property
    def n_atoms(self) -> int:
        """Atoms whose neighbours these are."""
        return self.stop - self.start

    @property
    def slots(self) -> int:
        """Slots of one atom."""
        return self.n_elements * self.width

    @cached_property
    def directions(self) -> Float[Tensor, "3 slots"]:
        """`u` in the precision of the functions."""
        return self.u.to(self.harmonics.table.dtype)

    @cached_property
    def lengths(self) -> Float[Tensor, " slots"]:
        """`r` in the precision of the functions."""
        return self.r.to(self.harmonics.table.dtype)

    @cached_property
    def angular(self) -> Float[Tensor, "lm slots"]:
        """Y_lm of every slot."""
        return self.harmonics.values(self.directions)

    @cached_property
    def _nodes(self) -> tuple[Int[Tensor, "slots 6"], Float[Tensor, " slots"]]:
        return self.table.places(self.r)

    @cached_property
    def radial(self) -> Float[Tensor, "slots columns"]:
        """R_nl(r) times the fade."""
        places, t = self._nodes
        return self.table.read(places, self.fade[:, None] * hermite(t))

    @cached_property
    def radial_slope(self) -> Float[Tensor, "slots columns"]:
        """Derivative of `radial` by the distance, Å⁻¹."""
        places, t = self._nodes
        weights = (self.fade / self.table.step)[:, None] * hermite_slope(t) + self.fade_slope[:, None] * hermite(t)
        return self.table.read(places, weights)
