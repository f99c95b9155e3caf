"""Vectors and their derivatives in plain PyTorch: slow, differentiable as often as wanted, what engines are held to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import pi, sqrt

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.data.batch import Batch
from kernelpot.descriptors.acsf.definition import ACSF
from kernelpot.descriptors.loops import recurrence
from kernelpot.descriptors.protocol import places
from kernelpot.descriptors.radial import GTO, hermite
from kernelpot.descriptors.soap.definition import SOAP


def pair_vectors(
    batch: Batch,
    device: str,
    dtype: torch.dtype,
    positions: Float[Tensor, "atoms 3"] | None = None,
    strain: Float[Tensor, "structures 3 3"] | None = None,
) -> Float[Tensor, "pairs 3"]:
    """Return the vector from the first to the second atom of each pair, Å; parameters as in `SoapTorch.vectors`."""
    if positions is None:
        positions = torch.as_tensor(batch.positions, device=device, dtype=dtype)
    first = torch.as_tensor(batch.first, device=device)
    second = torch.as_tensor(batch.second, device=device)
    result = positions[second] - positions[first] + torch.as_tensor(batch.shifts, device=device, dtype=dtype)
    if strain is not None:
        structure = torch.as_tensor(batch.structure[batch.first], device=device)
        symmetric = 0.5 * (strain + strain.transpose(1, 2))
        result = result + torch.einsum("pab,pb->pa", symmetric[structure], result)
    return result


@dataclass(frozen=True, eq=False)
class SoapTorch:
    """A `SOAP` whose vectors PyTorch can differentiate; the reference for the Numba engine.

    Attributes
    ----------
    soap
        What to compute; it has its species.
    device, dtype
        Where and in which precision.
    closed_form
        Evaluate `GTO` functions by their formula, smooth to every order, instead of from the table (C²). Second
        derivatives of the vectors exist either way.
    """

    soap: SOAP
    device: str = "cpu"
    dtype: torch.dtype = torch.float64
    closed_form: bool = False

    @cached_property
    def _tables(self) -> dict[str, Tensor]:
        soap = self.soap
        rows, columns = np.triu_indices(soap.n_channels * soap.n_max)
        arrays = {
            "nodes": soap.table.nodes,
            "recurrence": recurrence(self.soap.l_max),
            "mixing_elements": soap.weights,
            "weight": np.where(rows == columns, 1.0, sqrt(2.0)),
        }
        if isinstance(self.soap.basis, GTO):
            size = {"n_max": self.soap.n_max, "l_max": self.soap.l_max}
            decay, mixing = self.soap.basis.smeared(cutoff=self.soap.cutoff, sigma=self.soap.sigma, **size)
            arrays |= {"decay": decay, "mixing": mixing}
        tensors = {name: self._tensor(array) for name, array in arrays.items()}
        tensors["rows"] = torch.as_tensor(rows, device=self.device)
        tensors["columns"] = torch.as_tensor(columns, device=self.device)
        return tensors

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.device, dtype=self.dtype)

    def vectors(
        self,
        batch: Batch,
        positions: Float[Tensor, "atoms 3"] | None = None,
        strain: Float[Tensor, "structures 3 3"] | None = None,
    ) -> Float[Tensor, "atoms f"]:
        """Return the power spectrum of every atom, not normalised.

        Parameters
        ----------
        batch
            Structures with pairs up to the cutoff or beyond.
        positions
            Cartesian positions, Å, that replace those of the batch; may require gradients.
        strain
            Strain ε of each structure, r → r + ε r, symmetrised here; may require gradients. The derivative of an
            energy by a symmetric component, divided by the volume, is the stress in ASE's sign.
        """
        return self.power_spectrum(self.coefficients(batch, self.pair_vectors(batch, positions, strain)))

    def pair_vectors(
        self,
        batch: Batch,
        positions: Float[Tensor, "atoms 3"] | None = None,
        strain: Float[Tensor, "structures 3 3"] | None = None,
    ) -> Float[Tensor, "pairs 3"]:
        """Return the vector from the first to the second atom of each pair, Å; parameters as in `vectors`."""
        return pair_vectors(batch, self.device, self.dtype, positions, strain)

    def coefficients(self, batch: Batch, vectors: Float[Tensor, "pairs 3"]) -> Float[Tensor, "atoms lm k"]:
        """Return c[i, lm, k] as `SOAP.coefficients` defines it, for these pair vectors.

        Raises
        ------
        ParameterError
            The batch lists pairs up to less than the cutoff.
        """
        soap = self.soap
        species = torch.as_tensor(places(soap, batch), device=self.device)
        inside = torch.nonzero(vectors.detach().square().sum(1) < soap.cutoff**2).squeeze(1)
        first = torch.as_tensor(batch.first, device=self.device)[inside]
        neighbour = species[torch.as_tensor(batch.second, device=self.device)[inside]]
        r = torch.linalg.vector_norm(vectors[inside], dim=1)
        weighted = self.radial(r) * self.fade(r)[:, None, None]
        y = solid_harmonics(vectors[inside] / r[:, None], self._tables["recurrence"], soap.l_max)
        degree = torch.as_tensor(
            np.repeat(np.arange(soap.l_max + 1), 2 * np.arange(soap.l_max + 1) + 1), device=self.device
        )
        products = y[:, :, None] * weighted[:, degree, :]
        n_species = len(soap.species)
        shape = (batch.n_atoms * n_species, y.shape[1], soap.n_max)
        c = torch.zeros(shape, device=self.device, dtype=self.dtype)
        c = c.index_add(0, first * n_species + neighbour, products)
        centre = torch.zeros_like(c[0])
        centre[0] = self.radial(torch.zeros(1, device=self.device, dtype=self.dtype))[0, 0] / sqrt(4.0 * pi)
        atoms = torch.arange(batch.n_atoms, device=self.device)
        c = c.index_add(0, atoms * n_species + species, centre.expand(batch.n_atoms, -1, -1))
        c = c.reshape(batch.n_atoms, n_species, y.shape[1], soap.n_max)
        if soap.channels is not None:
            c = torch.einsum("ka,iamn->ikmn", self._tables["mixing_elements"], c)
        return c.transpose(1, 2).reshape(batch.n_atoms, y.shape[1], -1)

    def radial(self, r: Float[Tensor, " pairs"]) -> Float[Tensor, "pairs l n"]:
        """Return R_nl(r) without the fade, for distances up to the cutoff (the closed form: any distance)."""
        shape = (len(r), self.soap.l_max + 1, self.soap.n_max)
        if self.closed_form:
            gaussians = torch.exp(-self._tables["decay"] * r[:, None, None] ** 2)
            powers = r[:, None] ** torch.arange(shape[1], device=self.device)
            plain = powers[:, :, None] * torch.einsum("pln,lmn->plm", gaussians, self._tables["mixing"])
            if self.soap.scaling is None:
                return plain
            r0, m = self.soap.scaling
            return plain / (1.0 + (r / r0) ** m)[:, None, None]
        nodes = self._tables["nodes"]
        x = r / self.soap.table.step
        k = x.detach().long().clamp(max=len(nodes) - 2)
        weights = torch.stack(hermite(x - k), 1)
        ends = torch.cat([nodes[k], nodes[k + 1]], dim=1)
        return torch.einsum("pw,pwc->pc", weights, ends).reshape(shape)

    def fade(self, r: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """Return the weight of neighbours at distance r: 1, falling to 0 at the cutoff as 1 - 10t³ + 15t⁴ - 6t⁵."""
        if self.soap.fade_width == 0.0:
            return (r < self.soap.cutoff).to(self.dtype)
        t = ((r - self.soap.cutoff) / self.soap.fade_width + 1.0).clamp(0.0, 1.0)
        return 1.0 - t**3 * (10.0 - t * (15.0 - 6.0 * t))

    def power_spectrum(self, c: Float[Tensor, "atoms lm k"]) -> Float[Tensor, "atoms f"]:
        """Return p[i, (l, k ≤ k')] = f_l √(2 - δ_kk') Σ_m c[i, lm, k] c[i, lm, k'], f_l = π √(8/(2l+1))."""
        rows, columns, weight = (self._tables[name] for name in ("rows", "columns", "weight"))
        parts = []
        for l in range(self.soap.l_max + 1):  # noqa: E741
            block = c[:, l * l : (l + 1) * (l + 1)]
            square = torch.einsum("imk,imq->ikq", block, block)
            parts.append(pi * sqrt(8.0 / (2 * l + 1)) * weight * square[:, rows, columns])
        return torch.cat(parts, dim=1)


def solid_harmonics(u: Float[Tensor, "pairs 3"], table: Float[Tensor, "5 lm"], l_max: int) -> Float[Tensor, "pairs lm"]:
    """Return the real harmonics at unit vectors u, lm = l² + l + m, by the recurrences of `harmonics.recurrence`."""
    x, y, z = u.unbind(1)
    cosine, sine = [torch.ones_like(x)], [torch.zeros_like(x)]
    for m in range(l_max):
        cosine.append(x * cosine[m] - y * sine[m])
        sine.append(x * sine[m] + y * cosine[m])
    q: dict[tuple[int, int], Tensor] = {}
    columns: list[Tensor] = []
    for l in range(l_max + 1):  # noqa: E741
        for m in range(l + 1):
            k = l * (l + 1) // 2 + m
            if m == l:
                q[l, m] = table[0, k].expand_as(z)
            else:
                q[l, m] = table[1, k] * z * q[l - 1, m]
                if m <= l - 2:
                    q[l, m] = q[l, m] - table[2, k] * q[l - 2, m]
        columns += [q[l, -m] * sine[-m] for m in range(-l, 0)]
        columns += [q[l, m] * cosine[m] for m in range(l + 1)]
    return torch.stack(columns, dim=1)


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
        species = places(acsf, batch)
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
