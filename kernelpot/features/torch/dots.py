"""Kernels of dot products with their derivatives on tensors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from kernelpot.kernels import DotProduct, Gaussian, Kernel


def value(kernel: Kernel, s: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """k(s) at amplitude 1."""
    power, length = _sizes(kernel)
    return s**power if length is None else torch.exp((s - 1.0) / length**2)


def slope(kernel: Kernel, s: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """First derivative with respect to s."""
    power, length = _sizes(kernel)
    if length is not None:
        return torch.exp((s - 1.0) / length**2) / length**2
    return torch.ones_like(s) if power == 1 else power * s ** (power - 1)


def curvature(kernel: Kernel, s: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Second derivative with respect to s."""
    power, length = _sizes(kernel)
    if length is not None:
        return torch.exp((s - 1.0) / length**2) / length**4
    return torch.zeros_like(s) if power == 1 else power * (power - 1) * s ** (power - 2)


def _sizes(kernel: Kernel) -> tuple[int, float | None]:
    """Return the power of a dot product, or the length of a Gaussian."""
    if isinstance(kernel, Gaussian):
        return 0, float(kernel.length)
    if isinstance(kernel, DotProduct):
        return int(kernel.zeta), None
    raise TypeError(f"{type(kernel).__name__} has no formula on tensors")
