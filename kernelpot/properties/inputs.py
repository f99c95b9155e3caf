"""What estimators are given, checked and brought into the form that kernels take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import sklearn.exceptions
from jaxtyping import Float, Int
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d, validate_data

from kernelpot.archive import LARGEST
from kernelpot.errors import NotFittedError, ParameterError
from kernelpot.linalg.subsets import farthest_points, kmeans_medoids
from kernelpot.record import Record
from kernelpot.rules import reals, shown
from kernelpot.structures.composites import EncodedPair, Product, Scaled, Sum, structures_of
from kernelpot.structures.structure_kernel import StructureKernel
from kernelpot.structures.vector_kernel import KINDS, VectorKernel

INDUCING = ("random", "fps", "kmeans")

STRUCTURES_AS_ROWS = (
    "this kernel compares rows of features, and `X` holds structures; give a StructureKernel, or make rows of them by "
    "StructureFeatures."
)


class UnfittedError(NotFittedError, sklearn.exceptions.NotFittedError):
    """An estimator was asked for something that only a fitted one has; scikit-learn's error as well."""


class NoNumberError(ParameterError, TypeError):
    """An array holds what is no number; a TypeError as well, as scikit-learn has it."""


@dataclass(frozen=True, eq=False)
class KernelRows:
    """Rows of a kernel matrix that the user made, with the columns that are the items' own."""

    values: Float[np.ndarray, "n training"]  # Kernel with all the training items
    places: Int[np.ndarray, " n"]  # Column of each row's item, where it is a training item

    def __len__(self) -> int:
        """Count the rows, or the items where the rows were not kept."""
        return len(self.places)

    def __getitem__(self, key: Any) -> KernelRows:
        """Return some of the rows."""
        return KernelRows(self.values[key], self.places[key])


@dataclass(frozen=True)
class Precomputed(Record):
    """A kernel whose values are given."""

    definite: ClassVar[bool] = True

    def prepared(self, items: KernelRows) -> Precomputed:  # noqa: ARG002
        """Return itself: it has nothing to learn."""
        return self

    def encode(self, items: KernelRows) -> KernelRows:
        """Return the rows."""
        return items

    def matrix(self, a: KernelRows, b: KernelRows | None = None) -> Float[np.ndarray, "n m"]:
        """Return the columns of b's items."""
        return a.values[:, (a if b is None else b).places]

    def diagonal(self, a: KernelRows) -> Float[np.ndarray, " n"]:
        """Return the values of training items with themselves."""
        result: np.ndarray = a.values[np.arange(len(a)), a.places]
        return result


def as_kernel(kernel: Any) -> Any:
    """Return the kernel that a name stands for, or the one given."""
    if isinstance(kernel, str):
        if kernel == "precomputed":
            return Precomputed()
        if kernel in KINDS:
            return VectorKernel(kernel)
    elif isinstance(kernel, StructureKernel | VectorKernel | Sum | Product | Scaled):
        return kernel
    refuse_descriptors([kernel])
    raise ParameterError(
        f"`kernel` must be a StructureKernel, a VectorKernel, a sum or product of such, or one of "
        f"{', '.join(KINDS)}, precomputed; got {kernel!r}."
    )


def refuse_descriptors(kernels: Sequence[Any]) -> None:
    """Refuse a descriptor where a kernel is wanted."""
    for kernel in kernels:
        if hasattr(kernel, "environments") and not hasattr(kernel, "matrix"):
            name = type(kernel).__name__
            raise ParameterError(
                f"`kernel` must be a kernel, got the descriptor {name}; put it into a StructureKernel."
            )


def holds_structures(X: Any) -> bool:
    """Tell whether a list or an array holds structures, or a kernel encoded some."""
    if structures_of(X) is not None:
        return True
    rows = X.ndim > 0 if isinstance(X, np.ndarray) else isinstance(X, list | tuple)
    return rows and len(X) > 0 and hasattr(X[0], "positions")


def items_of(estimator: Any, kernel: Any, X: Any, *, reset: bool) -> Any:
    """Return structures as they are, rows of features or of a kernel matrix as arrays that scikit-learn has checked."""
    if not takes_rows(kernel):
        return kernel.encode(X)
    if holds_structures(X):
        raise ParameterError(STRUCTURES_AS_ROWS)
    try:
        values = validate_data(estimator, X, reset=reset, dtype=np.float64)
    except TypeError as error:
        raise NoNumberError(f"`X` cannot be used: {error}") from None
    except ValueError as error:
        raise ParameterError(f"`X` cannot be used: {error}") from None
    if not isinstance(kernel, Precomputed):
        return values
    if reset and values.shape[0] != values.shape[1]:
        raise ParameterError(f"a precomputed kernel must be a square matrix, got shape {values.shape}.")
    if reset and not np.allclose(values, values.T, rtol=1e-8, atol=1e-10 * float(np.abs(values).max())):
        raise ParameterError("a precomputed kernel must be symmetric; average it with its transpose if it nearly is.")
    return KernelRows(values, np.arange(len(values)))


def takes_rows(kernel: Any) -> bool:
    """Tell whether a kernel takes rows of numbers, not structures."""
    if isinstance(kernel, Scaled):
        return takes_rows(kernel.kernel)
    if isinstance(kernel, Sum | Product):
        return takes_rows(kernel.first)
    return isinstance(kernel, VectorKernel | Precomputed)


def checked_targets(y: Any, n: int) -> tuple[Float[np.ndarray, "n outputs"], bool]:
    """Return y with one column for each output, and whether it was given without columns."""
    if y is None:
        raise ParameterError("`y` must hold a number for each item; requires y to be passed, but the target y is None.")
    try:
        values = check_array(y, dtype=np.float64, ensure_2d=False, allow_nd=False, input_name="y")
        single = values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)
        if values.ndim == 2 and values.shape[1] == 1:
            values = column_or_1d(values, warn=True)
        check_consistent_length(np.empty(n), values)
    except (ValueError, TypeError) as error:
        raise ParameterError(f"`y` cannot be used: {error}") from None
    if np.abs(values).max() > LARGEST:
        raise ParameterError(f"`y` must hold numbers up to {LARGEST:g}, found larger ones; change the unit.")
    return values.reshape(n, -1), single


def checked_weights(weights: Any, n: int) -> Float[np.ndarray, " n"]:
    """Return weights; 1 where there are none."""
    if weights is None:
        return np.ones(n)
    try:
        values = reals(weights, "sample_weight").astype(np.float64)
    except ParameterError:
        raise ParameterError(f"`sample_weight` must hold a number for each of {n} items, got {weights!r}.") from None
    if values.ndim == 0:
        values = np.full(n, float(values))
    if values.shape != (n,):
        raise ParameterError(f"`sample_weight` must hold a number for each of {n} items, got shape {values.shape}.")
    if not (np.isfinite(values) & (values >= 0.0)).all():
        raise ParameterError(f"`sample_weight` must be finite and not negative, found {values.min()}.")
    if not values.any():
        raise ParameterError("`sample_weight` must leave an item, yet every weight is zero.")
    return values


def numbered_folds(folds: Any, n: int) -> Int[np.ndarray, " n"]:
    """Return the fold of each item as a number from 0 on."""
    try:
        labels = np.asarray(folds)
    except ValueError:
        raise ParameterError(f"`folds` must hold a number for each of {n} items, got parts of other lengths.") from None
    if labels.shape != (n,):
        raise ParameterError(f"`folds` must hold a number for each of {n} items, got shape {labels.shape}.")
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels):
        labels = labels.astype(str)
    if labels.dtype.kind not in "biufUS" or (labels.dtype.kind == "f" and not np.isfinite(labels).all()):
        raise ParameterError(
            f"`folds` must hold a number or a name for each item, found {shown(folds)}; number them from 0 on."
        )
    numbers: np.ndarray = np.unique(labels, return_inverse=True)[1]
    return numbers


def require_fitted(estimator: Any) -> None:
    """Refuse an estimator that is not fitted."""
    if not hasattr(estimator, "state_"):
        raise UnfittedError(f"this {type(estimator).__name__} is not fitted yet; call fit first.")


def checked_label(label: Any) -> str | None:
    """Return the name of a property for a file, or None."""
    if label is not None and not (isinstance(label, str) and label):
        raise ParameterError(f"`label` must be the name of the property, got {label!r}.")
    return label


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
