"""Sums and products of kernels, as ``a + b``, ``0.5 * a`` and ``a * b``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator

from kernelpot.errors import ParameterError
from kernelpot.record import Named, Parameterised, Record
from kernelpot.rules import real
from kernelpot.structures.encoded import Encoded


class ItemKernel(Protocol):
    """A positive semidefinite function of two items; items are structures, or rows of a feature matrix."""

    def matrix(self, a: Any, b: Any | None = None) -> Float[np.ndarray, "n m"]:
        """Return k(a_i, b_j); without `b` k(a_i, a_j), symmetric to the last bit and at half the cost."""

    def diagonal(self, a: Any) -> Float[np.ndarray, " n"]:
        """Return k(a_i, a_i)."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values, for model files and reports."""


class Composable(Parameterised, BaseEstimator):
    """A kernel that can be added to others, multiplied with them or scaled."""

    def __post_init__(self) -> None:
        """Keep parameters as they are: scikit-learn wants them checked when they are used."""

    def __add__(self, other: Any) -> Sum:
        """Return the sum of two kernels."""
        return Sum(self, _kernel(other))

    def __mul__(self, other: Any) -> Product | Scaled:
        """Return the product of two kernels, or this one times a positive number."""
        if isinstance(other, Composable):
            return Product(self, other)
        return Scaled(self, real(other, "factor", above=True))

    def __rmul__(self, other: Any) -> Scaled:
        """Return this kernel times a positive number."""
        return Scaled(self, real(other, "factor", above=True))

    def distance(self, a: Any, b: Any | None = None) -> Float[np.ndarray, "n m"]:
        """Return √(k(a_i, a_i) + k(b_j, b_j) - 2k(a_i, b_j))."""
        return distance(self, a, b)


@dataclass(frozen=True, eq=False)
class EncodedPair:
    """What two kernels make of the same items; it is indexed like either."""

    first: Any
    second: Any

    def __len__(self) -> int:
        """Count the items."""
        return len(self.first)

    @property
    def shape(self) -> tuple[int]:
        """One for each item."""
        return (len(self),)

    def __getitem__(self, key: Any) -> EncodedPair:
        """Return some of the items."""
        if isinstance(key, tuple):
            key = key[0]
        chosen = np.atleast_1d(np.arange(len(self))[key])
        if self.second is self.first:
            part = self.first[chosen]
            return EncodedPair(part, part)
        return EncodedPair(self.first[chosen], self.second[chosen])


def structures_of(encoded: Any) -> Encoded | None:
    """Return the structures behind what a kernel encoded, or None where there are rows of features."""
    while isinstance(encoded, EncodedPair):
        encoded = encoded.first
    return encoded if isinstance(encoded, Encoded) else None


@dataclass(eq=False, repr=False)
class _Pair(Composable, Record):
    """Two kernels of the same items."""

    first: Annotated[Any, Named("structure kernel")]
    second: Annotated[Any, Named("structure kernel")]

    @property
    def definite(self) -> bool:
        """Whether both are positive semidefinite."""
        return bool(self.first.definite and self.second.definite)

    def encode(self, items: Any) -> EncodedPair:
        """Describe items once for each of the two kernels, or once for both where they share a descriptor."""
        if isinstance(items, EncodedPair):
            return items
        first = self.first.encode(items)
        reads = getattr(self.second, "reads", None)
        shared = reads is not None and reads(first)
        return EncodedPair(first, first if shared else self.second.encode(items))

    def prepared(self, items: Any) -> Any:
        """Return the same of the two prepared kernels."""
        one, two = (items.first, items.second) if isinstance(items, EncodedPair) else (items, items)
        return type(self)(self.first.prepared(one), self.second.prepared(two))

    def _both(self, a: Any, b: Any | None) -> tuple[np.ndarray, np.ndarray]:
        a = self.encode(a)
        b = None if b is None else self.encode(b)
        first = self.first.matrix(a.first, None if b is None else b.first)
        return first, self.second.matrix(a.second, None if b is None else b.second)

    def _diagonals(self, a: Any) -> tuple[np.ndarray, np.ndarray]:
        a = self.encode(a)
        return self.first.diagonal(a.first), self.second.diagonal(a.second)


class Sum(_Pair):
    """k(a, b) = k₁(a, b) + k₂(a, b)."""

    def matrix(self, a: Any, b: Any | None = None) -> Float[np.ndarray, "n m"]:
        """Return k(a_i, b_j); without `b` k(a_i, a_j)."""
        first, second = self._both(a, b)
        first += second
        return first

    def diagonal(self, a: Any) -> Float[np.ndarray, " n"]:
        """Return k(a_i, a_i)."""
        first, second = self._diagonals(a)
        return first + second


class Product(_Pair):
    """k(a, b) = k₁(a, b) k₂(a, b)."""

    def matrix(self, a: Any, b: Any | None = None) -> Float[np.ndarray, "n m"]:
        """Return k(a_i, b_j); without `b` k(a_i, a_j)."""
        first, second = self._both(a, b)
        first *= second
        return first

    def diagonal(self, a: Any) -> Float[np.ndarray, " n"]:
        """Return k(a_i, a_i)."""
        first, second = self._diagonals(a)
        return first * second


@dataclass(eq=False, repr=False)
class Scaled(Composable, Record):
    """k(a, b) = factor · k₁(a, b): the factor multiplies a variance, not a standard deviation."""

    kernel: Annotated[Any, Named("structure kernel")]
    factor: float = 1.0

    @property
    def definite(self) -> bool:
        """Whether the kernel is positive semidefinite."""
        return bool(self.kernel.definite)

    def reads(self, encoded: Any) -> bool:
        """Tell whether what another kernel encoded can be used as it is."""
        reads = getattr(self.kernel, "reads", None)
        return bool(reads is not None and reads(encoded))

    def encode(self, items: Any) -> Any:
        """Describe items as the kernel does."""
        return self.kernel.encode(items)

    def prepared(self, items: Any) -> Scaled:
        """Return the scaled prepared kernel."""
        return Scaled(self.kernel.prepared(items), real(self.factor, "factor", above=True))

    def matrix(self, a: Any, b: Any | None = None) -> Float[np.ndarray, "n m"]:
        """Return k(a_i, b_j); without `b` k(a_i, a_j)."""
        result: np.ndarray = self.kernel.matrix(a, b)
        result *= real(self.factor, "factor", above=True)
        return result

    def diagonal(self, a: Any) -> Float[np.ndarray, " n"]:
        """Return k(a_i, a_i)."""
        result: np.ndarray = real(self.factor, "factor", above=True) * self.kernel.diagonal(a)
        return result


def distance(kernel: ItemKernel, a: Any, b: Any | None = None) -> Float[np.ndarray, "n m"]:
    """Return d(a_i, b_j) = √(k(a_i, a_i) + k(b_j, b_j) - 2k(a_i, b_j)), the distance in the kernel's feature space."""
    if hasattr(kernel, "prepared"):
        kernel = kernel.prepared(a)
    result = -2.0 * kernel.matrix(a, b)
    own = kernel.diagonal(a)
    result += own[:, None]
    result += own if b is None else kernel.diagonal(b)
    # Round-off may leave the square of no distance below zero.
    np.maximum(result, 0.0, out=result)
    if b is None:
        np.fill_diagonal(result, 0.0)
    return np.sqrt(result, out=result)


def _kernel(other: Any) -> Composable:
    if not isinstance(other, Composable):
        raise ParameterError(f"a kernel can only be added to another kernel, got {other!r}.")
    return other
