"""The kernel between energies and forces of whole structures, with exact second derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.kernels import DotProduct, Gaussian

CHUNK_BYTES = 16_000_000
"""Working set of one block on a CPU."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Structures of one composition, described with their derivatives: NumPy arrays, or tensors on a device.

    Attributes
    ----------
    index
        Places of the structures in the list that they come from.
    x
        Vectors of the environments, one array (structures, centres, f) for each centre species.
    j
        Their derivatives by every coordinate of the structure, Å⁻¹: arrays (structures, centres, 3 atoms, f).
    """

    index: Int[np.ndarray, " structures"]
    x: tuple[Any, ...]
    j: tuple[Any, ...]

    def __len__(self) -> int:
        """Count the structures."""
        return len(self.index)

    @property
    def n_coordinates(self) -> int:
        """Three for each atom of a structure."""
        return int(self.j[0].shape[2])

    def on(self, device: str) -> Frames:
        """Return the same as float64 tensors on a device of PyTorch."""
        import torch

        x, j = (tuple(torch.as_tensor(part, device=device) for part in parts) for parts in (self.x, self.j))
        return Frames(self.index, x, j)

    def take(self, chosen: slice) -> Frames:
        """Return a run of the structures."""
        return Frames(self.index[chosen], tuple(x[chosen] for x in self.x), tuple(j[chosen] for j in self.j))


@dataclass(frozen=True, eq=False)
class Block:
    """Kernel of one structure's labels with those of several, at amplitude 1; ``_d`` is ∂/∂r, so forces have minus it.

    Attributes
    ----------
    value
        ⟨E, E_t⟩.
    value_d
        ⟨E, ∂E_t/∂r_b⟩.
    d_value
        ⟨∂E/∂r_a, E_t⟩.
    d_d
        ⟨∂E/∂r_a, ∂E_t/∂r_b⟩.
    """

    value: Float[Any, " t"]
    value_d: Float[Any, "t b"]
    d_value: Float[Any, "a t"]
    d_d: Float[Any, "a t b"]

    def times(self, factor: float) -> Block:
        """Return every part multiplied by a number."""
        return Block(*(factor * part for part in self._parts))

    def plus(self, other: Block) -> Block:
        """Return the sum of two kernels."""
        return Block(*(one + two for one, two in zip(self._parts, other._parts, strict=True)))

    @property
    def _parts(self) -> tuple[Any, ...]:
        return self.value, self.value_d, self.d_value, self.d_d


def block(kernel: DotProduct | Gaussian, left: Frames, right: Frames) -> Block:
    """Return the kernel of one structure (`left` holds it alone) with each of `right`.

    With s = x_i·x_j and E = Σ_i e(x_i): ⟨∂E, ∂E'⟩ = Σ_ij k'(s) J_i·J_j + k''(s) (J_i·x_j)(x_i·J_j) over centres of one
    species. The first term is Σ_i J_i·W_i with W_i = Σ_j k'(s) J_j, so that pairs of centres cost a few operations and
    the products with F one per centre.
    """
    total: Block | None = None
    for x, j, x_right, j_right in zip(left.x, left.j, right.x, right.j, strict=True):
        if x.shape[1] and x_right.shape[1]:
            part = _species(kernel, x[0], j[0], x_right, j_right)
            total = part if total is None else total.plus(part)
    if total is None:
        n, a, b = len(right), left.n_coordinates, right.n_coordinates
        zeros = np.zeros if isinstance(left.x[0], np.ndarray) else left.x[0].new_zeros
        return Block(zeros(n), zeros((n, b)), zeros((a, n)), zeros((a, n, b)))
    return total


def derivatives(kernel: DotProduct | Gaussian, s: Any) -> tuple[Any, Any, Any]:
    """Return the kernel of dot products with its first two derivatives, for arrays and tensors alike."""
    if isinstance(s, np.ndarray):
        return kernel.value(s), kernel.slope(s), kernel.curvature(s)
    if isinstance(kernel, Gaussian):
        value = ((s - 1.0) / kernel.length**2).exp()
        return value, value / kernel.length**2, value / kernel.length**4
    zeta = kernel.zeta
    curvature = zeta * (zeta - 1) * s ** (zeta - 2) if zeta > 1 else s * 0.0
    return s**zeta, zeta * s ** (zeta - 1), curvature


def _species(kernel: DotProduct | Gaussian, x: Any, j: Any, x_right: Any, j_right: Any) -> Block:
    """Return the four parts of a block from the centres of one species."""
    n, a, f = j.shape
    t, m, b, _ = j_right.shape
    s = (x_right.reshape(t * m, f) @ x.T).reshape(t, m, n)
    value, slope, curvature = derivatives(kernel, s)
    # ∂s/∂r on either side: (t, a, n, m) and (t, n, m, b).
    left = (j.reshape(n * a, f) @ x_right.reshape(t * m, f).T).reshape(n, a, t, m).swapaxes(0, 2)
    right = (j_right.reshape(t * m * b, f) @ x.T).reshape(t, m, b, n).swapaxes(2, 3).swapaxes(1, 2)
    weight = slope.swapaxes(1, 2)
    right = right.reshape(t, n * m, b)
    value_d = (weight.reshape(t, 1, n * m) @ right)[:, 0]
    d_value = (left.reshape(t, a, n * m) @ weight.reshape(t, n * m, 1))[..., 0]
    bent = left * curvature.swapaxes(1, 2)[:, None]
    d_d = (bent.reshape(t, a, n * m) @ right).swapaxes(0, 1)
    return Block(value.sum(1).sum(1), value_d, d_value.swapaxes(0, 1), d_d + _inner(j, weight, j_right))


def _inner(j: Any, weight: Any, j_right: Any) -> Any:
    """Return Σ_ij weight[t, i, j] J_i[a]·J_tj[b]."""
    n, a, f = j.shape
    t, m, b, _ = j_right.shape
    if not isinstance(j, np.ndarray):
        w = (weight @ j_right.reshape(t, m, b * f)).reshape(t, n, b, f)
        w = w.swapaxes(0, 1).reshape(n, t * b, f)
        return (j @ w.swapaxes(1, 2)).sum(0).reshape(a, t, b)
    w = np.empty((n, t, b * f))
    # Written centre by centre, so that the products below see whole matrices.
    np.matmul(weight, j_right.reshape(t, m, b * f), out=w.swapaxes(0, 1))
    total = np.zeros((a, t * b))
    for one, other in zip(j, w, strict=True):
        total += one @ other.reshape(t * b, f).T
    return total.reshape(a, t, b)
