"""Covariance of training items among themselves, and with new ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel as FeatureKernel
from jaxtyping import Float, Int
from torch import Tensor

from kernelpot.inference.feature_kernels import LogPrior, Parameters, feature_kernel
from kernelpot.structures.composites import ItemKernel

ENTRIES = 500_000
"""Kernel values at a time: few enough to stay in a cache through all their operations."""


@dataclass(frozen=True, eq=False)
class Items:
    """What a Gaussian process is asked about."""

    values: Any  # Rows of features as a tensor, a list of structures, or what `encode` made of one
    trend: Float[Tensor, "n q"]  # Columns of the mean, times the prior standard deviation of their coefficients

    def __len__(self) -> int:
        """Count the items."""
        return len(self.trend)

    def take(self, index: Int[np.ndarray, " k"] | slice) -> Items:
        """Return some of the items."""
        if isinstance(self.values, list) and not isinstance(index, slice):
            return Items([self.values[k] for k in index], self.trend[index])
        return Items(self.values[index], self.trend[index])


@dataclass(frozen=True, eq=False)
class Panel:
    """Covariance of inducing items with each other, with all, and the variances of all; without columns of the mean.

    Each is computed with the parameters as they are when it is called, and is differentiable.
    """

    inducing: Covariance
    among: Callable[[], Float[Tensor, "m m"]]
    across: Callable[[], Float[Tensor, "m n"]]
    own: Callable[[], Float[Tensor, " n"]]


class Covariance(ABC):
    """Prior covariance of training items: a kernel, and the columns of the mean with their prior."""

    def __init__(self, items: Items, parameters: Parameters) -> None:
        self.items = items
        self.parameters = parameters

    def __len__(self) -> int:
        """Count the training items."""
        return len(self.items)

    @abstractmethod
    def subset(self, index: Int[np.ndarray, " k"]) -> Covariance:
        """Return the covariance of some of the items; parameters stay shared."""

    @abstractmethod
    def panel(self, index: Int[np.ndarray, " m"]) -> Panel:
        """Return the covariance of some items with all."""

    @property
    @abstractmethod
    def described(self) -> Any:
        """The kernel of features, or pairs of a variance and a structure kernel."""

    @abstractmethod
    def _kernel(self, rows: slice, cols: slice) -> Tensor: ...

    @abstractmethod
    def _own(self) -> Tensor: ...

    @abstractmethod
    def _between(self, a: Items, b: Items | None) -> Tensor: ...

    @abstractmethod
    def _own_of(self, a: Items) -> Tensor: ...

    def block(self, rows: slice, cols: slice) -> Float[Tensor, "r c"]:
        """Return a part of the covariance."""
        trend = self.items.trend
        return self._kernel(rows, cols) + trend[rows] @ trend[cols].T

    @torch.no_grad()
    def between(self, a: Items, b: Items) -> Float[Tensor, "a b"]:
        """Return the covariance of any items with any others."""
        return self._between(a, b) + a.trend @ b.trend.T

    def cross(self, new: Items) -> Float[Tensor, "m n"]:
        """Return the covariance of new items with the training items."""
        return self.between(new, self.items)

    def runs(self, new: Items) -> Iterator[Items]:
        """Cut new items into as many as stay in a cache with their covariance."""
        return (new.take(rows) for rows in pieces(len(new), len(self)))

    @torch.no_grad()
    def square(self, new: Items) -> Float[Tensor, "m m"]:
        """Return the covariance of new items among themselves."""
        return self._between(new, None) + new.trend @ new.trend.T

    @torch.no_grad()
    def own(self, new: Items) -> Float[Tensor, " m"]:
        """Return the prior variances of new items."""
        return self._own_of(new) + new.trend.square().sum(1)

    @torch.no_grad()
    def matrix(self, noise: float = 0.0) -> Float[Tensor, "n n"]:
        """Return a matrix whose lower triangle is the covariance, with a variance of noise on the diagonal."""
        n = len(self)
        result = torch.zeros((n, n), dtype=torch.float64, device=self.items.trend.device)
        for rows in pieces(n):
            result[rows, : rows.stop] = self.block(rows, slice(0, rows.stop))
        result.diagonal().add_(noise)
        return result

    def full(self) -> Float[Tensor, "n n"]:
        """Return the whole covariance, symmetric to the last bit."""
        matrix = self.matrix().tril_()
        return matrix + matrix.tril(-1).T


class FeatureCovariance(Covariance):
    """Covariance by a kernel of GPyTorch."""

    def __init__(self, items: Items, parameters: Parameters, kernel: FeatureKernel) -> None:
        super().__init__(items, parameters)
        self.kernel = kernel

    @property
    def described(self) -> FeatureKernel:
        """The kernel."""
        return self.kernel

    def subset(self, index: Int[np.ndarray, " k"]) -> FeatureCovariance:
        """Return the covariance of some of the items."""
        return FeatureCovariance(self.items.take(index), self.parameters, self.kernel)

    def panel(self, index: Int[np.ndarray, " m"]) -> Panel:
        """Return the covariance of some items with all."""
        some = self.subset(index)
        z = some.items
        return Panel(some, lambda: self._between(z, None), lambda: self._between(z, self.items), self._own)

    def _kernel(self, rows: slice, cols: slice) -> Tensor:
        x = self.items.values
        return self.kernel(x[rows], x[cols]).to_dense()

    def _own(self) -> Tensor:
        return self.kernel(self.items.values, diag=True)

    def _between(self, a: Items, b: Items | None) -> Tensor:
        return self.kernel(a.values, a.values if b is None else b.values).to_dense()

    def _own_of(self, a: Items) -> Tensor:
        return self.kernel(a.values, diag=True)


class _Amplitudes(torch.nn.Module):
    """Logarithms of the variances that each structure kernel gets."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.log_variance = torch.nn.Parameter(torch.zeros(count, dtype=torch.float64))


class MatrixCovariance(Covariance):
    """Covariance by a sum of kernels between structures, each with a variance of its own.

    Kernel matrices are computed once, and divided by the mean of their diagonal.
    """

    def __init__(
        self,
        items: Items,
        parameters: Parameters,
        kernels: Sequence[ItemKernel],
        units: Float[np.ndarray, " kernels"],
        grams: Float[Tensor, "kernels n n"] | None = None,
    ) -> None:
        super().__init__(items, parameters)
        self.kernels = tuple(kernels)
        self.units = units
        self._grams = grams
        self._own_items: list[Any] | None = None

    @classmethod
    def of(cls, kernels: Sequence[ItemKernel], items: Items, device: str, unit: float = 1.0) -> MatrixCovariance:
        """Prepare the covariance of items; nothing of n² is computed yet."""
        module = _Amplitudes(len(kernels)).to(device)
        priors = {"log_variance": LogPrior(np.full(len(kernels), np.log(unit / len(kernels))), 2.0)}
        parameters = Parameters(module, priors)
        parameters.assign(parameters.centre)
        # What knows its elements and lengths from the training items on compares all others alike.
        kernels = [kernel.prepared(items.values) if hasattr(kernel, "prepared") else kernel for kernel in kernels]
        units = np.array([float(np.mean(kernel.diagonal(items.values))) for kernel in kernels])
        return cls(items, parameters, kernels, np.where(units > 0.0, units, 1.0))

    @property
    def grams(self) -> Float[Tensor, "kernels n n"]:
        """Kernel matrices in their units."""
        if self._grams is None:
            self._grams = self._stack(self.items, None)
        return self._grams

    def subset(self, index: Int[np.ndarray, " k"]) -> MatrixCovariance:
        """Return the covariance of some of the items."""
        grams = None if self._grams is None else self._grams[:, index][:, :, index]
        return MatrixCovariance(self.items.take(index), self.parameters, self.kernels, self.units, grams)

    def panel(self, index: Int[np.ndarray, " m"]) -> Panel:
        """Return the covariance of some items with all; kernel values are computed once."""
        some = self.subset(index)
        among, across = self._stack(some.items, None), self._stack(some.items, self.items)
        own = self._diagonals(self.items)
        return Panel(
            some,
            lambda: torch.einsum("p,pij->ij", self._weights, among),
            lambda: torch.einsum("p,pij->ij", self._weights, across),
            lambda: self._weights @ own,
        )

    @property
    def described(self) -> list[tuple[float, ItemKernel]]:
        """What each kernel is multiplied by, with the kernel."""
        variances = np.exp(self.parameters.values()) / self.units
        return list(zip(variances.tolist(), self.kernels, strict=True))

    @property
    def _weights(self) -> Tensor:
        return torch.exp(self.parameters.module.get_parameter("log_variance"))

    def _kernel(self, rows: slice, cols: slice) -> Tensor:
        return torch.einsum("p,pij->ij", self._weights, self.grams[:, rows, cols])

    def _own(self) -> Tensor:
        return self._own_of(self.items)

    def _between(self, a: Items, b: Items | None) -> Tensor:
        return torch.einsum("p,pij->ij", self._weights, self._stack(a, b))

    def _own_of(self, a: Items) -> Tensor:
        return self._weights @ self._diagonals(a)

    def _diagonals(self, a: Items) -> Float[Tensor, "kernels n"]:
        each = [kernel.diagonal(a.values) / unit for kernel, unit in zip(self.kernels, self.units, strict=True)]
        return torch.as_tensor(np.array(each), device=a.trend.device)

    def _stack(self, a: Items, b: Items | None) -> Float[Tensor, "kernels n m"]:
        first = self._encoded(a)
        second = [None] * len(first) if b is None else self._encoded(b)
        each = [
            kernel.matrix(one, two) / unit
            for kernel, one, two, unit in zip(self.kernels, first, second, self.units, strict=True)
        ]
        return torch.as_tensor(np.array(each), device=a.trend.device)

    def _encoded(self, a: Items) -> list[Any]:
        """Describe items for every kernel, the training items once."""
        if a is not self.items:
            return [_described(kernel, a.values) for kernel in self.kernels]
        if self._own_items is None:
            self._own_items = [_described(kernel, a.values) for kernel in self.kernels]
        return self._own_items


def _described(kernel: Any, values: Any) -> Any:
    return kernel.encode(values) if hasattr(kernel, "encode") else values


def covariance_of(
    kernel: Any, kernels: Sequence[ItemKernel], items: Items, *, ard: bool, device: str, unit: float
) -> Covariance:
    """Return the covariance of training items by a kernel of features, or by those between structures."""
    if kernels:
        return MatrixCovariance.of(kernels, items, device, unit)
    own, parameters = feature_kernel(kernel, items.values.cpu().numpy(), ard=ard, device=device, unit=unit)
    return FeatureCovariance(items, parameters, own)


def pieces(n: int, width: int | None = None) -> list[slice]:
    """Cut n rows into runs of as many as fit with their columns."""
    step = max(32, ENTRIES // max(1, n if width is None else width))
    return [slice(start, min(n, start + step)) for start in range(0, n, step)]
