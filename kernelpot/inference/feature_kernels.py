"""Kernels of feature vectors, as GPyTorch has them: by name, or copied from a user's."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
import torch
from gpytorch.constraints import Interval, Positive
from gpytorch.kernels import Kernel, LinearKernel, MaternKernel, RBFKernel, RQKernel, ScaleKernel
from jaxtyping import Float
from torch import Tensor

from kernelpot.errors import ParameterError
from kernelpot.rules import shown, whole

LARGEST = 40.0
"""Largest logarithm that is tried."""


@dataclass(frozen=True)
class LogPrior:
    """Normal density of a logarithm: its centre for every entry of the parameter, and its width."""

    centre: Float[np.ndarray, " k"]
    width: float


class Parameters:
    """The free parameters of a module: logarithms of what must be positive, the bare values of all others.

    A parameter without a prior of its own has a width of 2 about its present value.
    """

    def __init__(self, module: torch.nn.Module, priors: dict[str, LogPrior]) -> None:
        self.module = module
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self._parts = [p for _, p in named]
        self._bounds = [_lower_bound(module, name) for name in self.names]
        now = [self._get(p, low) for p, low in zip(self._parts, self._bounds, strict=True)]
        known = [priors.get(name, LogPrior(value, 2.0)) for name, value in zip(self.names, now, strict=True)]
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


LENGTH = 1.5
"""Lengths that a search starts from, per square root of the number of numbers of a site."""


class SiteKernel(Kernel):
    """k(x, x') = ⟨Π_s (1 + θ_s κ_s(x_s, x'_g(s)))⟩_g, with κ_s = exp(-½ Σ_d (x_sd - x'_sd)²/ℓ_sd²).

    Multiplied out, the product is a sum over all sets of sites: every site has a share of its own, every pair, and so
    on, as energies of compositions do; one Gaussian of all sites is the last of these alone. Such kernels are ANOVA
    kernels (Durrande, Ginsbourger, Roustant and Carraro, J. Multivariate Anal. 115, 57 (2013)). The mean is over the
    orders g of sites that may be exchanged, which share θ and ℓ.

    Use it as ``GP(SiteKernel(4, symmetric=((0, 1),)))`` on `CompositionFeatures` of as many sites, without `symmetric`
    there.

    Parameters
    ----------
    n_sites
        Number of sites; the columns of a row are the numbers of the first, of the second, and so on, as many for each.
    width
        Numbers of each site; None: as many as the columns of the rows that a `GP` or a `Classifier` is fitted to allow.
    symmetric
        Groups of sites, counted from 0, that may be exchanged.

    Raises
    ------
    ParameterError
        A number is not a whole one from 1 on, or a group names a site that is not there, or is named already.
    """

    has_lengthscale = False
    width: int | None

    def __init__(self, n_sites: int, width: int | None = None, symmetric: Sequence[Sequence[int]] = ()) -> None:
        super().__init__()
        self.n_sites, self.width = whole(n_sites, "n_sites", least=1), None
        width = None if width is None else whole(width, "width", least=1)
        self.groups = _checked_groups(symmetric, self.n_sites)
        self.orders = tuple(_orders(self.groups, self.n_sites))
        # Sites of a group take the parameters of its first.
        owner = {site: group[0] for group in self.groups for site in group}
        kinds = sorted({owner.get(site, site) for site in range(self.n_sites)})
        self.kind = tuple(kinds.index(owner.get(site, site)) for site in range(self.n_sites))
        if width is not None:
            self.widen(width)

    def __repr__(self) -> str:
        """Return the call that makes an equal kernel, but for its hyper-parameters."""
        return f"SiteKernel({self.n_sites}, width={self.width}, symmetric={self.groups})"

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {"n_sites": self.n_sites, "width": self.width, "symmetric": [list(group) for group in self.groups]}

    def widen(self, width: int) -> None:
        """Make the parameters for so many numbers of each site, where the width is not known yet."""
        self.width, kinds = width, max(self.kind) + 1
        self._register("length", torch.full((kinds, width), LENGTH * width**0.5, dtype=torch.float64))
        self._register("theta", torch.ones(kinds, dtype=torch.float64))

    def _register(self, name: str, value: Tensor) -> None:
        constraint = Positive()
        self.register_parameter(f"raw_{name}", torch.nn.Parameter(constraint.inverse_transform(value)))
        self.register_constraint(f"raw_{name}", constraint)

    @property
    def lengths(self) -> Float[Tensor, "kinds width"]:
        """ℓ of each kind of site: sites that may be exchanged are of one."""
        return self.raw_length_constraint.transform(self.raw_length)

    @property
    def thetas(self) -> Float[Tensor, " kinds"]:
        """θ of each kind of site."""
        return self.raw_theta_constraint.transform(self.raw_theta)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:  # noqa: ARG002
        """Return the kernel matrix of rows, or its diagonal."""
        if self.width is None:
            raise RuntimeError("the width of a SiteKernel is not known before a fit; give `width`")
        lengths, thetas = self.lengths, self.thetas
        left = [self._site(x1, site) / lengths[kind] for site, kind in enumerate(self.kind)]
        right = [self._site(x2, site) / lengths[kind] for site, kind in enumerate(self.kind)]
        found: dict[tuple[int, int], Tensor] = {}
        for order in self.orders:
            for pair in enumerate(order):
                if pair not in found:
                    a, b = left[pair[0]], right[pair[1]]
                    square = (a - b).square().sum(-1) if diag else _squared(a, b)
                    found[pair] = 1.0 + thetas[self.kind[pair[0]]] * torch.exp(-0.5 * square)
        total: Tensor = torch.zeros(())
        for order in self.orders:
            part = found[0, order[0]]
            for pair in list(enumerate(order))[1:]:
                part = part * found[pair]
            total = total + part
        return total / len(self.orders)

    def _site(self, x: Tensor, site: int) -> Tensor:
        width = self.width or 0
        if x.shape[-1] != self.n_sites * width:
            raise RuntimeError(f"{self.n_sites} sites of {width} numbers need {self.n_sites * width} columns")
        return x[..., site * width : (site + 1) * width]


def _squared(a: Tensor, b: Tensor) -> Tensor:
    square = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2.0 * a @ b.transpose(-1, -2)
    return square.clamp_min(0.0)


def _orders(groups: tuple[tuple[int, ...], ...], n_sites: int) -> Iterator[tuple[int, ...]]:
    """Yield every order of the sites, as the place that each site's partner has."""
    for choice in product(*(permutations(group) for group in groups)):
        order = list(range(n_sites))
        for group, permuted in zip(groups, choice, strict=True):
            for site, other in zip(group, permuted, strict=True):
                order[site] = other
        yield tuple(order)


def _checked_groups(symmetric: Any, n_sites: int) -> tuple[tuple[int, ...], ...]:
    try:
        groups = tuple(tuple(group) for group in symmetric)
    except TypeError:
        groups = ((-1,),)
    named = [site for group in groups for site in group]
    whole = all(isinstance(s, int | np.integer) and not isinstance(s, bool) and 0 <= s < n_sites for s in named)
    if not whole or len(set(named)) < len(named) or any(not 2 <= len(group) <= 5 for group in groups):
        raise ParameterError(
            f"`symmetric` must be groups of two to five different sites from 0 to {n_sites - 1}, each in one group, "
            f"such as ((0, 1),), got {symmetric!r}."
        )
    return groups


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


def _priors(kernel: Kernel, x: Float[np.ndarray, "n F"], unit: float) -> Iterator[tuple[str, LogPrior]]:
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
            yield f"{prefix}raw_lengthscale", LogPrior(0.5 * np.log(squared), LENGTH_WIDTH)
        if "raw_variance" in own and isinstance(part, LinearKernel):
            many = part.raw_variance.numel() > 1
            size = 1.0 / (spread * len(spread)) if many else np.array([1.0 / spread.sum()])
            yield f"{prefix}raw_variance", LogPrior(np.log(unit * size), 3.0)
        if "raw_outputscale" in own:
            yield f"{prefix}raw_outputscale", LogPrior(np.array([np.log(unit)]), 2.0)
