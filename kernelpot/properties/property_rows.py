"""Property models as blocks of information, so that the design room chooses what to compute next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.information import PROPERTY, Information
from kernelpot.errors import ParameterError
from kernelpot.inference.regressors import whitened
from kernelpot.linalg.subsets import farthest_points, kmeans_medoids
from kernelpot.properties.inputs import KernelRows, Precomputed
from kernelpot.rules import real, whole
from kernelpot.structures.composites import EncodedPair, ItemKernel, structures_of

INDUCING = ("random", "fps", "kmeans")

ENTRIES = 20_000_000
"""Kernel values held at a time."""


@dataclass(frozen=True, eq=False)
class PropertySpace:
    """Whitened features φ(x) = k(x, Z) U diag(λ)^(-1/2) of fixed items Z, under a prior that is I.

    On items of Z φ(a)·φ(b) = k(a, b): with the whole pool as Z, what the design room computes from `information` is
    the exact Gaussian process of the pool.

    Attributes
    ----------
    kernel
        It knows its elements and lengths.
    items
        Z, as the kernel encoded them.
    whitening
        U diag(λ)^(-1/2).
    noise
        Standard deviation of a label in units of the prior's.
    """

    kernel: Any
    items: Any
    whitening: Float[np.ndarray, "m d"]
    noise: float

    def features(self, items: Any) -> Float[np.ndarray, "n d"]:
        """Return φ of each item.

        Parameters
        ----------
        items
            Structures or rows of features, or what the kernel encoded.
        """
        return np.concatenate(list(self._features(described(self.kernel, items))))

    def information(self, items: Any) -> Information:
        """Return a block for each item: one row φ/noise, of kind "energy" as the design room calls a single label.

        Parameters
        ----------
        items
            Structures or rows of features, or what the kernel encoded. No label is looked at.
        """
        encoded = described(self.kernel, items)
        rows = np.concatenate(list(self._features(encoded))) / self.noise
        structures = structures_of(encoded)
        n = len(rows)
        counts = np.zeros((n, 3), dtype=np.int64)
        counts[:, 0] = 1
        return Information(
            rows=rows,
            kinds=np.zeros(n, dtype=np.int64),
            offsets=np.arange(n + 1),
            counts=counts,
            sigma=np.full(n, self.noise),
            n_atoms=np.ones(n, dtype=np.int64) if structures is None else structures.n_atoms,
            groups=("",) * n if structures is None else structures.groups,
            means=means_of(encoded),
            discarded=np.zeros((n, 3)),
            description={"labels": PROPERTY, "noise": self.noise, "n_inducing": len(self.items)},
            environments=None if structures is None else structures.environments,
        )

    def _features(self, encoded: Any) -> Iterator[Float[np.ndarray, "rows d"]]:
        if encoded is self.items:
            # K U diag(λ)^(-1/2) = U diag(λ)^(1/2), and columns of the whitening have the length λ^(-1/2).
            yield self.whitening / np.einsum("md,md->d", self.whitening, self.whitening)
            return
        rows = max(1, ENTRIES // len(self.items))
        for start in range(0, len(encoded), rows):
            part = encoded if len(encoded) <= rows else encoded[start : start + rows]
            yield self.kernel.matrix(part, self.items) @ self.whitening


def property_space(
    kernel: ItemKernel, items: Any, *, noise: float, n_inducing: int | None = None, inducing: str = "fps", seed: int = 0
) -> PropertySpace:
    """Return the space of a kernel on a pool, for any model whose labels have the noise given.

    Parameters
    ----------
    kernel
        Between structures or rows of features; it learns its elements and lengths from the items where it has none.
    items
        The pool: structures or rows of features, or what the kernel encoded.
    noise
        Standard deviation of a label in units of the prior's: of `KernelRidge` √alpha, of a Gaussian process noise
        divided by amplitude, where the kernel is taken at amplitude 1.
    n_inducing
        So many items make the space; None: all, for which it is exact.
    inducing, seed
        How they are chosen, as in `KernelRidge`.

    Raises
    ------
    ParameterError
        A parameter breaks its rule, or the kernel is zero.
    """
    noise = real(noise, "noise", above=True)
    if hasattr(kernel, "prepared"):
        kernel = kernel.prepared(items)
    encoded = described(kernel, items)
    if isinstance(kernel, Precomputed):
        raise ParameterError("a precomputed kernel knows nothing of other items; give the kernel itself.")
    if n_inducing is not None and whole(n_inducing, "n_inducing", least=1) < len(encoded):
        encoded = encoded[choose_items(encoded, n_inducing, inducing, seed)]
    return PropertySpace(kernel, encoded, whitened(kernel.matrix(encoded)), noise)


def described(kernel: Any, items: Any) -> Any:
    """Return items as the kernel encodes them, or as they are where it does not."""
    return kernel.encode(items) if hasattr(kernel, "encode") else items


def choose_items(encoded: Any, n: int, method: str, seed: int) -> Int[np.ndarray, " n"]:
    """Choose inducing items."""
    if method not in INDUCING:
        raise ParameterError(f"`inducing` must be one of {', '.join(INDUCING)}, got {method!r}.")
    if method == "random":
        return np.sort(np.random.default_rng(seed).permutation(len(encoded))[:n])
    if isinstance(encoded, KernelRows):
        raise ParameterError(f'`inducing` "{method}" needs vectors, not a kernel matrix; take "random".')
    means = means_of(encoded)
    return np.sort(farthest_points(means, n, seed=seed) if method == "fps" else kmeans_medoids(means, n, seed=seed))


def means_of(encoded: Any) -> Float[np.ndarray, "n f"]:
    """Return a vector for each item: the mean unit vector of its environments, or its features."""
    structures = structures_of(encoded)
    if structures is not None:
        return structures.means()
    while isinstance(encoded, EncodedPair):
        encoded = encoded.first
    result: np.ndarray = np.asarray(encoded, dtype=np.float64)
    return result
