"""Neighbours of some atoms on a device of PyTorch, on a regular grid: sums over them are batched matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import pi
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.data.batch import Batch
from kernelpot.descriptors.loops import harmonic_factors, harmonic_gradients, recurrence
from kernelpot.descriptors.radial import fall, hermite, hermite_slope


@dataclass(frozen=True, eq=False)
class Harmonics:
    """Y_lm, lm = l² + l + m, of `descriptors.loops` for many unit vectors at once; `ladder` is D of `ladder_of`."""

    l_max: int
    table: Float[Tensor, "5 lm"]
    ladder: Float[Tensor, "3 lm lower"]

    @classmethod
    def make(cls, l_max: int, device: str, dtype: torch.dtype) -> Harmonics:
        """Put the constants on a device."""
        there = [torch.as_tensor(a, device=device, dtype=dtype) for a in (recurrence(l_max), ladder_of(l_max))]
        return cls(l_max, there[0], there[1])

    def values(self, u: Float[Tensor, "3 points"]) -> Float[Tensor, "lm points"]:
        """Return Y_lm(u): the recurrences in l run over all m together."""
        x, y, z = u
        cosine, sine = [torch.ones_like(x)], [torch.zeros_like(x)]
        for m in range(self.l_max):
            cosine.append(x * cosine[m] - y * sine[m])
            sine.append(x * sine[m] + y * cosine[m])
        re, im = torch.stack(cosine), torch.stack(sine)
        q: list[Tensor] = []
        rows = []
        for l in range(self.l_max + 1):  # noqa: E741
            k = l * (l + 1) // 2
            parts = []
            if l >= 2:
                a, b = self.table[1, k : k + l - 1, None], self.table[2, k : k + l - 1, None]
                parts.append(a * z * q[l - 1][: l - 1] - b * q[l - 2])
            if l >= 1:
                parts.append(self.table[1, k + l - 1] * z[None] * q[l - 1][l - 1 :])
            parts.append(self.table[0, k + l].expand(1, len(z)))
            q.append(torch.cat(parts))
            if l:
                rows.append((q[l][1:] * im[1 : l + 1]).flip(0))
            rows += [q[l][:1], q[l][1:] * re[1 : l + 1]] if l else [q[l]]
        return torch.cat(rows)

    @property
    def lower(self) -> int:
        """Number of harmonics below l_max: those that gradients are made of."""
        return self.l_max**2

    def degrees(self) -> Float[Tensor, " lm"]:
        """Return l of every lm."""
        l = torch.arange(self.l_max + 1, device=self.table.device)  # noqa: E741
        return torch.repeat_interleave(l, 2 * l + 1).to(self.table.dtype)

    def gradients(
        self, u: Float[Tensor, "3 points"], r: Float[Tensor, " points"], y: Float[Tensor, "lm points"]
    ) -> Float[Tensor, "3 lm points"]:
        """Return ∂Y_lm(r/|r|)/∂r = (D Y_(l-1) - l u Y_lm)/r, given the values y; Å⁻¹."""
        solid = (self.ladder.flatten(0, 1) @ y[: self.lower]).reshape(3, *y.shape)
        along = (self.degrees()[:, None] * y)[None] * u[:, None]
        return solid.sub_(along).div_(r)

    def contracted(
        self,
        u: Float[Tensor, "3 points"],
        r: Float[Tensor, " points"],
        y: Float[Tensor, "lm points"],
        weights: Float[Tensor, "lm points"],
    ) -> Float[Tensor, "3 points"]:
        """Return Σ_lm weights_lm ∂Y_lm/∂r without the gradients themselves: D is applied to the weights."""
        lowered = torch.einsum("xab,ap->xbp", self.ladder, weights)
        along = torch.einsum("a,ap,ap->p", self.degrees(), weights, y)
        return ((lowered * y[: self.lower]).sum(1) - along * u) / r


@lru_cache(maxsize=32)
def ladder_of(l_max: int) -> Float[np.ndarray, "3 lm lower"]:
    """Return D with ∇(r^l Y_lm) = r^(l-1) Σ_m' D[lm, m'] Y_(l-1)m': gradients of solid harmonics are harmonics again.

    By projection, D = ∫ ∇(r^l Y_lm) Y_(l-1)m' dΩ on the unit sphere, with a product rule that is exact for the degree
    (Gauss-Legendre in z, equal steps in the angle).
    """
    z, weight = np.polynomial.legendre.leggauss(l_max + 1)
    angle = 2.0 * pi * np.arange(2 * l_max + 2) / (2 * l_max + 2)
    rho = np.sqrt(1.0 - z**2)
    u = np.stack(
        [np.outer(rho, np.cos(angle)), np.outer(rho, np.sin(angle)), np.outer(z, np.ones_like(angle))]
    ).reshape(3, -1)
    weights = np.outer(weight, np.full(len(angle), 2.0 * pi / len(angle))).ravel()
    n, size = u.shape[1], (l_max + 1) ** 2
    q, c, s = np.empty(((l_max + 1) * (l_max + 2) // 2, n)), np.empty((l_max + 1, n)), np.empty((l_max + 1, n))
    y, dy = np.empty((size, n)), np.empty((3, size, n))
    harmonic_factors(l_max, n, u, recurrence(l_max), q, c, s)
    harmonic_gradients(l_max, n, recurrence(l_max), u, np.ones(n), q, c, s, y, dy)
    degree = np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)
    solid = dy + degree[:, None] * y * u[:, None]
    ladder = np.einsum("xap,bp,p->xab", solid, y[: l_max**2], weights)
    below = np.repeat(np.arange(l_max), 2 * np.arange(l_max) + 1)
    ladder[:, degree[:, None] != below + 1] = 0.0
    ladder[np.abs(ladder) < 1e-13] = 0.0
    return ladder


@dataclass(frozen=True, eq=False)
class DeviceBatch:
    """What of a batch the engines read, on a device, geometry in float64; `species` are places among the model's."""

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
    """A `RadialTable` on a device: value, h slope and h² curvature of each node one after another, h = `step` in Å."""

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


@dataclass(frozen=True, eq=False)
class NeighbourGrid:
    """Neighbours of the atoms ``start:stop``, by element of the neighbour, each list padded to the longest.

    Slot s of element a of atom i is number ``((i - start) · elements + a) · width + s``. A slot that nobody fills has
    weight zero, so that it adds nothing to any sum.
    """

    start: int  # start, stop: Atoms
    stop: int
    n_elements: int  # n_elements, width: Elements, and slots of each
    width: int
    pair: Int[Tensor, " inside"]  # Number of each pair within the cutoff, in the batch
    place: Int[Tensor, " inside"]  # Its slot
    target: Int[Tensor, " slots"]  # Second atom of each slot; 0 where there is none
    u: Float[Tensor, "3 slots"]  # u, r: Direction and distance (Å) of each slot, float64
    r: Float[Tensor, " slots"]
    fade: Float[Tensor, " slots"]  # fade, fade_slope: Weight of each slot and its derivative, Å⁻¹
    fade_slope: Float[Tensor, " slots"]
    table: DeviceTable  # table, harmonics: Radial and angular functions; what they return is of their precision
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
            weight, change = fall(((distances - cutoff) / fade_width + 1.0).clamp_(min=0.0))
            fade[place], slope[place] = weight, change / fade_width
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
        return self.table.read(places, self.fade[:, None] * torch.stack(hermite(t), 1))

    @cached_property
    def radial_slope(self) -> Float[Tensor, "slots columns"]:
        """Derivative of `radial` by the distance, Å⁻¹."""
        places, t = self._nodes
        weights = (self.fade / self.table.step)[:, None] * torch.stack(hermite_slope(t), 1)
        weights += self.fade_slope[:, None] * torch.stack(hermite(t), 1)
        return self.table.read(places, weights)


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
