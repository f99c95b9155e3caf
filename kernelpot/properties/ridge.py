"""Kernel ridge regression on structures or features, as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, RegressorMixin

from kernelpot.errors import ParameterError
from kernelpot.inference.alphas import Fit, best_alpha, checked_alphas
from kernelpot.inference.least_squares_inducing import Inducing, calibrating_items
from kernelpot.inference.means import Baseline
from kernelpot.inference.solvers import Exact, smallest_eigenvalue
from kernelpot.properties.inputs import (
    KernelRows,
    Precomputed,
    as_kernel,
    checked_label,
    checked_targets,
    checked_weights,
    choose_items,
    items_of,
    numbered_folds,
    require_fitted,
)
from kernelpot.properties.property_rows import PropertySpace, property_space
from kernelpot.rules import MOST_SEED, whole
from kernelpot.run import calm_blas
from kernelpot.structures.structure_kernel import extensive

ENTRIES = 20_000_000
"""Kernel values held at a time where rows are streamed."""
KEPT = 50_000_000
"""Most kernel values that stay in memory, 400 MB, instead of being computed in every pass."""


class KernelRidge(RegressorMixin, BaseEstimator):
    """Kernel ridge regression: f = k(x, X)(K + α/w)⁻¹(y - baseline) + baseline.

    It is the mean of a Gaussian process with the noise variance α in the kernel's unit, which is what `std` uses.

    Parameters
    ----------
    kernel
        A `StructureKernel` for lists of `ase.Atoms`, a `VectorKernel` for rows of features, sums and products of such;
        or the name of a kind of `VectorKernel`, or "precomputed": X is then the kernel matrix itself.
    alpha
        Added to the diagonal, in the unit of the kernel's values; of several numbers that with the smallest mean square
        leave-one-out error, found with one kernel matrix.
    baseline
        Subtracted before, added after: "mean", "composition" (least squares on the numbers of atoms of each element,
        for extensive properties) or None. "auto": "composition" where the kernel is a plain sum over environments,
        else "mean".
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
    baseline_
        What was subtracted.
    jitter_
        What had to be added to the diagonal beside alpha: zero, or round-off, or for a kernel that is not positive
        semidefinite (REMatch) what alpha lacks to twice the size of its smallest eigenvalue, which may be minus a
        twentieth of its mean variance.
    """

    def __init__(
        self,
        kernel: Any = "rbf",
        *,
        alpha: float | Sequence[float] = 1e-6,
        baseline: str | None = "auto",
        n_inducing: int | None = None,
        inducing: str = "random",
        seed: int = 0,
    ) -> None:
        self.kernel = kernel
        self.alpha = alpha
        self.baseline = baseline
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
            Parameters or arrays break their rules, or the kernel matrix is not positive definite.
        DataError, SpeciesError
            A structure is unusable.
        """
        alphas = checked_alphas(self.alpha)
        whole(self.seed, "seed", most=MOST_SEED)
        kernel = as_kernel(self.kernel)
        items = items_of(self, kernel, X, reset=True)
        y, self._single = checked_targets(y, len(items))
        weights = checked_weights(sample_weight, len(items))
        if not (weights > 0.0).all():
            used = np.flatnonzero(weights > 0.0)
            items, y, weights = items[used], y[used], weights[used]
        self.kernel_ = kernel.prepared(items)
        encoded = self.kernel_.encode(items)
        kind = self.baseline
        if isinstance(kind, str) and kind == "auto":
            kind = "composition" if extensive(self.kernel_) else "mean"
        self.baseline_ = Baseline.fitted(kind, encoded, y, weights)
        rest = y - self.baseline_.predict(encoded, len(y))
        if self.n_inducing is None or whole(self.n_inducing, "n_inducing", least=1) >= len(y):
            self.items_ = encoded
            matrix = self.kernel_.matrix(encoded)
            smallest = None if self.kernel_.definite else smallest_eigenvalue(matrix)
            fitted: Fit = partial(Exact.fitted, matrix, smallest=smallest, keep=len(alphas) > 1)
        else:
            chosen = choose_items(encoded, int(self.n_inducing), self.inducing, self.seed)
            self.items_ = encoded[chosen]
            like_new = calibrating_items(len(y), chosen, self.inducing)
            own, diagonal = self.kernel_.matrix(self.items_), self.kernel_.diagonal(encoded)
            fitted = partial(Inducing.fitted, own, diagonal, like_new, self._repeated(encoded))
        with calm_blas(len(y)):
            self.alpha_, self.state_ = best_alpha(fitted, alphas, weights, rest)
        self.jitter_ = self.state_.jitter
        if isinstance(self.items_, KernelRows):
            # Their columns alone are needed, not the matrix.
            self.items_ = KernelRows(np.empty((0, 0)), self.items_.places)
        return self

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
        DataError, SpeciesError, ParameterError
            As in `fit`.
        """
        encoded = self._encoded(X)
        with np.errstate(over="ignore", invalid="ignore"):
            parts = [self.state_.predict(block) for block in self._blocks(encoded)]
        return self._shaped(_finite(np.concatenate(parts)) + self.baseline_.predict(encoded, len(encoded)))

    def std(self, X: Any) -> np.ndarray:
        """Return standard deviations of labels, noise included, of the shape of the predictions.

        They are those of the Gaussian process with this kernel and noise, times one amplitude for each output, which
        makes the mean square of leave-one-out errors divided by their stds one (Rasmussen and Williams (2006), section
        5.4.2).

        With inducing items the variance is that of the prediction when whatever their features cannot see of an item,
        r(x) = k(x, x) - k_xm K_mm⁻¹ k_mx, is an independent error beside the noise: of a new item, and of every
        training item, from which it spills into the weights (formula and sources:
        `kernelpot.inference.least_squares_inducing.Inducing`). The amplitude is then that of the items that are not
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
        parts, start = [], 0
        with np.errstate(over="ignore", invalid="ignore"):
            own = self.kernel_.diagonal(encoded)
            for block in self._blocks(encoded):
                parts.append(self.state_.variance(own[start : start + len(block)], block))
                start += len(block)
        variance = _finite(np.concatenate(parts)) + self.alpha_ + self.jitter_
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
        alphas = [self.alpha_] if hasattr(self, "alpha_") else checked_alphas(self.alpha)
        if len(alphas) > 1:
            raise ParameterError(f"`alpha` must be one number before a fit has chosen among {len(alphas)}; give one.")
        return property_space(kernel, X, noise=float(np.sqrt(alphas[0])), n_inducing=n_inducing, seed=self.seed)

    def amplitude(self) -> Float[np.ndarray, " outputs"]:
        """Return the prior standard deviation of each output in units of the kernel's, from leave-one-out errors."""
        require_fitted(self)
        return np.sqrt(self.state_.left_out().take(self.state_.calibrating).ratio)

    def leave_one_out(self) -> np.ndarray:
        """Return y_i minus its prediction by the fit without i, of the shape of y, without any refit.

        Kernel, baseline and inducing items stay those of all samples.

        Raises
        ------
        NotFittedError
            The model is not fitted.
        """
        require_fitted(self)
        return self._shaped(self.state_.left_out().error)

    def leave_out(self, folds: Sequence[int] | Int[np.ndarray, " n"]) -> np.ndarray:
        """Return y minus its prediction by the fit without its whole fold, of the shape of y, without any refit.

        Parameters
        ----------
        folds
            Number of the fold of each training item.

        Raises
        ------
        NotFittedError
            The model is not fitted.
        ParameterError
            There is not one fold for each item, or the model has inducing items.
        """
        require_fitted(self)
        if not isinstance(self.state_, Exact):
            raise ParameterError("`leave_out` needs an exact fit; set n_inducing=None, or use cross_val_predict.")
        return self._shaped(self.state_.left_out(numbered_folds(folds, len(self.state_.dual))).error)

    def save(self, path: str | Path, *, label: str | None = None) -> None:
        """Write the fitted model, with its items as vectors, to a file that `kernelpot.load` reads.

        Parameters
        ----------
        path
            Of the file, which appears whole or not at all.
        label
            Name of the property, which the command line reads and writes; `label_` of the loaded model.

        Raises
        ------
        NotFittedError
            The model is not fitted.
        ParameterError
            The label is no text.
        ModelFileError
            The file cannot be written.
        """
        from kernelpot.properties.records import write_ridge

        require_fitted(self)
        write_ridge(path, self, checked_label(label) or getattr(self, "label_", None))

    def _encoded(self, X: Any) -> Any:
        require_fitted(self)
        return self.kernel_.encode(items_of(self, self.kernel_, X, reset=False))

    def _blocks(self, encoded: Any) -> Iterator[Float[np.ndarray, "rows m"]]:
        """Yield the kernel with the items of the model, so many rows at a time as memory allows."""
        rows = max(1, ENTRIES // len(self.items_))
        for start in range(0, len(encoded), rows):
            part = encoded if len(encoded) <= rows else encoded[start : start + rows]
            yield self.kernel_.matrix(part, self.items_)

    def _repeated(self, encoded: Any) -> Callable[[], Iterable[Float[np.ndarray, "rows m"]]]:
        """Return what makes the blocks as often as they are asked for, out of memory where they are few."""
        if len(encoded) * len(self.items_) > KEPT:
            return partial(self._blocks, encoded)
        kept = list(self._blocks(encoded))
        return lambda: kept

    def _shaped(self, values: Float[np.ndarray, "n outputs"]) -> np.ndarray:
        return values[:, 0] if self._single else values


def _finite(values: np.ndarray) -> np.ndarray:
    """Refuse what a kernel of huge features has made of them."""
    if not np.isfinite(values).all():
        raise ParameterError("the kernel with `X` is not finite; its features are too large, scale them down.")
    return values
