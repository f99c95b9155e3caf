"""Real spherical harmonics and their gradients as a few large tensor operations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import pi

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kernelpot.descriptors.harmonics import fill, gradients, recurrence


@dataclass(frozen=True, eq=False)
class Harmonics:
    """Y_lm, lm = l² + l + m, of `kernelpot.descriptors.harmonics` for many unit vectors at once.

    Attributes
    ----------
    l_max
        Highest degree.
    table
        Recurrence coefficients.
    ladder
        D of `ladder_of`.
    """

    l_max: int
    table: Float[Tensor, "5 lm"]
    ladder: Float[Tensor, "3 lm lower"]

    @classmethod
    def make(cls, l_max: int, device: str, dtype: torch.dtype) -> Harmonics:
        """Put the constants on a device."""
        table, ladder = recurrence(l_max), ladder_of(l_max)
        return cls(
            l_max,
            torch.as_tensor(table, device=device, dtype=dtype),
            torch.as_tensor(ladder, device=device, dtype=dtype),
        )

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
    fill(l_max, n, u, recurrence(l_max), q, c, s)
    gradients(l_max, n, recurrence(l_max), u, np.ones(n), q, c, s, y, dy)
    degree = np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)
    solid = dy + degree[:, None] * y * u[:, None]
    ladder = np.einsum("xap,bp,p->xab", solid, y[: l_max**2], weights)
    below = np.repeat(np.arange(l_max), 2 * np.arange(l_max) + 1)
    ladder[:, degree[:, None] != below + 1] = 0.0
    ladder[np.abs(ladder) < 1e-13] = 0.0
    return ladder
