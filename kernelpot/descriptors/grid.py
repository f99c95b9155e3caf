"""Neighbours of some atoms on a regular grid, so that sums over neighbours are batched matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.descriptors.device import DeviceBatch, DeviceTable, hermite, hermite_slope
from kernelpot.descriptors.harmonics_torch import Harmonics


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
