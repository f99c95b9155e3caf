"""The power spectrum on a device, with its transpose and its Jacobian by explicit formulas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import pi, sqrt

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.data.batch import Batch
from kernelpot.descriptors.grid import DeviceBatch, DeviceTable, Harmonics, NeighbourGrid
from kernelpot.descriptors.protocol import check_reach
from kernelpot.descriptors.soap.definition import SOAP


@dataclass(frozen=True, eq=False)
class SoapEngine:
    """What `soap.loops` does for single neighbours, as batched matrix products over a `NeighbourGrid`.

    Derivatives are written out: reverse-mode differentiation stores every step of the harmonics, and
    takes one pass for each column of a Jacobian.
    """

    soap: SOAP  # With its species
    device: str  # PyTorch's name of the device
    dtype: torch.dtype  # Precision of densities, spectra and derivatives; distances are float64

    @cached_property
    def _table(self) -> DeviceTable:
        table = self.soap.table
        return DeviceTable.make(table.nodes, table.step, self.device, self.dtype)

    @cached_property
    def _harmonics(self) -> Harmonics:
        return Harmonics.make(self.soap.l_max, self.device, self.dtype)

    @cached_property
    def _mixing(self) -> Float[Tensor, "channels species"]:
        return torch.as_tensor(self.soap.weights, device=self.device, dtype=self.dtype)

    @cached_property
    def _triangle(self) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"], Float[Tensor, " pairs"]]:
        """K and k' of each component of one l, and √(2 - δ_kk')."""
        rows, columns = np.triu_indices(self.size)
        weight = np.where(rows == columns, 1.0, sqrt(2.0))
        there = [torch.as_tensor(array, device=self.device) for array in (rows, columns)]
        return there[0], there[1], torch.as_tensor(weight, device=self.device, dtype=self.dtype)

    @cached_property
    def _square(self) -> tuple[Int[Tensor, " k_times_k"], Float[Tensor, " k_times_k"]]:
        """Component that every entry of a K x K square belongs to, and the weight of its derivative over f_l."""
        rows, columns = np.triu_indices(self.size)
        square = np.zeros((self.size, self.size), dtype=np.int64)
        square[rows, columns] = square[columns, rows] = np.arange(len(rows))
        weight = np.where(np.eye(self.size, dtype=bool), 2.0, sqrt(2.0))
        return (
            torch.as_tensor(square.ravel(), device=self.device),
            torch.as_tensor(weight.ravel(), device=self.device, dtype=self.dtype),
        )

    @property
    def size(self) -> int:
        """K, channels times radial functions."""
        return self.soap.n_channels * self.soap.n_max

    def check_reach(self, batch: Batch) -> None:
        """Refuse a batch without the pairs that the cutoff needs."""
        check_reach(self.soap, batch)

    @property
    def n_elements(self) -> int:
        """Elements that neighbours are told apart by."""
        return len(self.soap.species or ())

    @property
    def _lm(self) -> int:
        return (self.soap.l_max + 1) ** 2

    def _degrees(self) -> list[tuple[int, slice]]:
        """Return every l with its places among the lm."""
        return [(l, slice(l * l, (l + 1) ** 2)) for l in range(self.soap.l_max + 1)]  # noqa: E741

    def value_bytes(self, there: DeviceBatch) -> float:
        """Return the memory that one atom takes in `grid`, `coefficients`, `spectrum` and their transposes."""
        slots = there.most_neighbours * min(2, self.n_elements)
        per_slot = 6 * self._lm + 5 * (self.soap.l_max + 1) * self.soap.n_max + 60
        return 8.0 * (slots * per_slot + 5 * self._lm * self.size + 6 * self.soap.n_features)

    def jacobian_bytes(self, there: DeviceBatch, columns: int) -> float:
        """Return the memory that one atom takes in `jacobian` and its product with that many columns."""
        slots = there.most_neighbours * min(2, self.n_elements)
        return self.value_bytes(there) + 8.0 * slots * 3 * (2 * self.soap.n_features + 3 * columns)

    def grid(self, there: DeviceBatch, start: int, stop: int) -> NeighbourGrid:
        """Sort the neighbours of atoms ``start:stop`` into slots."""
        return NeighbourGrid.make(
            there, start, stop, n_elements=self.n_elements, cutoff=self.soap.cutoff, fade_width=self.soap.fade_width,
            table=self._table, harmonics=self._harmonics,
        )  # fmt: skip

    def _blocks(self, grid: NeighbourGrid, flat: Float[Tensor, "slots columns"]) -> Float[Tensor, "lists w l n"]:
        return flat.view(-1, grid.width, self.soap.l_max + 1, self.soap.n_max)

    def coefficients(self, grid: NeighbourGrid, elements: Int[Tensor, " n"]) -> Float[Tensor, "n lm k"]:
        """Return c[i, lm, k] as `SOAP.coefficients` defines it, given the elements of the grid's atoms."""
        soap, n_lists = self.soap, grid.n_atoms * grid.n_elements
        radial = self._blocks(grid, grid.radial)
        angular = grid.angular.view(self._lm, n_lists, grid.width).transpose(0, 1)
        parts = [torch.bmm(angular[:, here], radial[:, :, degree]) for degree, here in self._degrees()]
        c = torch.cat(parts, dim=1).view(grid.n_atoms, grid.n_elements, self._lm, soap.n_max)
        own = self._table.nodes[0, : soap.n_max] / sqrt(4.0 * pi)
        c[torch.arange(grid.n_atoms, device=self.device), elements, 0] += own
        if soap.channels is not None:
            c = torch.einsum("ka,iamn->ikmn", self._mixing, c)
        return c.transpose(1, 2).reshape(grid.n_atoms, self._lm, self.size)

    def spectrum(self, c: Float[Tensor, "n lm k"]) -> Float[Tensor, "n f"]:
        """Return p[i, (l, k ≤ k')] = f_l √(2 - δ_kk') Σ_m c[i, lm, k] c[i, lm, k'], f_l = π √(8/(2l+1))."""
        rows, columns, weight = self._triangle
        parts = []
        for degree, here in self._degrees():
            block = c[:, here]
            square = torch.bmm(block.transpose(1, 2), block).flatten(1)
            parts.append(square.index_select(1, rows * self.size + columns) * (prefactor(degree) * weight))
        return torch.cat(parts, dim=1)

    def spectrum_vjp(self, c: Float[Tensor, "n lm k"], gradient: Float[Tensor, "n f"]) -> Float[Tensor, "n lm k"]:
        """Return dE/dc, given dE/dp."""
        component, weight = self._square
        size, parts = len(self._triangle[0]), []
        for degree, here in self._degrees():
            square = gradient[:, degree * size : (degree + 1) * size].index_select(1, component) * (
                prefactor(degree) * weight
            )
            parts.append(torch.bmm(c[:, here], square.view(-1, self.size, self.size)))
        return torch.cat(parts, dim=1)

    def vjp(self, grid: NeighbourGrid, gradient: Float[Tensor, "n lm k"]) -> Float[Tensor, "inside 3"]:
        """Return dE/dr of every pair of the grid, given dE/dc of its atoms."""
        soap = self.soap
        apart = gradient.view(grid.n_atoms, self._lm, -1, soap.n_max)
        if soap.channels is not None:
            apart = torch.einsum("ka,imkn->iman", self._mixing, apart)
        apart = apart.transpose(1, 2).reshape(-1, self._lm, soap.n_max)

        def against(flat: Float[Tensor, "slots columns"]) -> Float[Tensor, "lm slots"]:
            radial = self._blocks(grid, flat)
            parts = [
                torch.bmm(apart[:, here], radial[:, :, degree].transpose(1, 2)) for degree, here in self._degrees()
            ]
            return torch.cat(parts, dim=1).transpose(0, 1).reshape(self._lm, -1)

        turn = grid.harmonics.contracted(grid.directions, grid.lengths, grid.angular, against(grid.radial))
        stretch = (against(grid.radial_slope) * grid.angular).sum(0)
        return (turn + stretch * grid.directions)[:, grid.place].T

    def jacobian(self, grid: NeighbourGrid, c: Float[Tensor, "n lm k"]) -> Float[Tensor, "n 3 slots f"]:
        """Return ∂p/∂r of every slot.

        ∂c[lm, k]/∂x = R_k ∂_x Y_lm + u_x R'_k Y_lm has rank two in (m, k), so with T_k = Σ_m ∂_x Y_lm c[lm, k] and
        V_k = u_x Σ_m Y_lm c[lm, k]: ∂p[l, k, k']/∂x ∝ R_k T_k' + R_k' T_k + R'_k V_k' + R'_k' V_k.
        """
        n, slots = grid.n_atoms, grid.slots
        turned = grid.harmonics.gradients(grid.directions, grid.lengths, grid.angular).view(3, self._lm, n, slots)
        angular = grid.angular.view(self._lm, n, slots)
        turn = [torch.matmul(turned[:, here].permute(2, 0, 3, 1), c[:, None, here]) for _, here in self._degrees()]
        stretch = [torch.matmul(angular[here].permute(1, 2, 0), c[:, here]) for _, here in self._degrees()]
        value, slope = (self._in_channels(grid, flat) for flat in (grid.radial, grid.radial_slope))
        return self._outer(grid, value, slope, turn, stretch)

    def jacobian_backwards(
        self, grid: NeighbourGrid, c: Float[Tensor, "atoms lm k"], elements: Int[Tensor, " atoms"]
    ) -> Float[Tensor, "n 3 slots f"]:
        """Return ∂p_j/∂r_i for every neighbour j of the grid's atoms i, given the coefficients of all atoms.

        The vector from j to i is that from i to j reversed, where Y_lm has the sign (-1)^l and its gradient (-1)^(l+1);
        what counts in the channels is the element of i.
        """
        n, slots = grid.n_atoms, grid.slots
        there = c[grid.target].view(n, slots, self._lm, self.size)
        turned = grid.harmonics.gradients(grid.directions, grid.lengths, grid.angular).view(3, self._lm, n, slots)
        angular = grid.angular.view(self._lm, n, slots)
        turn, stretch = [], []
        for degree, here in self._degrees():
            sign = 1.0 if degree % 2 else -1.0
            turn.append(sign * torch.einsum("xmns,nsmk->nxsk", turned[:, here], there[:, :, here]))
            # -(-1)^l: the sign of the harmonic times that of the direction, which multiplies below.
            stretch.append(sign * torch.einsum("mns,nsmk->nsk", angular[here], there[:, :, here]))
        channels = self._mixing[:, elements[grid.start : grid.stop]].T[:, None, None, :, None]
        shape = (n, slots, self.soap.l_max + 1, 1, self.soap.n_max)
        value, slope = (
            (channels * flat.view(shape)).reshape(n, slots, self.soap.l_max + 1, self.size)
            for flat in (grid.radial, grid.radial_slope)
        )
        return self._outer(grid, value, slope, turn, stretch)

    def describe(
        self, grid: NeighbourGrid, elements: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n f"], Float[Tensor, "n lm k"]]:
        """Return the power spectra of the grid's atoms, with their coefficients."""
        c = self.coefficients(grid, elements)
        return self.spectrum(c), c

    def pull(
        self, grid: NeighbourGrid, c: Float[Tensor, "n lm k"], gradient: Float[Tensor, "n f"]
    ) -> Float[Tensor, "inside 3"]:
        """Return dE/dr of every pair of the grid, given dE/dp."""
        return self.vjp(grid, self.spectrum_vjp(c, gradient))

    def changes(
        self, grid: NeighbourGrid, c: Float[Tensor, "n lm k"], norm: Float[Tensor, " n"] | None
    ) -> Float[Tensor, "n 3 slots f"]:
        """Return ∂p/∂r of every slot, over the norms where they are given."""
        # Derivatives of a square are linear in what is squared: the length goes out before they are made.
        return self.jacobian(grid, c if norm is None else c / norm[:, None, None].to(c.dtype))

    def backwards(
        self, grid: NeighbourGrid, there: DeviceBatch, c: Float[Tensor, "atoms lm k"]
    ) -> Float[Tensor, "n 3 slots f"]:
        """Return ∂p_j/∂r_i for every neighbour j of the grid's atoms i, given the coefficients of all atoms."""
        return self.jacobian_backwards(grid, c, there.elements)

    def _outer(
        self,
        grid: NeighbourGrid,
        value: Float[Tensor, "n slots l k"],
        slope: Float[Tensor, "n slots l k"],
        turn: list[Float[Tensor, "n 3 slots k"]],
        stretch: list[Float[Tensor, "n slots k"]],
    ) -> Float[Tensor, "n 3 slots f"]:
        """Return the symmetric products R_k T_k' + R_k' T_k + R'_k V_k' + R'_k' V_k of every degree."""
        n, slots = grid.n_atoms, grid.slots
        u = grid.directions.view(3, n, slots).transpose(0, 1)[..., None]
        rows, columns, weight = self._triangle
        size = len(rows)
        result = torch.empty((n, 3, slots, self.soap.n_features), device=self.device, dtype=self.dtype)
        for degree, _ in self._degrees():
            t, v = turn[degree], u * stretch[degree][:, None]
            part = result[..., degree * size : (degree + 1) * size]
            scale = prefactor(degree) * weight
            torch.mul((value[:, :, degree, rows] * scale)[:, None], t.index_select(-1, columns), out=part)
            part.addcmul_((value[:, :, degree, columns] * scale)[:, None], t.index_select(-1, rows))
            part.addcmul_((slope[:, :, degree, rows] * scale)[:, None], v.index_select(-1, columns))
            part.addcmul_((slope[:, :, degree, columns] * scale)[:, None], v.index_select(-1, rows))
        return result

    def _in_channels(self, grid: NeighbourGrid, flat: Float[Tensor, "slots columns"]) -> Float[Tensor, "n slots l k"]:
        """Return the radial functions of every slot times the weight of its element in each channel."""
        shape = (grid.n_atoms, grid.n_elements, grid.width, self.soap.l_max + 1, self.soap.n_max)
        if self.size == self.soap.n_max and self.soap.channels is None:
            return flat.view(grid.n_atoms, grid.slots, *shape[3:])
        mixed = torch.einsum("ka,iawln->iawlkn", self._mixing, flat.view(shape))
        return mixed.reshape(grid.n_atoms, grid.slots, self.soap.l_max + 1, self.size)


def prefactor(l: int) -> float:  # noqa: E741
    """Return f_l."""
    return pi * sqrt(8.0 / (2 * l + 1))
