"""A kernel between compositions by site, the same for all orders of sites that may be exchanged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product
from typing import Any

import numpy as np
import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import Kernel
from jaxtyping import Float
from torch import Tensor

from kernelpot.errors import ParameterError
from kernelpot.rules import whole

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
