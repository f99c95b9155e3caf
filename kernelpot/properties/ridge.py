"""Kernel ridge regression on structures or features, as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, RegressorMixin

from kernelpot.doors import Renamed, old_keywords
from kernelpot.errors import DataError, ParameterError
from kernelpot.inference.exact import Conditioned, Exact, Factor, KernelPrior, smallest_eigenvalue
from kernelpot.inference.left_out import LeftOut
from kernelpot.inference.regressors import Regressors, calibrating_items
from kernelpot.inference.targets import Targets, Trend
from kernelpot.properties.inputs import (
    KernelRows,
    Precomputed,
    PropertyModel,
    as_kernel,
    checked_weights,
    encoded_of,
    numbered_folds,
    targets_of,
)
from kernelpot.properties.property_rows import PropertySpace, choose_items, property_space
from kernelpot.rules import MOST_SEED, real, whole
from kernelpot.run import calm_blas
from kernelpot.structures.structure_kernel import extensive

MEANS = {"mean": "constant", None: "zero"}
"""What kinds of mean were called in earlier releases."""

Condition = Callable[[Float[np.ndarray, "n outputs"], Float[np.ndarray, " n"]], Conditioned]
"""Gives a process labels under the noise of each item."""


class KernelRidge(PropertyModel, RegressorMixin, BaseEstimator):
    """Kernel ridge regression: f = k(x, X)(K + α/w)⁻¹(y - mean) + mean.

    It is the mean of a Gaussian process with the noise variance α in the kernel's unit, which is what `std` uses.

    Parameters
    ----------
    kernel
        A `StructureKernel` for lists of `ase.Atoms`, a `VectorKernel` for rows of features, sums and products of such;
        or the name of a kind of `VectorKernel`, or "precomputed": X is then the kernel matrix itself.
    alpha
        Added to the diagonal, in the unit of the kernel's values; of several numbers that with the smallest mean square
        leave-one-out error, found with one kernel matrix.
    mean
        Subtracted before, added after: "constant", "composition" (least squares on the numbers of atoms of each
        element, for extensive properties) or "zero". "auto": "composition" where the kernel is a plain sum over
        environments, else "constant".
    n_inducing
        Work in the space of so many of the training items (the Nyström approximation, by subset of regressors), with
        memory for n_inducing² numbers and a block; None or more than there are items: all of them, exactly.
    inducing
        How these are chosen: "random", or by their mean vectors "fps" (farthest points) or "kmeans".
    seed
        Makes that choice repeatable.

    Raises
    ------
    ParameterError
        In `fit`: a parameter breaks its rule.

    Attributes
    ----------
    alpha_
        The one taken.
    kernel_
        The kernel, which knows its elements and lengths.
    mean_
        What was subtracted.
    posterior_
        The process given the labels less their mean.
    jitter_
        What had to be added to the diagonal beside alpha: zero, or round-off, or for a kernel that is not positive
        semidefinite (REMatch) what alpha lacks to twice the size of its smallest eigenvalue, which may be minus a
        twentieth of its mean variance.
    """

    _old: ClassVar[dict[str, Any]] = {"baseline": lambda _, value: ("mean", MEANS.get(value, value))}
    state_ = Renamed("posterior_", lambda model: model.posterior_)
    baseline_ = Renamed("mean_", lambda model: model.mean_)
    leave_one_out = Renamed("left_out", lambda model: lambda: model.left_out().error)
    leave_out = Renamed("left_out", lambda model: lambda folds: model.left_out(folds).error)

    @old_keywords
    def __init__(
        self,
        kernel: Any = "rbf",
        *,
        alpha: float | Sequence[float] = 1e-6,
        mean: str = "auto",
        n_inducing: int | None = None,
        inducing: str = "random",
        seed: int = 0,
    ) -> None:
        self.kernel = kernel
        self.alpha = alpha
        self.mean = mean
        self.n_inducing = n_inducing
        self.inducing = inducing
        self.seed = seed

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that a precomputed kernel is cut along both axes, and that y may have columns."""
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self.kernel == "precomputed" if isinstance(self.kernel, str) else False
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to labelled structures or features; returns self.

        Parameters
        ----------
        X
            A list of structures, what `StructureKernel.encode` made of one, rows of features, or a kernel matrix.
        y
            One number for each, or a row of several.
        sample_weight
            Weight of each item: the noise variance of item i is alpha/w_i. Items of weight 0 are left out.

        Raises
        ------
        ParameterError
            A parameter breaks its rule, or the kernel matrix is not positive definite.
        DataError, LabelError, SpeciesError
            X, y or a structure is unusable.
        """
        alphas = _checked_alphas(self.alpha)
        whole(self.seed, "seed", most=MOST_SEED)
        kernel = as_kernel(self.kernel)
        items = encoded_of(self, kernel, X, reset=True)
        y, self._single = targets_of(y, len(items))
        weights = checked_weights(sample_weight, len(items))
        if not (weights > 0.0).all():
            used = np.flatnonzero(weights > 0.0)
            items, y, weights = items[used], y[used], weights[used]
        self.kernel_ = kernel.prepared(items)
        encoded = self.kernel_.encode(items)
        trend = Trend.of(self.mean, encoded, extensive=extensive(self.kernel_), alike=False)
        columns = trend.columns(encoded)
        self.mean_ = Targets.of(trend, columns, y, normalise=False, weights=weights)
        rest = self.mean_.standardised(columns, y)
        self._calibrating: Any = slice(None)
        if self.n_inducing is None or whole(self.n_inducing, "n_inducing", least=1) >= len(y):
            prior = KernelPrior(self.kernel_, encoded)
            condition = _exactly(prior, keep=len(alphas) > 1)
        else:
            chosen = choose_items(encoded, int(self.n_inducing), self.inducing, self.seed)
            prior = KernelPrior(self.kernel_, encoded[chosen])
            condition = Regressors(prior, encoded).condition
            self._calibrating = calibrating_items(len(y), chosen, self.inducing)
        with calm_blas(len(y)):
            self.alpha_, self.posterior_ = _best_alpha(condition, alphas, weights, rest)
        self.jitter_ = self.posterior_.system.jitter if isinstance(self.posterior_, Exact) else 0.0
        if isinstance(prior.items, KernelRows):
            # Their columns alone are needed, not the matrix.
            prior.items = KernelRows(np.empty((0, 0)), prior.items.places)
        self.items_ = prior.items
        return self

    @property
    def single(self) -> bool:
        """Whether the labels of the fit were one property, given as a flat array."""
        self._require_fitted()
        return bool(self._single)

    def predict(self, X: Any) -> np.ndarray:
        """Return the predictions, of the shape of y.

        Parameters
        ----------
        X
            As in `fit`; of a precomputed kernel the values with the training items.

        Raises
        ------
        NotFittedError
            The model is not fitted.
        DataError, SpeciesError
            As in `fit`.
        """
        encoded = self._encoded(X)
        with np.errstate(over="ignore", invalid="ignore"):
            rest = self.posterior_.mean(encoded)
        return self._shaped(self.mean_.restored(self.mean_.trend.columns(encoded), _finite(rest)))

    def std(self, X: Any) -> np.ndarray:
        """Return standard deviations of labels, noise included, of the shape of the predictions.

        They are those of the Gaussian process with this kernel and noise, times one amplitude for each output, which
        makes the mean square of leave-one-out errors divided by their stds one (Rasmussen and Williams (2006), section
        5.4.2).

        With inducing items the variance is that of the prediction when whatever their features cannot see of an item,
        r(x) = k(x, x) - k_xm K_mm⁻¹ k_mx, is an independent error beside the noise: of a new item, and of every
        training item, from which it spills into the weights (formula and sources:
        `kernelpot.inference.regressors.Regressors`). The amplitude is then that of the items that are not
        inducing, as no new item is; where those
        were not drawn at random, or fewer than 20 are left, that of all.

        Parameters
        ----------
        X
            As in `predict`; not of a precomputed kernel, which knows no k(x, x).

        Raises
        ------
        NotFittedError
            The model is not fitted.
        ParameterError
            The kernel is precomputed.
        """
        encoded = self._encoded(X)
        if isinstance(self.kernel_, Precomputed):
            raise ParameterError("`std` needs k(x, x), which a precomputed kernel does not tell; give the kernel.")
        with np.errstate(over="ignore", invalid="ignore"):
            variance = self.posterior_.variance(encoded)
        variance = _finite(variance) + self.alpha_ + self.jitter_
        return self._shaped(np.sqrt(variance)[:, None] * self.amplitude())

    def prepare(self, X: Any, *, n_inducing: int | None = None) -> PropertySpace:
        """Return the space of this kernel and alpha on a pool, whose `information` the design room chooses by.

        Parameters
        ----------
        X
            The pool: structures or features. No label is looked at.
        n_inducing
            So many of its items, farthest points, make the space; None: all, for which variances are exact.

        Raises
        ------
        ParameterError
            A parameter breaks its rule, or the kernel is precomputed.
        """
        kernel = self.kernel_ if hasattr(self, "kernel_") else as_kernel(self.kernel)
        alphas = [self.alpha_] if hasattr(self, "alpha_") else _checked_alphas(self.alpha)
        if len(alphas) > 1:
            raise ParameterError(f"`alpha` must be one number before a fit has chosen among {len(alphas)}; give one.")
        return property_space(kernel, X, noise=float(np.sqrt(alphas[0])), n_inducing=n_inducing, seed=self.seed)

    def amplitude(self) -> Float[np.ndarray, " outputs"]:
        """Return the prior standard deviation of each output in units of the kernel's, from leave-one-out errors."""
        self._require_fitted()
        return np.sqrt(self.posterior_.left_out().take(self._calibrating).ratio)

    def left_out(self, folds: Sequence[int] | Int[np.ndarray, " n"] | None = None) -> LeftOut:
        """Return the errors of every training label given all others, or those of other folds, without any refit.

        Kernel, mean and inducing items stay those of all samples.

        Parameters
        ----------
        folds
            Number of the fold of each training item; None: each item alone.

        Returns
        -------
        LeftOut
            With ``error``, label minus prediction, of the shape of y, and ``variance``, what was expected of its
            square.

        Raises
        ------
        NotFittedError
            The model is not fitted.
        ParameterError
            There is not one fold for each item, or there are folds and the model has inducing items.
        """
        self._require_fitted()
        left, spread = self.posterior_.left_out(), self.amplitude()
        if folds is not None:
            left = self.posterior_.left_out(numbered_folds(folds, len(left)))
        return self._left(left, self.mean_.scale, spread)

    def _encoded(self, X: Any) -> Any:
        self._require_fitted()
        return self.kernel_.encode(encoded_of(self, self.kernel_, X, reset=False))

    def _write(self, path: str | Path, label: str | None) -> None:
        from kernelpot.properties.files import write_ridge

        write_ridge(path, self, label)


def _exactly(prior: KernelPrior, *, keep: bool) -> Condition:
    """Return what conditions on labels of all items, with one kernel matrix, which is kept for more than one time."""
    matrix = prior.matrix()
    smallest = None if prior.kernel.definite else smallest_eigenvalue(matrix)

    def condition(labels: Float[np.ndarray, "n outputs"], noise: Float[np.ndarray, " n"]) -> Exact:
        factor = Factor.steadied(matrix, noise, smallest=smallest, keep=keep)
        return Exact(prior, factor, labels=labels)

    return condition


def _best_alpha(
    condition: Condition, alphas: Sequence[float], weights: Float[np.ndarray, " n"], y: Float[np.ndarray, "n outputs"]
) -> tuple[float, Conditioned]:
    """Return the alpha whose leave-one-out errors have the smallest weighted mean square, with its process.

    Each output counts in units of its own mean square; alphas for which the kernel matrix is not positive definite drop
    out.
    """
    scale = np.maximum(weights @ y**2, 1e-300)
    best: tuple[float, float, Conditioned] | None = None
    for alpha in alphas:
        try:
            # Infinite where it overflows.
            with np.errstate(over="ignore"):
                found = condition(y, alpha / weights)
        except ParameterError as error:
            refusal = error
            continue
        if len(alphas) == 1:
            return alpha, found
        score = float((weights @ found.left_out().squared / scale).sum())
        if best is None or score < best[0]:
            best = score, alpha, found
    if best is None:
        raise refusal
    return best[1], best[2]


def _checked_alphas(alpha: Any) -> list[float]:
    """Return the alphas to choose among as positive numbers."""
    many = isinstance(alpha, np.ndarray) and alpha.ndim > 0
    if not many and (isinstance(alpha, str | bytes) or not isinstance(alpha, Sequence)):
        return [real(alpha, "alpha", above=True)]
    values = [real(value, "alpha", above=True) for value in alpha]
    if not values:
        raise ParameterError("`alpha` must hold at least one number, got none; 1e-6 is usual.")
    return values


def _finite(values: np.ndarray) -> np.ndarray:
    """Refuse what a kernel of huge features has made of them."""
    if not np.isfinite(values).all():
        raise DataError("the kernel with `X` is not finite; its features are too large, scale them down.")
    return values
