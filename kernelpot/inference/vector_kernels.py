"""Kernels of feature vectors, as GPyTorch has them: by name, or copied from a user's."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from gpytorch.kernels import Kernel, LinearKernel, MaternKernel, RBFKernel, RQKernel, ScaleKernel
from jaxtyping import Float

from kernelpot.errors import ParameterError
from kernelpot.inference.hyperparameters import Parameters, Prior
from kernelpot.rules import shown
from kernelpot.structures.site_kernel import SiteKernel

NAMES = ("rbf", "matern12", "matern32", "matern52", "rq", "linear")

LENGTH_WIDTH = 3.0**0.5
"""Width of the prior of log lengths (Hvarfner, Hellsten and Nardi (2024) take it about log √F)."""


def feature_kernel(
    kernel: str | Kernel, x: Float[np.ndarray, "n F"], *, ard: bool, device: str, unit: float = 1.0
) -> tuple[Kernel, Parameters]:
    """Return a kernel of its own for these features, with its parameters."""
    if isinstance(kernel, str):
        own = _by_name(kernel, x.shape[1], ard=ard)
    elif not isinstance(kernel, Kernel):
        raise ParameterError(
            f"`kernel` must be made of {', '.join(NAMES)}, be a kernel of GPyTorch, or one between structures, got "
            f"{shown(kernel)}."
        )
    else:
        own = copy.deepcopy(kernel)
        _widen(own, x.shape[1])
        if not any(isinstance(part, ScaleKernel) for part in own.modules()):
            own = ScaleKernel(own)
        if len(own.batch_shape) > 0:
            raise ParameterError(
                f"`kernel` must be a kernel without a batch shape, got {tuple(kernel.batch_shape)}; outputs share one."
            )
    own = own.double().to(device)
    try:
        with torch.no_grad():
            own(torch.as_tensor(x[:2], device=device)).to_dense()
    except (RuntimeError, IndexError) as error:
        raise ParameterError(
            f"`kernel` does not fit rows of {x.shape[1]} features ({error}); check ard_num_dims and active_dims."
        ) from None
    parameters = Parameters(own, dict(_priors(own, x, unit)))
    if isinstance(kernel, str):
        parameters.assign(parameters.centre)
    return own, parameters


def _widen(kernel: Kernel, n_features: int) -> None:
    """Tell kernels of sites how many numbers there are of each, where they do not know."""
    for part in kernel.modules():
        if isinstance(part, SiteKernel) and part.width is None:
            columns = n_features if part.active_dims is None else len(part.active_dims)
            if columns % part.n_sites:
                raise ParameterError(
                    f"`kernel` compares {part.n_sites} sites of equally many numbers, got rows of {columns} features; "
                    "make them by CompositionFeatures with as many sites, without `symmetric` there."
                )
            part.widen(columns // part.n_sites)


def _by_name(text: str, width: int, *, ard: bool) -> Kernel:
    names = [name.strip() for name in text.split("+")]
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ParameterError(
            f"`kernel` must be made of {', '.join(NAMES)}, joined by +, or be a kernel of GPyTorch, got {text!r}."
        )
    parts = [_part(name, width if ard else None) for name in names]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def _part(name: str, dims: int | None) -> Kernel:
    if name == "linear":
        # Its variances are the amplitude.
        return LinearKernel(ard_num_dims=dims)
    if name == "rbf":
        return ScaleKernel(RBFKernel(ard_num_dims=dims))
    if name == "rq":
        return ScaleKernel(RQKernel(ard_num_dims=dims))
    return ScaleKernel(MaternKernel(nu={"matern12": 0.5, "matern32": 1.5, "matern52": 2.5}[name], ard_num_dims=dims))


def _priors(kernel: Kernel, x: Float[np.ndarray, "n F"], unit: float) -> Iterator[tuple[str, Prior]]:
    """Centre lengths on the distance of typical points, variances on that of the targets."""
    variance = x.var(axis=0)
    variance[variance == 0.0] = 1.0
    for name, part in kernel.named_modules():
        if not isinstance(part, Kernel):
            continue
        dims = slice(None) if part.active_dims is None else part.active_dims.cpu().numpy()
        spread = variance[dims]
        own = {key for key, _ in part.named_parameters(recurse=False)}
        prefix = f"{name}." if name else ""
        if "raw_lengthscale" in own:
            many = part.raw_lengthscale.numel() > 1
            squared = 2.0 * spread * len(spread) if many else np.array([2.0 * spread.sum()])
            yield f"{prefix}raw_lengthscale", Prior(0.5 * np.log(squared), LENGTH_WIDTH)
        if "raw_variance" in own and isinstance(part, LinearKernel):
            many = part.raw_variance.numel() > 1
            size = 1.0 / (spread * len(spread)) if many else np.array([1.0 / spread.sum()])
            yield f"{prefix}raw_variance", Prior(np.log(unit * size), 3.0)
        if "raw_outputscale" in own:
            yield f"{prefix}raw_outputscale", Prior(np.array([np.log(unit)]), 2.0)
