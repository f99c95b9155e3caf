"""Symmetry functions in plain PyTorch, differentiable as often as wanted."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.data.batch import Batch
from kernelpot.descriptors.acsf.definition import ACSF
from kernelpot.descriptors.soap.reference import pair_vectors


@dataclass(frozen=True, eq=False)
class AcsfTorch:
    """An `ACSF` whose vectors PyTorch can differentiate; the reference for the compiled loops.

    It lists every triple of atoms and reads no table.

    Attributes
    ----------
    acsf
        What to compute; it has its species.
    device, dtype
        Where and in which precision.
    """

    acsf: ACSF
    device: str = "cpu"
    dtype: torch.dtype = torch.float64

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.device, dtype=self.dtype)

    def _index(self, array: Int[np.ndarray, " n"]) -> Int[Tensor, " n"]:
        return torch.as_tensor(array, device=self.device)

    def vectors(
        self,
        batch: Batch,
        positions: Float[Tensor, "atoms 3"] | None = None,
        strain: Float[Tensor, "structures 3 3"] | None = None,
    ) -> Float[Tensor, "atoms f"]:
        """Return the vector of every atom.

        Parameters
        ----------
        batch
            Structures with pairs up to the cutoff or beyond.
        positions
            Cartesian positions, Å, that replace those of the batch; may require gradients.
        strain
            Strain of each structure, symmetrised here, as for `SoapTorch.vectors`.

        Raises
        ------
        ParameterError
            The batch lists pairs up to less than the cutoff.
        """
        acsf = self.acsf
        acsf.check_reach(batch)
        species = acsf.species_index(batch.numbers)
        r = pair_vectors(batch, self.device, self.dtype, positions, strain)
        inside = np.flatnonzero(r.detach().square().sum(1).cpu().numpy() < acsf.cutoff**2)
        r = r[self._index(inside)]
        first, element = batch.first[inside], species[batch.second[inside]]
        bare = torch.cat([self._radial(batch, r, first, element), self._angular(batch, r, first, element)], dim=1)
        if acsf.standard is not None:
            bare = (bare - self._tensor(acsf.standard.shifts[species])) * self._tensor(acsf.standard.scales[species])
        centre = torch.full((batch.n_atoms, 1), float(acsf.centre), device=self.device, dtype=self.dtype)
        return torch.cat([centre, bare], dim=1)

    def _radial(
        self,
        batch: Batch,
        r: Float[Tensor, "pairs 3"],
        first: Int[np.ndarray, " pairs"],
        element: Int[np.ndarray, " pairs"],
    ) -> Float[Tensor, "atoms channels_times_radial"]:
        d = torch.linalg.vector_norm(r, dim=1)[:, None]
        eta, shift, kappa = self._tensor(self.acsf.functions.radial)
        values = torch.exp(-eta * (d - shift) ** 2) * torch.cos(kappa * d) * self._cutoff(d)
        weights = self._tensor(self.acsf.weights[:, element])
        products = (weights.T[:, :, None] * values[:, None]).flatten(1)
        shape = (batch.n_atoms, products.shape[1])
        return torch.zeros(shape, device=self.device, dtype=self.dtype).index_add(0, self._index(first), products)

    def _angular(
        self,
        batch: Batch,
        r: Float[Tensor, "pairs 3"],
        first: Int[np.ndarray, " pairs"],
        element: Int[np.ndarray, " pairs"],
    ) -> Float[Tensor, "atoms blocks_times_angular"]:
        functions = self.acsf.functions
        j, k = triples(first)
        rj, rk = r[self._index(j)], r[self._index(k)]
        dj, dk, far = (torch.linalg.vector_norm(x, dim=1) for x in (rj, rk, rk - rj))
        c = ((rj * rk).sum(1) / (dj * dk)).clamp(-1.0, 1.0)
        near = self._cutoff(dj) * self._cutoff(dk)
        parts = []
        for kind, rows in enumerate((functions.g4, functions.g5)):
            for eta, zeta, weight in rows:
                value = 2.0 * (0.5 + 0.5 * weight * c).clamp(min=0.0) ** zeta * torch.exp(-eta * (dj**2 + dk**2)) * near
                parts.append(value if kind else value * torch.exp(-eta * far**2) * self._cutoff(far))
        a, b = element[j], element[k]
        high, low = np.maximum(a, b), np.minimum(a, b)
        blocks = self.acsf.weights[:, a] * self.acsf.weights[:, b]
        if self.acsf.channels is None:
            n = len(self.acsf.weights)
            blocks = np.eye(n * (n + 1) // 2)[:, high * (high + 1) // 2 + low]
        if not parts:
            return torch.zeros((batch.n_atoms, 0), device=self.device, dtype=self.dtype)
        products = (self._tensor(blocks.T)[:, :, None] * torch.stack(parts, dim=1)[:, None]).flatten(1)
        shape = (batch.n_atoms, products.shape[1])
        return torch.zeros(shape, device=self.device, dtype=self.dtype).index_add(0, self._index(first[j]), products)

    def _cutoff(self, r: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        x = r / self.acsf.cutoff
        inside = (x.detach() < 1.0).to(self.dtype)
        if self.acsf.cutoff_function == "polynomial":
            return (1.0 - x * x) ** 3 * inside
        return 0.5 * (1.0 + torch.cos(pi * x)) * inside


def triples(first: Int[np.ndarray, " pairs"]) -> tuple[Int[np.ndarray, " triples"], Int[np.ndarray, " triples"]]:
    """Return the numbers j < k of every two pairs of one centre, given the centres in rising order."""
    more = np.searchsorted(first, first, side="right") - np.arange(len(first)) - 1
    j = np.repeat(np.arange(len(first)), more)
    begins = np.cumsum(more) - more
    return j, j + 1 + np.arange(len(j)) - np.repeat(begins, more)
