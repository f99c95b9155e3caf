"""Gaussian processes as spaces that the design room chooses in, before the labels in question exist."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from kernelpot.errors import ParameterError
from kernelpot.inference.covariance import Covariance, FeatureCovariance, Items, MatrixCovariance
from kernelpot.properties.gp_inputs import items, structure_kernels
from kernelpot.properties.property_rows import PropertySpace, property_space
from kernelpot.structures.composites import Composable


class PriorKernel:
    """The prior covariance of a process of features, its mean's included, hyper-parameters as they are."""

    def __init__(self, prior: FeatureCovariance, items: Callable[[Any], Items]) -> None:
        self._prior = prior
        self._items = items

    def matrix(self, a: Any, b: Any | None = None) -> Float[np.ndarray, "n m"]:
        """Return k(a_i, b_j); without `b` k(a_i, a_j)."""
        first = self._items(a)
        with torch.no_grad():
            if b is None:
                found = self._prior.square(first).cpu().numpy()
                return 0.5 * (found + found.T)
            return self._prior.between(first, self._items(b)).cpu().numpy()

    def diagonal(self, a: Any) -> Float[np.ndarray, " n"]:
        """Return k(a_i, a_i)."""
        with torch.no_grad():
            return self._prior.own(self._items(a)).cpu().numpy()

    def settings(self) -> dict[str, Any]:
        """Return the name."""
        return {"name": "PriorKernel"}


def space_of(
    prior: Covariance, items: Callable[[Any], Items], X: Any, *, noise: float, n_inducing: int | None, seed: int
) -> PropertySpace:
    """Return the space of a process on a pool."""
    kernel: Any
    if isinstance(prior, FeatureCovariance):
        kernel, X = PriorKernel(prior, items), np.asarray(X, dtype=np.float64)
    else:
        kernel = kernel_of_structures(prior)
    return property_space(kernel, X, noise=noise, n_inducing=n_inducing, seed=seed)


def space_without_labels(estimator: Any, X: Any, two: tuple[float, float], *, n_inducing: int | None) -> PropertySpace:
    """Return the space of an estimator that has no fit yet: its hyper-parameters are the centres of their priors."""
    kernels = structure_kernels(estimator.kernel)
    values = items(X, kernels, least=2) if kernels else X
    space: PropertySpace = estimator.fit(values, np.resize(two, len(values))).prepare(X, n_inducing=n_inducing)
    return space


def kernel_of_structures(prior: Covariance) -> Any:
    """Return the sum of the kernels between structures, each times its variance; the mean's columns are left out."""
    terms = prior.described if isinstance(prior, MatrixCovariance) else []
    parts = [variance * kernel for variance, kernel in terms if isinstance(kernel, Composable)]
    if not parts or len(parts) < len(terms):
        raise ParameterError(
            "`prepare` needs features, or kernels such as kp.StructureKernel that can be added up; for others call "
            "kernelpot.properties.property_rows.property_space(kernel, pool, noise=…)."
        )
    return reduce(add, parts)
