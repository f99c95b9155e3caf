"""What estimators are given: rows of features, or structures for kernels between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d, validate_data

from kernelpot.archive import LARGEST
from kernelpot.errors import DataError, ParameterError
from kernelpot.properties.inputs import STRUCTURES_AS_ROWS, holds_structures, refuse_descriptors
from kernelpot.structures.composites import EncodedPair
from kernelpot.structures.encoded import Encoded
from kernelpot.structures.kernel_protocol import Kernel


class WrongTypeError(DataError, TypeError):
    """Features or targets are no numbers."""


def structure_kernels(kernel: Any) -> tuple[Kernel, ...]:
    """Return the kernels between structures that were given, none where the kernel is one of features."""
    given = list(kernel) if isinstance(kernel, list | tuple) else [kernel]
    refuse_descriptors(given)
    fits = [
        callable(getattr(k, "matrix", None)) and callable(getattr(k, "diagonal", None)) and not isinstance(k, type)
        for k in given
    ]
    if isinstance(kernel, list | tuple) and (not given or not all(fits)):
        raise ParameterError(
            f"a list of kernels must hold kernels between structures alone, with `matrix` and `diagonal`, got "
            f"{kernel!r}; kernels of features are added by +."
        )
    return tuple(given) if all(fits) else ()


def features(estimator: BaseEstimator, X: Any, *, reset: bool, least: int = 1) -> Float[np.ndarray, "n F"]:
    """Return X as float64, finite, with the number of columns that the estimator knows."""
    if holds_structures(X):
        raise DataError(STRUCTURES_AS_ROWS)
    try:
        found: np.ndarray = validate_data(
            estimator, X, reset=reset, dtype=np.float64, ensure_min_samples=least, ensure_all_finite=True
        )
    except TypeError as error:
        raise WrongTypeError(f"features: {error}") from None
    except ValueError as error:
        raise DataError(f"features: {error}") from None
    _check_size("features", found)
    return found


def items(X: Any, kernels: Sequence[Kernel], *, least: int = 1) -> Any:
    """Return structures, or other items of kernels, as a list; what a kernel encoded stays as it is."""
    if isinstance(X, Encoded | EncodedPair):
        foreign = [type(kernel).__name__ for kernel in kernels if not callable(getattr(kernel, "encode", None))]
        if foreign:
            raise DataError(
                f"{foreign[0]} takes structures as a list of ase.Atoms, got what another kernel made of them by "
                "`encode`; give the list."
            )
        found: Any = X
    elif hasattr(X, "numbers") or not isinstance(X, Sequence | np.ndarray):
        raise DataError(f"structures must come as a list, got {type(X).__name__}; put a single one into a list.")
    else:
        found = list(X)
    if len(found) < least:
        raise DataError(f"at least {least} structure(s) are needed, got {len(found)}.")
    return found


def targets(y: Any, n: int) -> tuple[Float[np.ndarray, "n T"], bool]:
    """Return targets as columns of float64, and whether they came as a plain vector."""
    if y is None:
        raise DataError("`y` is needed: this estimator requires y to be passed, but the target y is None.")
    try:
        found = check_array(y, dtype=np.float64, ensure_2d=False, ensure_all_finite=True, input_name="y")
    except (ValueError, TypeError) as error:
        raise DataError(f"targets: {error}") from None
    if found.ndim not in (1, 2) or 0 in found.shape:
        raise DataError(f"`y` must be of shape (n,) or (n, outputs), got {found.shape}.")
    try:
        check_consistent_length(range(n), found)
    except ValueError as error:
        raise DataError(f"targets: {error}; one row of `y` for each item.") from None
    _check_size("targets", found)
    return found.reshape(n, -1), found.ndim == 1


def _check_size(what: str, values: np.ndarray) -> None:
    """Refuse numbers whose squares are none."""
    largest = float(np.abs(values).max())
    if largest > LARGEST:
        raise DataError(f"{what}: numbers must be at most {LARGEST:g}, found {largest:g}; change the unit.")


def labels_of(y: Any, n: int) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """Return the classes, sorted, and the number of every item's class."""
    if y is None:
        raise DataError("`y` is needed: this estimator requires y to be passed, but the target y is None.")
    try:
        column = column_or_1d(y, warn=True)
        check_classification_targets(column)
        check_consistent_length(range(n), column)
        classes, numbers = np.unique(column, return_inverse=True)
    except (ValueError, TypeError) as error:
        raise DataError(f"classes: {error}") from None
    if len(classes) < 2:
        raise DataError(f"at least two classes are needed, got {len(classes)} class.")
    return classes, numbers
