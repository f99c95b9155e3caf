"""Kernels of environments summed over the atoms of two structures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.stream import runs_of
from kernelpot.kernels import Gaussian
from kernelpot.run import ordered
from kernelpot.structures.encoded import Encoded, unit_or_zero
from kernelpot.structures.vector_kernel import mirrored

ATOMS = 2048
"""Atoms of a run of structures: a tile of two runs has 32 MB at most, one for each thread; most are of one element."""


class EnvironmentKernel(Protocol):
    """A kernel of environment vectors, in two steps so that vectors are made ready once for a tile."""

    @property
    def linear(self) -> bool:
        """Whether it is the dot product of the vectors made ready."""

    def scaled(self, x: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n f"]:
        """Make vectors ready: divide them by their lengths, or by length scales."""

    def values(self, x: Float[np.ndarray, "n f"], z: Float[np.ndarray, "m f"]) -> Float[np.ndarray, "n m"]:
        """Return the kernel of vectors that are ready."""


@dataclass(frozen=True)
class OfUnitVectors:
    """A function of the dot product of unit vectors, such as `DotProduct` and `Gaussian`, at amplitude 1."""

    kernel: Any  # With ``value(s)``

    @property
    def linear(self) -> bool:
        """Whether it is the dot product itself."""
        return getattr(self.kernel, "zeta", None) == 1

    def scaled(self, x: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n f"]:
        """Divide vectors by their lengths."""
        return unit_or_zero(x)

    def values(self, x: Float[np.ndarray, "n f"], z: Float[np.ndarray, "m f"]) -> Float[np.ndarray, "n m"]:
        """Return the kernel of unit vectors."""
        s: np.ndarray = x @ z.T
        if isinstance(self.kernel, Gaussian):
            # In place, as passes over a tile cost as much as the exponential itself.
            s -= 1.0
            s /= self.kernel.length**2
            return np.exp(s, out=s)
        result: np.ndarray = self.kernel.value(s)
        return result


@dataclass(frozen=True, eq=False)
class Run:
    """Some structures in a row, their atoms sorted by what may be compared."""

    start: int  # start, stop: The structures
    stop: int
    # Ready, of each group of atoms; with a linear kernel sums over the atoms of a structure
    vectors: dict[int, Float[np.ndarray, "n f"]]
    structure: dict[int, Int[np.ndarray, " n"]]  # Of every vector, counted from `start`, rising


def run_of(kernel: EnvironmentKernel, encoded: Encoded, start: int, stop: int, *, same_element: bool) -> Run:
    """Return structures ``start:stop`` with their vectors made ready, element by element or all atoms together."""
    atoms = slice(int(encoded.offsets[start]), int(encoded.offsets[stop]))
    x, numbers, structure = kernel.scaled(encoded.vectors[atoms]), encoded.numbers[atoms], encoded.structure[atoms]
    labels = numbers if same_element else np.zeros_like(numbers)
    vectors, owners = {}, {}
    for label in np.unique(labels).tolist():
        mine = np.flatnonzero(labels == label)
        owner, part = structure[mine] - start, x[mine]
        if kernel.linear:
            owner, part = add_up(part, owner)
        vectors[label], owners[label] = part, owner
    return Run(start, stop, vectors, owners)


def add_up(
    values: Float[np.ndarray, "n m"], owner: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, "k m"]]:
    """Add rows of one owner, who rises: return the owners with their sums."""
    begins = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
    return owner[begins], np.add.reduceat(values, begins, axis=0)


def tiles(a: Encoded, b: Encoded | None, atoms: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Cut pairs of structures into pairs of runs; without `b` those on and below the diagonal."""
    rows = list(runs_of(a.sizes, atoms))
    columns = rows if b is None else list(runs_of(b.sizes, atoms))
    for k, row in enumerate(rows):
        for column in columns[: k + 1] if b is None else columns:
            yield row, column


def over_tiles(
    a: Encoded,
    b: Encoded | None,
    block: Callable[[tuple[int, int], tuple[int, int]], Float[np.ndarray, "rows columns"]],
    atoms: int = ATOMS,
) -> Float[np.ndarray, "n m"]:
    """Fill a matrix between structures tile by tile, over the threads; without `b` half of it, mirrored."""
    result = np.empty((len(a), len(a if b is None else b)))

    def fill(tile: tuple[tuple[int, int], tuple[int, int]]) -> None:
        row, column = tile
        result[slice(*row), slice(*column)] = block(row, column)

    for _ in ordered(fill, tiles(a, b, atoms)):
        pass
    return mirrored(result) if b is None else result


def sums(kernel: EnvironmentKernel, a: Encoded, b: Encoded | None, *, same_element: bool) -> Float[np.ndarray, "n m"]:
    """Return Σ_ij k(x_i, y_j) over the atoms i of a structure of `a` and j of one of `b`."""
    other = a if b is None else b

    def block(row: tuple[int, int], column: tuple[int, int]) -> Float[np.ndarray, "rows columns"]:
        left = run_of(kernel, a, *row, same_element=same_element)
        right = left if b is None and row == column else run_of(kernel, other, *column, same_element=same_element)
        total = np.zeros((left.stop - left.start, right.stop - right.start))
        for label in left.vectors.keys() & right.vectors.keys():
            values = kernel.values(left.vectors[label], right.vectors[label])
            owner, values = add_up(values, left.structure[label])
            other_owner, columns = add_up(values.T, right.structure[label])
            total[np.ix_(owner, other_owner)] += columns.T
        return total

    return over_tiles(a, b, block)


def own_sums(kernel: EnvironmentKernel, a: Encoded, *, same_element: bool) -> Float[np.ndarray, " n"]:
    """Return Σ_ij k(x_i, x_j) within each structure."""
    result = np.zeros(len(a))

    def one(s: int) -> None:
        run = run_of(kernel, a, s, s + 1, same_element=same_element)
        result[s] = sum(float(kernel.values(x, x).sum()) for x in run.vectors.values())

    for _ in ordered(one, range(len(a))):
        pass
    return result
