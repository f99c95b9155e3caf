"""What models share whose latent Gaussian process has a kernel that is learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import clone

from kernelpot.doors import Renamed
from kernelpot.errors import ParameterError
from kernelpot.inference.exact import host
from kernelpot.inference.priors import Covariance, Items, covariance_of
from kernelpot.inference.targets import Trend
from kernelpot.linalg.devices import check_device
from kernelpot.properties.inputs import (
    PropertyModel,
    Scaling,
    items_of,
    rows_of,
    searching,
    structure_kernels,
    switches,
)
from kernelpot.properties.property_rows import PropertySpace, property_space
from kernelpot.rules import MOST_SEED, whole
from kernelpot.structures.composites import Composable, ItemKernel


def _under_search(name: str) -> Callable[[Any, Any], tuple[str, Any]]:
    """Return how a parameter of earlier days goes into `search`."""

    def translated(model: Any, value: Any) -> tuple[str, Any]:
        now = getattr(model, "search", True)
        if name == "optimise":
            return "search", value if not isinstance(value, bool | np.bool_) or not value else now or True
        return "search", {**(now if isinstance(now, Mapping) else {}), name: value} if now else now

    return translated


class LearnedKernel(PropertyModel):
    """What models share whose latent process has a kernel that is learned, of features or between structures."""

    kernel: Any
    mean: str
    ard: bool
    normalise: bool
    search: Any
    device: str | None
    seed: int
    usual: ClassVar[dict[str, int]]  # How hyper-parameters are searched
    _plain: ClassVar[dict[str, Any]] = {}  # Parameters of a model that is to have a space without labels
    _prior: Covariance
    _trend: Trend
    _freedom: float
    _scaling: Scaling | None
    _old: ClassVar[dict[str, Any]] = {
        name: _under_search(name) for name in ("optimise", "starts", "n_warm", "full_steps")
    }
    optimise = Renamed("search", lambda model: model._searching()["optimise"])
    starts = Renamed("search", lambda model: model._searching()["starts"])
    n_warm = Renamed("search", lambda model: model._searching()["n_warm"])

    def prepare(self, X: Any, *, n_inducing: int | None = None) -> PropertySpace:
        """Return the space of the latent process on a pool, whose `information` the design room chooses by.

        A fitted process has the hyper-parameters of its fit; one that is not, the centres of their priors, so that a
        first choice needs no label. Choosing needs no label in either case. A class tells π(1 - π) ≤ ¼ about the latent
        value (its Fisher information under the logistic likelihood), and counts as a measurement with the standard
        deviation 2.

        Parameters
        ----------
        X
            The pool: structures or features.
        n_inducing
            So many of its items make the space; None: all, for which variances are exact.

        Raises
        ------
        ParameterError
            A parameter breaks its rule, or a kernel between structures is not one of kernelpot's.
        DataError
            The pool is unusable.
        """
        if hasattr(self, "posterior_"):
            kernel: Any = self._sum_of_kernels() if self._scaling is None else LearnedRows(self)
            pool = X if self._scaling is None else np.asarray(X, dtype=np.float64)
            return property_space(kernel, pool, noise=self._label_noise(), n_inducing=n_inducing, seed=self.seed)
        kernels = structure_kernels(self.kernel)
        values = items_of(X, kernels, least=2) if kernels else X
        plain: Any = clone(self).set_params(search=False, mean="constant", **self._plain)
        # Labels in turn, which mean nothing: a fit that searches nothing keeps the centres.
        space: PropertySpace = plain.fit(values, np.resize([-1, 1], len(values))).prepare(X, n_inducing=n_inducing)
        return space

    @property
    def kernel_(self) -> Any:
        """The kernel with its hyper-parameters, of scaled features, or a list of (variance, structure kernel)."""
        self._require_fitted()
        return self._prior.described

    def _sum_of_kernels(self) -> Any:
        """Return the sum of the kernels between structures times their variances, without the columns of the mean."""
        terms = self.kernel_
        parts = [variance * kernel for variance, kernel in terms if isinstance(kernel, Composable)]
        if len(parts) < len(terms):
            raise ParameterError(
                "`prepare` needs features, or kernels such as kp.StructureKernel that can be added up; for others call "
                "kernelpot.properties.property_rows.property_space(kernel, pool, noise=…)."
            )
        return reduce(add, parts)

    def _label_noise(self) -> float:
        """Return the standard deviation of a label in the prior's unit."""
        raise NotImplementedError

    def _searching(self) -> dict[str, Any]:
        return searching(self.search, self.usual)

    def _check(self) -> dict[str, Any]:
        """Refuse parameters that break their rules; return how hyper-parameters are searched."""
        check_device(self.device)
        switches(ard=self.ard, normalise=self.normalise)
        whole(self.seed, "seed", most=MOST_SEED)
        return self._searching()

    def _training_items(self, X: Any) -> tuple[tuple[ItemKernel, ...], Any]:
        """Return the kernels between structures, if there are any, and the items."""
        kernels = structure_kernels(self.kernel)
        return kernels, items_of(X, kernels, least=2) if kernels else rows_of(self, X, reset=True, least=2)

    def _prior_of(
        self, kernels: Sequence[ItemKernel], values: Any, columns: Float[np.ndarray, "n q"], unit: float
    ) -> Covariance:
        """Return the prior of training items, whose labels have a variance of so many units."""
        self._scaling = None if kernels else Scaling.of(values, normalise=self.normalise)
        place = self.device or "cpu"
        return covariance_of(self.kernel, kernels, self._items(values, columns), ard=self.ard, device=place, unit=unit)

    def _items(self, values: Any, columns: Float[np.ndarray, "n q"]) -> Items:
        place = self.device or "cpu"
        if self._scaling is not None:
            values = torch.as_tensor(self._scaling.apply(values), device=place)
        return Items(values, torch.as_tensor(self._freedom * columns, device=place))

    def _new(self, X: Any) -> tuple[Items, Float[np.ndarray, "m q"]]:
        """Return new items, and the columns of their mean."""
        self._require_fitted()
        features = self._scaling is not None
        values: Any = rows_of(self, X, reset=False) if features else items_of(X, structure_kernels(self.kernel))
        columns = self._trend.columns(values)
        return self._items(values, columns), columns

    def _file_parameters(self) -> dict[str, Any]:
        """Return the parameters as files name them."""
        kept = {k: v for k, v in self.get_params(deep=False).items() if k not in ("kernel", "device", "search")}  # type: ignore[attr-defined]
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in (kept | self._searching()).items()}

    @classmethod
    def _from_file_parameters(cls, kernel: Any, parameters: Mapping[str, Any]) -> Self:
        """Make a model that is not fitted of the parameters of a file."""
        search = {name: parameters[name] for name in cls.usual}
        kept = {k: v for k, v in parameters.items() if k not in ("optimise", *cls.usual)}
        kept["search"] = (True if search == cls.usual else search) if parameters["optimise"] else False
        return cls(kernel, **kept)  # type: ignore[call-arg]


class LearnedRows:
    """The prior covariance of a model of features, its mean's included, hyper-parameters as they are, as a kernel."""

    def __init__(self, model: LearnedKernel) -> None:
        self._model = model

    def matrix(self, a: Any, b: Any | None = None) -> Float[np.ndarray, "n m"]:
        """Return k(a_i, b_j); without `b` k(a_i, a_j)."""
        prior, first = self._model._prior, self._model._new(a)[0]
        if b is not None:
            return host(prior.between(first, self._model._new(b)[0]))
        found = host(prior.square(first))
        return 0.5 * (found + found.T)

    def diagonal(self, a: Any) -> Float[np.ndarray, " n"]:
        """Return k(a_i, a_i)."""
        return host(self._model._prior.own(self._model._new(a)[0]))

    def settings(self) -> dict[str, Any]:
        """Return the name."""
        return {"name": "LearnedRows"}
