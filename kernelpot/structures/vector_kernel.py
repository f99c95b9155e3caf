"""Kernels of two rows of numbers: features of structures, or environment vectors as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from kernelpot.errors import DataError, ParameterError
from kernelpot.linalg.dense import mirrored
from kernelpot.record import OneOf, Record, Whole
from kernelpot.rules import real, reals, shown
from kernelpot.run import ordered
from kernelpot.structures.composites import Composable

KINDS = ("rbf", "laplacian", "exponential", "matern32", "matern52", "linear", "polynomial")
ROWS = 512
SHORTEST = 1e-300
"""Length that features can be divided by."""
SAMPLE = 1000
"""Rows that the median distance is taken of."""


@dataclass(eq=False, repr=False)
class VectorKernel(Composable, Record):
    """k(x, z) of two vectors at amplitude 1; ``0.5 * kernel`` scales its variance.

    "rbf" is exp(-d²/2), "exponential" exp(-d), "laplacian" exp(-Σ|x_f - z_f|/length_f), "matern32" (1 + √3d)exp(-√3d),
    "matern52" (1 + √5d + 5d²/3)exp(-√5d), with d² = Σ(x_f - z_f)²/length_f²; "linear" s, "polynomial" (1 + s)^degree
    with s = Σ x_f z_f/length_f² (Rasmussen and Williams (2006), section 4.2).

    Parameters
    ----------
    kind
        One of these names.
    length
        Length scale in the features' unit; one for each feature is automatic relevance determination. None: the median
        distance between the structures that a model is fitted to (in the kernel's own distance), and for "linear" and
        "polynomial" the root mean square length of their vectors.
    degree
        Whole power of "polynomial".

    Raises
    ------
    ParameterError
        When it is used: the kind is unknown, a length is not positive, or there are more or fewer than features.
    """

    definite: ClassVar[bool] = True

    kind: Annotated[str, OneOf(KINDS)] = "rbf"
    _: KW_ONLY
    length: float | Sequence[float] | np.ndarray | None = None
    degree: Annotated[int, Whole(1, 16)] = 3

    @property
    def stationary(self) -> bool:
        """Whether k(x, x) = 1."""
        return self.kind not in ("linear", "polynomial")

    @property
    def linear(self) -> bool:
        """Whether it is the dot product of scaled vectors."""
        return self.kind == "linear"

    def check(self) -> None:
        """Refuse parameters that break their rules."""
        self.checked_values()
        if self.length is None:
            return
        length = reals(self.length, "length")
        if length.ndim == 0:
            real(self.length, "length", least=SHORTEST)
            return
        if length.ndim != 1 or not len(length) or not (np.isfinite(length) & (length >= SHORTEST)).all():
            raise ParameterError(
                f"`length` must hold one length from {SHORTEST:g} on for each feature, got {shown(self.length)}."
            )

    def verify(self) -> None:
        """Refuse a kernel that would take its length from whatever it is asked about."""
        self.check()
        if self.length is None:
            raise ValueError(f"a fitted kernel {self.kind!r} must have a length, found none")

    def prepared(self, items: Float[np.ndarray, "n f"]) -> VectorKernel:
        """Return the kernel with its length; where it was None, that of these rows."""
        self.check()
        if self.length is not None:
            return self
        # Each point once, so that repeating one says the same as its weight.
        x = np.unique(rows(items), axis=0)
        x = x[np.unique(np.linspace(0, len(x) - 1, SAMPLE).astype(int))]
        if not self.stationary:
            length = float(np.sqrt(np.mean(np.einsum("if,if->i", x, x))))
        else:
            apart = cdist(x, x, "cityblock" if self.kind == "laplacian" else "euclidean")
            apart = apart[apart > 0.0]
            length = float(np.median(apart)) if len(apart) else 1.0
        return VectorKernel(self.kind, length=length if 0.0 < length < np.inf else 1.0, degree=self.degree)

    def encode(self, items: Any) -> Float[np.ndarray, "n f"]:
        """Return a copy of the rows as numbers, which a model keeps whatever becomes of the original."""
        return rows(items).copy()

    def matrix(self, a: Any, b: Any | None = None) -> Float[np.ndarray, "n m"]:
        """Return k(a_i, b_j); without `b` k(a_i, a_j), symmetric to the last bit."""
        kernel = self.prepared(a)
        x = kernel.scaled(rows(a))
        z = x if b is None else kernel.scaled(rows(b))
        if x.shape[1] != z.shape[1]:
            raise DataError(f"both sets must have the same features, got {x.shape[1]} and {z.shape[1]}.")
        result = np.empty((len(x), len(z)))
        starts = range(0, len(x), ROWS)

        def fill(start: int) -> None:
            part = slice(start, min(start + ROWS, len(x)))
            # Without `b` up to the diagonal only.
            stop = part.stop if b is None else len(z)
            result[part, :stop] = kernel.values(x[part], z[:stop])

        for _ in ordered(fill, starts):
            pass
        if b is None:
            mirrored(result)
            if kernel.stationary:
                np.fill_diagonal(result, 1.0)
        return result

    def diagonal(self, a: Any) -> Float[np.ndarray, " n"]:
        """Return k(a_i, a_i)."""
        kernel = self.prepared(a)
        x = kernel.scaled(rows(a))
        if kernel.stationary:
            return np.ones(len(x))
        return kernel._of_products(np.einsum("if,if->i", x, x))

    def scaled(self, x: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n f"]:
        """Divide features by their lengths."""
        length = np.asarray(1.0 if self.length is None else self.length, dtype=np.float64)
        if length.ndim and len(length) != x.shape[1]:
            raise ParameterError(f"`length` must hold one for each of {x.shape[1]} features, got {len(length)}.")
        with np.errstate(over="ignore"):
            result: np.ndarray = x / length
        return result

    def values(self, x: Float[np.ndarray, "n f"], z: Float[np.ndarray, "m f"]) -> Float[np.ndarray, "n m"]:
        """Return the kernel of vectors that `scaled` has divided; of huge ones it may not be finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._values(x, z)

    def _values(self, x: Float[np.ndarray, "n f"], z: Float[np.ndarray, "m f"]) -> Float[np.ndarray, "n m"]:
        if self.kind == "laplacian":
            return np.exp(-cdist(x, z, "cityblock"))
        result: np.ndarray = x @ z.T
        if not self.stationary:
            return self._of_products(result)
        result *= -2.0
        result += np.einsum("if,if->i", x, x)[:, None]
        result += np.einsum("if,if->i", z, z)
        # Round-off may leave the square of no distance below zero.
        np.maximum(result, 0.0, out=result)
        if self.kind == "rbf":
            result *= -0.5
            return np.exp(result, out=result)
        d = np.sqrt(result, out=result)
        if self.kind == "exponential":
            return np.exp(-d)
        if self.kind == "matern32":
            d *= np.sqrt(3.0)
            return (1.0 + d) * np.exp(-d)
        d *= np.sqrt(5.0)
        return (1.0 + d + d * d / 3.0) * np.exp(-d)

    def _of_products(self, s: np.ndarray) -> np.ndarray:
        return s if self.kind == "linear" else (1.0 + s) ** self.degree


def rows(items: Any) -> Float[np.ndarray, "n f"]:
    """Return a matrix of features, one row for each structure."""
    try:
        array = reals(items, "X").astype(np.float64, copy=False)
    except ParameterError as error:
        raise DataError(str(error)) from None
    if array.ndim != 2 or not array.size:
        raise DataError(
            f"`X` must have the shape (structures, features), got {array.shape}; a StructureKernel takes structures."
        )
    if not np.isfinite(array).all():
        raise DataError("`X` must hold finite numbers, found NaN or infinity; repair or drop those rows.")
    return np.ascontiguousarray(array)
