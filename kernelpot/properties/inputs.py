"""What models of properties are given, checked and brought into the form that kernels take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import sklearn.exceptions
from jaxtyping import Float, Int
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d, validate_data

from kernelpot.archive import LARGEST
from kernelpot.doors import renamed
from kernelpot.errors import DataError, LabelError, NotFittedError, ParameterError
from kernelpot.inference.left_out import LeftOut
from kernelpot.record import Record
from kernelpot.rules import reals, shown, whole
from kernelpot.structures.composites import EncodedPair, ItemKernel, Product, Scaled, Sum, structures_of
from kernelpot.structures.encoded import Encoded
from kernelpot.structures.structure_kernel import StructureKernel
from kernelpot.structures.vector_kernel import KINDS, VectorKernel

STRUCTURES_AS_ROWS = (
    "this kernel compares rows of features, and `X` holds structures; give a StructureKernel, or make rows of them by "
    "StructureFeatures."
)


class UnfittedError(NotFittedError, sklearn.exceptions.NotFittedError):
    """An estimator was asked for something that only a fitted one has; scikit-learn's error as well."""


class WrongTypeError(DataError, TypeError):
    """Features are no numbers; a TypeError as well, as scikit-learn has it."""


# ---- kernels


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


def structure_kernels(kernel: Any) -> tuple[ItemKernel, ...]:
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


def refuse_descriptors(kernels: Sequence[Any]) -> None:
    """Refuse a descriptor where a kernel is wanted."""
    for kernel in kernels:
        if hasattr(kernel, "environments") and not hasattr(kernel, "matrix"):
            name = type(kernel).__name__
            raise ParameterError(
                f"`kernel` must be a kernel, got the descriptor {name}; put it into a StructureKernel."
            )


def takes_rows(kernel: Any) -> bool:
    """Tell whether a kernel takes rows of numbers, not structures."""
    if isinstance(kernel, Scaled):
        return takes_rows(kernel.kernel)
    if isinstance(kernel, Sum | Product):
        return takes_rows(kernel.first)
    return isinstance(kernel, VectorKernel | Precomputed)


# ---- items


def rows_of(estimator: Any, X: Any, *, reset: bool, least: int = 1) -> Float[np.ndarray, "n F"]:
    """Return rows of features as float64, finite, with as many columns as the estimator knows or learns now."""
    rows = X.ndim > 0 if isinstance(X, np.ndarray) else isinstance(X, list | tuple)
    if structures_of(X) is not None or (rows and len(X) > 0 and hasattr(X[0], "positions")):
        raise DataError(STRUCTURES_AS_ROWS)
    try:
        found: np.ndarray = validate_data(estimator, X, reset=reset, dtype=np.float64, ensure_min_samples=least)
    except TypeError as error:
        raise WrongTypeError(f"`X` cannot be used: {error}") from None
    except ValueError as error:
        raise DataError(f"`X` cannot be used: {error}") from None
    _check_size("X", found, DataError)
    return found


def encoded_of(estimator: Any, kernel: Any, X: Any, *, reset: bool) -> Any:
    """Return what a kernel makes of structures, of rows of features, or of rows of its own matrix."""
    if not takes_rows(kernel):
        return kernel.encode(X)
    values = rows_of(estimator, X, reset=reset)
    if not isinstance(kernel, Precomputed):
        return values
    if reset and values.shape[0] != values.shape[1]:
        raise DataError(f"a precomputed kernel must be a square matrix, got shape {values.shape}.")
    if reset and not np.allclose(values, values.T, rtol=1e-8, atol=1e-10 * float(np.abs(values).max())):
        raise DataError("a precomputed kernel must be symmetric; average it with its transpose if it nearly is.")
    return KernelRows(values, np.arange(len(values)))


def items_of(X: Any, kernels: Sequence[ItemKernel], *, least: int = 1) -> Any:
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


@dataclass(frozen=True, eq=False)
class Scaling:
    """Centre and spread of every feature."""

    centre: Float[np.ndarray, " F"]  # What is taken off
    spread: Float[np.ndarray, " F"]  # What it is divided by; 1 for a feature that does not vary

    @classmethod
    def of(cls, x: Float[np.ndarray, "n F"], *, normalise: bool) -> Scaling:
        """Measure training features, or leave them as they are."""
        if not normalise:
            return cls(np.zeros(x.shape[1]), np.ones(x.shape[1]))
        spread = x.std(axis=0)
        # The spread of equal numbers is round-off.
        return cls(x.mean(axis=0), np.where(spread > 1e-12 * np.abs(x).max(axis=0), spread, 1.0))

    def apply(self, x: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n F"]:
        """Return scaled features."""
        return (x - self.centre) / self.spread


# ---- labels


def targets_of(y: Any, n: int) -> tuple[Float[np.ndarray, "n outputs"], bool]:
    """Return targets as columns of float64, and whether they came as a plain vector."""
    _require_labels(y)
    try:
        found = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
    except (ValueError, TypeError) as error:
        raise LabelError(f"`y` cannot be used: {error}") from None
    if found.ndim not in (1, 2) or 0 in found.shape:
        raise LabelError(f"`y` must be of shape (n,) or (n, outputs), got {found.shape}.")
    try:
        check_consistent_length(range(n), found)
    except ValueError as error:
        raise LabelError(f"`y` cannot be used: {error}; one row of `y` for each item.") from None
    _check_size("y", found, LabelError)
    return found.reshape(n, -1), found.ndim == 1


def labels_of(y: Any, n: int) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """Return the classes, sorted, and the number of every item's class."""
    _require_labels(y)
    try:
        column = column_or_1d(y, warn=True)
        with np.errstate(invalid="ignore"):
            check_classification_targets(column)
        check_consistent_length(range(n), column)
        classes, numbers = np.unique(column, return_inverse=True)
    except (ValueError, TypeError) as error:
        raise LabelError(f"`y` cannot be used as classes: {error}") from None
    if len(classes) < 2:
        raise LabelError(f"at least two classes are needed, got {len(classes)} class.")
    return classes, numbers


def _require_labels(y: Any) -> None:
    if y is None:
        raise LabelError("`y` is needed: this estimator requires y to be passed, but the target y is None.")


def _check_size(name: str, values: np.ndarray, error: type[DataError]) -> None:
    """Refuse numbers whose squares are none."""
    largest = float(np.abs(values).max())
    if largest > LARGEST:
        raise error(f"`{name}` must hold numbers up to {LARGEST:g}, found {largest:g}; change the unit.")


# ---- settings


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


def checked_label(label: Any) -> str | None:
    """Return the name of a property for a file, or None."""
    if label is not None and not (isinstance(label, str) and label):
        raise ParameterError(f"`label` must be the name of the property, got {label!r}.")
    return label


def switches(**given: object) -> None:
    """Refuse what is neither True nor False."""
    for name, value in given.items():
        if not isinstance(value, bool | np.bool_):
            raise ParameterError(f"`{name}` must be True or False, got {shown(value)}.")


def searching(given: bool | Mapping[str, int] | None, usual: Mapping[str, int]) -> dict[str, Any]:
    """Return how hyper-parameters are searched, and whether, out of what a model was asked for and what is usual."""
    if given is None or isinstance(given, bool | np.bool_):
        return {"optimise": bool(given), **usual}
    if not isinstance(given, Mapping) or not given.keys() <= usual.keys():
        raise ParameterError(
            f"`search` must be True, False, or a dict with some of {', '.join(usual)}, got {shown(given)}."
        )
    least = {"starts": 1, "n_warm": 2, "full_steps": 0}
    found = {name: whole(value, name, least=least[name]) for name, value in given.items()}
    return {"optimise": True, **usual, **found}


# ---- what models of properties share


class PropertyModel:
    """A model of properties as an estimator: parameters under old names, left-out errors, files."""

    _old: ClassVar[dict[str, Callable[[Any, Any], tuple[str, Any]]]] = {}  # From a model and a value to name and value
    posterior_: Any
    _single: bool

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, as scikit-learn does; old names are taken for one release."""
        for name in self._old.keys() & params.keys():
            new, value = self._old[name](self, params.pop(name))
            renamed(name, new)
            setattr(self, new, value)
        super().set_params(**params)  # type: ignore[misc]
        return self

    def save(self, path: str | Path, *, label: str | None = None) -> None:
        """Write the fitted model to one file that `kernelpot.load` reads, safetensors with JSON; it holds no code.

        Structures are kept as vectors or as they came. A kernel by name, or of kernelpot's own, is in the file; of
        another only its hyper-parameters are: it is given again to read it.

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
        self._require_fitted()
        self._write(path, checked_label(label) or getattr(self, "label_", None))

    def _write(self, path: str | Path, label: str | None) -> None:
        raise NotImplementedError

    def _require_fitted(self) -> None:
        """Refuse a model that is not fitted."""
        if not hasattr(self, "posterior_"):
            raise UnfittedError(f"this {type(self).__name__} is not fitted yet; call fit(X, y) first.")

    def _shaped(self, values: Float[np.ndarray, "n outputs"]) -> Float[np.ndarray, "n *outputs"]:
        return values[:, 0] if self._single else values

    def _left(
        self, left: LeftOut, scale: Float[np.ndarray, " outputs"], spread: Float[np.ndarray, " outputs"]
    ) -> LeftOut:
        """Return left-out errors in units of y: those of the process times a scale, its stds times a spread."""
        variance = left.variance[:, None] * spread**2
        return replace(left, error=self._shaped(left.error * scale), variance=self._shaped(variance))
