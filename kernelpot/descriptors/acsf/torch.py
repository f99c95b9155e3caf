"""Symmetry functions on a device, with their transpose and their Jacobian by explicit formulas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import pi

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.data.batch import Batch
from kernelpot.descriptors.acsf.definition import ACSF
from kernelpot.descriptors.grid import DeviceBatch, DeviceTable, Harmonics, NeighbourGrid
from kernelpot.descriptors.protocol import check_reach
from kernelpot.linalg.devices import pieces, working_bytes
from kernelpot.run import count


@dataclass(frozen=True, eq=False)
class TripleTerms:
    """One kind of angular function of all slots j and k: F and, where wanted, its α and γ.

    ∂F/∂r_j = α r_j + γ r_k; k is the last axis.
    """

    place: int
    value: Float[Tensor, "n slots slots"]
    alpha: Float[Tensor, "n slots slots"] | None = None
    gamma: Float[Tensor, "n slots slots"] | None = None


@dataclass(frozen=True, eq=False)
class AcsfEngine:
    """What `acsf.loops` does for single neighbours, over squares of a `NeighbourGrid`'s slots."""

    acsf: ACSF  # With its species
    device: str  # PyTorch's name of the device
    dtype: torch.dtype  # Precision of functions and derivatives; distances are float64

    def _there(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), device=self.device, dtype=self.dtype)

    @cached_property
    def _radial(self) -> Float[Tensor, "3 radial"]:
        return self._there(self.acsf.functions.radial)

    @cached_property
    def _pairs(self) -> Float[Tensor, "blocks elements elements"]:
        """Weight of two elements in each block: G = ½ Σ_ab over ordered pairs of neighbours."""
        if self.acsf.channels is not None:
            w = self.acsf.weights
            return self._there(w[:, :, None] * w[:, None, :])
        n = self.n_elements
        blocks = np.zeros((n * (n + 1) // 2, n, n))
        for b, (high, low) in enumerate(zip(*np.tril_indices(n), strict=True)):
            blocks[b, high, low] = blocks[b, low, high] = 1.0
        return self._there(blocks)

    @cached_property
    def _weights(self) -> Float[Tensor, "channels elements"]:
        return self._there(self.acsf.weights)

    @cached_property
    def _scales(self) -> Float[Tensor, "species f"] | None:
        """Scale of every component of each centre species, the centre's own included."""
        standard = self.acsf.standard
        if standard is None:
            return None
        return self._there(np.concatenate([np.ones((len(standard.scales), 1)), standard.scales], axis=1))

    @property
    def n_elements(self) -> int:
        """Elements that neighbours are told apart by."""
        return self.acsf.weights.shape[1]

    def check_reach(self, batch: Batch) -> None:
        """Refuse a batch without the pairs that the cutoff needs."""
        check_reach(self.acsf, batch)

    def value_bytes(self, there: DeviceBatch) -> float:
        """Return the memory that one atom takes in functions and their transpose."""
        slots, functions = there.most_neighbours * min(2, self.n_elements), self.acsf.functions
        return 8.0 * (slots**2 * (16 + 2 * len(functions.etas)) + slots * 8 * functions.n_radial)

    def jacobian_bytes(self, there: DeviceBatch, columns: int) -> float:
        """Return the memory that one atom takes in `changes` and its product with that many columns."""
        slots = there.most_neighbours * min(2, self.n_elements)
        return self.value_bytes(there) + 8.0 * slots * 3 * (3 * self.acsf.n_features + 3 * columns)

    def grid(self, there: DeviceBatch, start: int, stop: int) -> NeighbourGrid:
        """Sort the neighbours of atoms ``start:stop`` into slots; its own table and harmonics are not read."""
        return NeighbourGrid.make(
            there, start, stop, n_elements=self.n_elements, cutoff=self.acsf.cutoff, fade_width=0.0,
            table=self._no_table, harmonics=self._no_harmonics,
        )  # fmt: skip

    @cached_property
    def _no_table(self) -> DeviceTable:
        return DeviceTable.make(np.zeros((2, 3, 1)), 1.0, self.device, self.dtype)

    @cached_property
    def _no_harmonics(self) -> Harmonics:
        return Harmonics.make(0, self.device, self.dtype)

    def _cutoff(self, r: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Return f(r) and f'(r)/r."""
        x = r / self.acsf.cutoff
        if self.acsf.cutoff_function == "polynomial":
            u = (1.0 - x * x).clamp(min=0.0)
            return u**3, -6.0 / self.acsf.cutoff**2 * u * u
        inside = (x < 1.0).to(r.dtype)
        return 0.5 * (1.0 + torch.cos(pi * x)) * inside, -0.5 * pi / self.acsf.cutoff * torch.sin(pi * x) / r * inside

    def _near(self, grid: NeighbourGrid) -> tuple[Tensor, Tensor, Tensor]:
        """Return distances, vectors and the mask of filled slots, each atom's in a row."""
        shape = (grid.n_atoms, grid.slots)
        vectors = (grid.directions * grid.lengths).view(3, *shape).permute(1, 2, 0)
        return grid.lengths.view(shape), vectors, grid.fade.to(self.dtype).view(shape)

    def _radials(self, grid: NeighbourGrid) -> tuple[Float[Tensor, "n slots radial"], Float[Tensor, "n slots radial"]]:
        """Return the radial functions of every slot with their slopes."""
        r, _, mask = self._near(grid)
        r = r[..., None]
        f, slope = self._cutoff(r)
        eta, shift, kappa = self._radial
        gauss = torch.exp(-eta * (r - shift) ** 2)
        wave, turned = torch.cos(kappa * r), torch.sin(kappa * r)
        value = gauss * wave
        change = -2.0 * eta * (r - shift) * value - kappa * gauss * turned
        return value * f * mask[..., None], (change * f + value * slope * r) * mask[..., None]

    def _triples(self, grid: NeighbourGrid, *, derivatives: bool) -> Iterator[TripleTerms]:
        """Yield every angular function of all pairs of slots."""
        functions = self.acsf.functions
        r, vectors, mask = self._near(grid)
        dots = torch.matmul(vectors, vectors.transpose(1, 2))
        inverse = 1.0 / r
        both = inverse[:, :, None] * inverse[:, None, :]
        c = (dots * both).clamp(-1.0, 1.0)
        square = r * r
        s = square[:, :, None] + square[:, None, :] - 2.0 * dots
        there = mask[:, :, None] * mask[:, None, :] * (1.0 - torch.eye(r.shape[1], device=self.device, dtype=r.dtype))
        far = self._cutoff(s.clamp(min=1e-12 * self.acsf.cutoff**2).sqrt())
        f, slope = self._cutoff(r)
        for kind, rows in enumerate((functions.g4, functions.g5)):
            for k, (eta, zeta, weight) in enumerate(rows):
                gauss = torch.exp(-eta * square)
                e, stretch = gauss * f, gauss * (slope - 2.0 * eta * f)
                base = (0.5 + 0.5 * weight * c).clamp(min=0.0)
                low = 2.0 * base ** (zeta - 1.0) * there
                third = torch.exp(-eta * s) * far[0] if kind == 0 else None
                angle = low * base if third is None else low * base * third
                whole = angle * e[:, :, None] * e[:, None, :]
                place = k + kind * len(functions.g4)
                if not derivatives:
                    yield TripleTerms(place, whole)
                    continue
                turn = 0.5 * zeta * weight * low * e[:, :, None] * e[:, None, :]
                if third is not None:
                    turn = turn * third
                gamma = turn * both
                alpha = stretch[:, :, None] * e[:, None, :] * angle - turn * c * (inverse * inverse)[:, :, None]
                if third is not None:
                    # By s, of which r_j and r_k each have half: f'(r)/(2r) less η f.
                    by = torch.exp(-eta * s) * (0.5 * far[1] - eta * far[0])
                    by = 2.0 * low * base * e[:, :, None] * e[:, None, :] * by
                    gamma, alpha = gamma - by, alpha + by
                yield TripleTerms(place, whole, alpha, gamma)

    def describe(self, grid: NeighbourGrid, elements: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n f"], Tensor]:
        """Return the vectors of the grid's atoms, and their elements, by which derivatives are scaled."""
        n, a, w = grid.n_atoms, grid.n_elements, grid.width
        value, _ = self._radials(grid)
        radial = torch.einsum("ka,nar->nkr", self._weights, value.view(n, a, w, -1).sum(2)).flatten(1)
        blocks = torch.zeros((n, len(self._pairs), self.acsf.functions.n_angular), device=self.device, dtype=self.dtype)
        for triple in self._triples(grid, derivatives=False):
            sums = triple.value.view(n, a, w, a, w).sum((2, 4))
            blocks[:, :, triple.place] = 0.5 * torch.einsum("cab,nab->nc", self._pairs, sums)
        bare = torch.cat([radial, blocks.flatten(1)], dim=1)
        standard = self.acsf.standard
        if standard is not None and self._scales is not None:
            bare = (bare - self._there(standard.shifts)[elements]) * self._scales[elements, 1:]
        centre = torch.full((n, 1), float(self.acsf.centre), device=self.device, dtype=self.dtype)
        return torch.cat([centre, bare], dim=1), elements[:, None].to(self.dtype)

    def pull(self, grid: NeighbourGrid, c: Tensor, gradient: Float[Tensor, "n f"]) -> Float[Tensor, "inside 3"]:
        """Return dE/dr of every pair of the grid, given dE/d(vectors)."""
        n, a, w, slots = grid.n_atoms, grid.n_elements, grid.width, grid.slots
        if self._scales is not None:
            gradient = gradient * self._scales[c[:, 0].long()]
        r, vectors, _ = self._near(grid)
        edge = 1 + len(self._weights) * self._radial.shape[1]
        radial = torch.einsum("ka,nkr->nar", self._weights, gradient[:, 1:edge].view(n, len(self._weights), -1))
        _, slope = self._radials(grid)
        along = (slope.view(n, a, w, -1) * radial[:, :, None]).sum(-1).view(n, slots) / r
        result = along[..., None] * vectors
        angular = gradient[:, edge:].view(n, len(self._pairs), -1)
        for triple in self._triples(grid, derivatives=True):
            weight = torch.einsum("cab,nc->nab", self._pairs, angular[:, :, triple.place])
            weight = weight[:, :, None, :, None].expand(n, a, w, a, w).reshape(n, slots, slots)
            alpha, gamma = _given(triple)
            result += (weight * alpha).sum(2, keepdim=True) * vectors + torch.matmul(weight * gamma, vectors)
        return result.reshape(-1, 3)[grid.place]

    def changes(self, grid: NeighbourGrid, c: Tensor, norm: Float[Tensor, " n"] | None) -> Float[Tensor, "n 3 slots f"]:
        """Return ∂(vectors)/∂r of every slot, over the norm of each atom's vector where it is given."""
        n, a, w, slots = grid.n_atoms, grid.n_elements, grid.width, grid.slots
        r, vectors, _ = self._near(grid)
        result = torch.zeros((n, 3, slots, self.acsf.n_features), device=self.device, dtype=self.dtype)
        edge = 1 + len(self._weights) * self._radial.shape[1]
        _, slope = self._radials(grid)
        along = torch.einsum("ka,nawr->nawkr", self._weights, (slope / r[..., None]).view(n, a, w, -1))
        along = along.reshape(n, 1, slots, -1)
        result[..., 1:edge] = vectors.transpose(1, 2)[..., None] * along
        blocks = result[..., edge:].view(n, 3, slots, len(self._pairs), -1)
        by_element = vectors.view(n, 1, a, w, 3)
        for triple in self._triples(grid, derivatives=True):
            alpha, gamma = (part.view(n, slots, a, w) for part in _given(triple))
            # For each j and each element b of k: r_j Σ_k α + Σ_k γ r_k.
            moved = alpha.sum(-1)[..., None] * vectors[:, :, None]
            moved += (gamma[..., None] * by_element).sum(3)
            moved = moved.view(n, a, w, a, 3)
            blocks[..., triple.place] = torch.einsum("cab,nawbx->nxawc", self._pairs, moved).reshape(n, 3, slots, -1)
        if self._scales is not None:
            result *= self._scales[c[:, 0].long()][:, None, None]
        return result if norm is None else result / norm.to(self.dtype)[:, None, None, None]

    def backwards(self, grid: NeighbourGrid, there: DeviceBatch, c: Tensor) -> Float[Tensor, "n 3 slots f"]:
        """Return ∂(vector of j)/∂r_i for every neighbour j of the grid's atoms i.

        The triples are those of j, so that the derivatives of all atoms are made, a piece at a time.
        """
        n_pairs = len(there.batch.first)
        wanted = torch.full((n_pairs,), -1, dtype=torch.long, device=self.device)
        wanted[there.reverse[grid.pair]] = grid.place
        result = torch.zeros((grid.n_atoms * grid.slots, 3, self.acsf.n_features), device=self.device, dtype=self.dtype)
        budget = working_bytes(self.device, count())
        for start, stop in pieces(there.batch.n_atoms, self.jacobian_bytes(there, 0), budget):
            other = self.grid(there, start, stop)
            place = wanted[other.pair]
            kept = place >= 0
            if not bool(kept.any()):
                continue
            moved = self.changes(other, c[start:stop], None).transpose(1, 2).flatten(0, 1)
            result[place[kept]] = moved[other.place[kept]]
        return result.view(grid.n_atoms, grid.slots, 3, -1).transpose(1, 2)


def _given(triple: TripleTerms) -> tuple[Tensor, Tensor]:
    if triple.alpha is None or triple.gamma is None:
        raise ValueError("these derivatives were not asked for")
    return triple.alpha, triple.gamma
