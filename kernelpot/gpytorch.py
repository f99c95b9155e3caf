"""kernelpot's kernels for GPyTorch models: `gpytorch.kernels.Kernel` subclasses that compose with any other.

A structure becomes one row of a tensor (`encode`); `StructureKernel` then sums any kernel of environments over the
atoms of two structures. Amplitudes are left to `gpytorch.kernels.ScaleKernel`, sums to ``+``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from jaxtyping import Float
from torch import Tensor

from kernelpot.data.batch import Batch
from kernelpot.data.stream import chunks
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.errors import ParameterError
from kernelpot.features.vectors import unit
from kernelpot.kernels import DotProduct

if TYPE_CHECKING:
    from ase import Atoms

SCALES = ("total", "per_atom", "cosine")

ENTRIES = 10_000_000
"""Pairs of environments at a time."""

__all__ = ["DotProductKernel", "StructureKernel", "encode"]


def encode(
    structures: Sequence[Atoms], descriptor: Descriptor, *, n_atoms: int | None = None, device: str = "cpu"
) -> Float[Tensor, "structures atoms_times_f_plus_1"]:
    """Return structures as rows of a tensor, for `StructureKernel`.

    A row holds, for each atom, its atomic number followed by its unit environment vector; zeros fill it up.

    Parameters
    ----------
    structures
        Structures; labels are not looked at.
    descriptor
        With its species set, so that all sets of structures are described alike.
    n_atoms
        Room for so many atoms; None: those of the largest structure. Training and test structures need the same.
    device
        PyTorch's name of the device that the tensor shall be on.

    Raises
    ------
    ParameterError
        The descriptor has no species, there is no structure, or one does not fit.
    """
    if descriptor.species is None:
        raise ParameterError("`descriptor` needs its species; pass species=(14,) or call with_species first.")
    if len(structures) == 0:
        raise ParameterError("`structures` must hold at least one structure, got none.")
    largest = max(len(atoms) for atoms in structures)
    room = largest if n_atoms is None else n_atoms
    if room < largest:
        raise ParameterError(
            f"`n_atoms` must be at least the atoms of the largest structure ({largest}), got {n_atoms}; leave room for "
            "the largest of all structures that the model will see."
        )
    rows = None
    for start, stop in chunks(structures):
        batch = Batch.from_structures(structures[start:stop], descriptor.cutoff, start=start)
        x, _ = unit(descriptor.environments(batch).vectors)
        if rows is None:
            rows = np.zeros((len(structures), room, x.shape[1] + 1))
        place = np.arange(batch.n_atoms) - batch.offsets[batch.structure]
        rows[start + batch.structure, place, 0] = batch.numbers
        rows[start + batch.structure, place, 1:] = x
    return torch.as_tensor(rows, device=device).flatten(1)


class DotProductKernel(Kernel):
    """k(x, z) = (x·z / |x||z|)^zeta of environment vectors (Bartók et al., Phys. Rev. B 87, 184115 (2013), eq. 36).

    It has no parameters: wrap it in `gpytorch.kernels.ScaleKernel` for an amplitude.

    Parameters
    ----------
    zeta
        Whole power, at least 1.
    normalise
        False where the vectors are of unit length already; vectors of length zero stay as they are.
    **settings
        Of `gpytorch.kernels.Kernel`, such as ``active_dims``.

    Raises
    ------
    ParameterError
        zeta breaks its rule.
    """

    def __init__(self, zeta: int = 2, *, normalise: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.zeta = int(DotProduct(zeta).zeta)
        self.normalise = normalise

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **parameters: Any) -> Tensor:  # noqa: ARG002
        """Return the kernel matrix, or with `diag` its diagonal."""
        if self.normalise:
            x1, x2 = (torch.nn.functional.normalize(x, dim=-1) for x in (x1, x2))
        dots = (x1 * x2).sum(-1) if diag else torch.matmul(x1, x2.transpose(-1, -2))
        return dots**self.zeta


class StructureKernel(Kernel):
    """K(s, s') = Σ_ij δ(Z_i, Z_j) k(x_i, x_j) over the atoms of two structures, as `encode` writes them.

    The covariance of total energies whose local energies are independent Gaussian processes for each element (Bartók
    et al., Phys. Rev. Lett. 104, 136403 (2010)). It costs atoms² kernel values for each pair of structures: for
    energies of some thousand small structures; `kernelpot.SparseGP` is for forces and for more.

    Parameters
    ----------
    base_kernel
        Any kernel of GPyTorch for environment vectors: `DotProductKernel`, `RBFKernel`, sums, products.
    n_features
        Length of an environment vector, ``descriptor.n_features``.
    scale
        "total": covariance of total energies. "per_atom": of energies per atom, K/(N N'). "cosine":
        K/√(K(s, s) K(s', s')), for properties that do not grow with size.
    **settings
        Of `gpytorch.kernels.Kernel`.

    Raises
    ------
    ParameterError
        `scale` is unknown, or rows have another length than `encode` makes.
    """

    def __init__(self, base_kernel: Kernel, n_features: int, *, scale: str = "total", **settings: Any) -> None:
        super().__init__(**settings)
        if scale not in SCALES:
            raise ParameterError(f"`scale` must be one of {', '.join(SCALES)}, got {scale!r}.")
        self.base_kernel = base_kernel
        self.n_features = int(n_features)
        self.scale = scale

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **parameters: Any) -> Tensor:
        """Return the kernel matrix of structures, or with `diag` its diagonal."""
        one, two = self._atoms(x1), self._atoms(x2)
        if diag:
            if self.scale == "cosine":
                return torch.ones(x1.shape[:-1], dtype=x1.dtype, device=x1.device)
            return self._own(one, **parameters) / self._size(one) ** 2
        width = max(1, ENTRIES // max(1, one.shape[-2] * two.shape[-3] * two.shape[-2]))
        # A piece of the first structures at a time, so that memory stays bounded.
        cuts = range(0, one.shape[-3], width)
        blocks = [self._block(one[..., start : start + width, :, :], two, **parameters) for start in cuts]
        result = torch.cat(blocks, dim=-2)
        if self.scale == "cosine":
            first, second = (torch.rsqrt(self._own(part, **parameters)) for part in (one, two))
            return result * first[..., :, None] * second[..., None, :]
        return result / (self._size(one)[..., :, None] * self._size(two)[..., None, :])

    def _atoms(self, x: Tensor) -> Float[Tensor, "*batch structures atoms f_plus_1"]:
        if x.shape[-1] % (self.n_features + 1):
            raise ParameterError(
                f"a row must hold n_features + 1 = {self.n_features + 1} numbers for each atom, got rows of length "
                f"{x.shape[-1]}; make them with kernelpot.gpytorch.encode and its descriptor's n_features."
            )
        return x.reshape(*x.shape[:-1], -1, self.n_features + 1)

    def _size(self, atoms: Tensor) -> Tensor:
        """Return what a structure's sums are divided by."""
        counts = (atoms[..., 0] > 0).sum(-1)
        return counts.to(atoms.dtype) if self.scale == "per_atom" else torch.ones_like(counts, dtype=atoms.dtype)

    def _block(self, one: Tensor, two: Tensor, **parameters: Any) -> Float[Tensor, "*batch n1 n2"]:
        """Sum the kernel of all environments over the atoms of each pair of structures."""
        first, second = one.flatten(-3, -2), two.flatten(-3, -2)
        values = self.base_kernel(first[..., 1:], second[..., 1:], **parameters).to_dense()
        values = values * _same(first[..., 0], second[..., 0])
        return values.reshape(*values.shape[:-2], *one.shape[-3:-1], *two.shape[-3:-1]).sum((-3, -1))

    def _own(self, atoms: Tensor, **parameters: Any) -> Float[Tensor, "*batch n"]:
        """Return K(s, s); structures become the outermost batch, so that kernels of several batches broadcast."""
        apart = atoms.movedim(-3, 0)
        values = self.base_kernel(apart[..., 1:], apart[..., 1:], **parameters).to_dense()
        return (values * _same(apart[..., 0], apart[..., 0])).sum((-1, -2)).movedim(0, -1)


def _same(first: Tensor, second: Tensor) -> Tensor:
    """Tell which atoms are of one element, and are atoms at all."""
    return (first[..., :, None] == second[..., None, :]) & (first > 0)[..., :, None]
