"""Hyper-parameters of a kernel as one vector of logarithms, with weak priors."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from gpytorch.constraints import Interval
from jaxtyping import Float
from torch import Tensor

LARGEST = 40.0
"""Largest logarithm that is tried."""


@dataclass(frozen=True)
class Prior:
    """Normal density of a logarithm: its centre for every entry of the parameter, and its width."""

    centre: Float[np.ndarray, " k"]
    width: float


class Parameters:
    """The free parameters of a module: logarithms of what must be positive, the bare values of all others.

    A parameter without a prior of its own has a width of 2 about its present value.
    """

    def __init__(self, module: torch.nn.Module, priors: dict[str, Prior]) -> None:
        self.module = module
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self._parts = [p for _, p in named]
        self._bounds = [_lower_bound(module, name) for name in self.names]
        now = [self._get(p, low) for p, low in zip(self._parts, self._bounds, strict=True)]
        known = [priors.get(name, Prior(value, 2.0)) for name, value in zip(self.names, now, strict=True)]
        self.centre = _joined([np.broadcast_to(prior.centre, v.shape) for prior, v in zip(known, now, strict=True)])
        self.width = _joined([np.full(v.shape, prior.width) for prior, v in zip(known, now, strict=True)])

    def values(self) -> Float[np.ndarray, " p"]:
        """Return the parameters as they are."""
        return _joined([self._get(p, low) for p, low in zip(self._parts, self._bounds, strict=True)])

    def assign(self, theta: Float[np.ndarray, " p"]) -> None:
        """Set the parameters, forgetting their gradients."""
        for part, low, piece in zip(self._parts, self._bounds, self._split(theta), strict=True):
            with torch.no_grad():
                part.copy_(self._raw(low, torch.as_tensor(piece, dtype=part.dtype)).reshape(part.shape))
            part.grad = None

    def raw(self) -> Float[np.ndarray, " p"]:
        """Return what the module itself holds, which loses no digit."""
        return _joined([part.detach().cpu().reshape(-1).numpy() for part in self._parts])

    def assign_raw(self, raw: Float[np.ndarray, " p"]) -> None:
        """Set what `raw` has returned."""
        ends = np.cumsum([p.numel() for p in self._parts])
        for part, piece in zip(self._parts, np.split(raw, ends[:-1]), strict=True):
            with torch.no_grad():
                part.copy_(torch.as_tensor(piece, dtype=part.dtype).reshape(part.shape))

    def gradient(self) -> Float[np.ndarray, " p"]:
        """Return the gradient that backward passes have left, with respect to `values`."""
        found = []
        for part, low in zip(self._parts, self._bounds, strict=True):
            if part.grad is None:
                found.append(np.zeros(part.numel()))
                continue
            theta = torch.as_tensor(self._get(part, low), dtype=part.dtype).requires_grad_()
            torch.autograd.backward(self._raw(low, theta), part.grad.detach().cpu().reshape(-1))
            found.append(np.zeros(part.numel()) if theta.grad is None else theta.grad.numpy())
        return _joined(found)

    def _split(self, theta: Float[np.ndarray, " p"]) -> list[np.ndarray]:
        ends = np.cumsum([p.numel() for p in self._parts])
        return np.split(np.clip(theta, -LARGEST, LARGEST), ends[:-1])

    @staticmethod
    def _get(part: Tensor, low: Interval | None) -> Float[np.ndarray, " k"]:
        value = part.detach().cpu().reshape(-1)
        if low is not None:
            value = torch.log((low.transform(value) - low.lower_bound).clamp_min(np.exp(-LARGEST)))
        return value.numpy().copy()

    @staticmethod
    def _raw(low: Interval | None, theta: Tensor) -> Tensor:
        return theta if low is None else low.inverse_transform(low.lower_bound + torch.exp(theta))


def _lower_bound(module: torch.nn.Module, name: str) -> Interval | None:
    """Return the constraint of a parameter, on the CPU, if it is bounded from below alone."""
    find = getattr(module, "constraint_for_parameter_name", None)
    constraint = None if find is None else find(name)
    if constraint is None or not constraint.enforced:
        return None
    one_sided = bool(torch.isinf(constraint.upper_bound).all() and torch.isfinite(constraint.lower_bound).all())
    return copy.deepcopy(constraint).cpu().double() if one_sided else None


def _joined(parts: list[np.ndarray]) -> Float[np.ndarray, " p"]:
    return np.concatenate(parts) if parts else np.zeros(0)
