"""Structures as their environment vectors, described once for everything that follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from kernelpot.archive import read_arrays
from kernelpot.data.batch import Batch
from kernelpot.data.stream import chunks, runs_of, species_of
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.errors import ParameterError
from kernelpot.kernels import Gaussian
from kernelpot.linalg.dense import mirrored
from kernelpot.progress import track
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class Encoded:
    """Environment vectors of structures, as the descriptor makes them, with what else a property model looks at.

    It can be indexed and cut like a one-dimensional array, so that cross-validation works on it.
    """

    descriptor: Descriptor  # What made the vectors, with its species set
    vectors: Float[np.ndarray, "atoms f"]  # Of every atom, not normalised
    numbers: Int[np.ndarray, " atoms"]  # Atomic number of every atom
    offsets: Int[np.ndarray, " structures_plus_1"]  # Atoms of structure s are ``offsets[s]:offsets[s + 1]``
    groups: tuple[str, ...]  # ``config_type`` of each structure, empty where there is none
    # elements, ends: Of a descriptor with one vector for each structure, which stands as the only environment
    # there: atomic numbers of all atoms, those of structure s in ``elements[ends[s]:ends[s + 1]]``. None:
    # `numbers` and `offsets` say it.
    elements: Int[np.ndarray, " all_atoms"] | None = None
    ends: Int[np.ndarray, " structures_plus_1"] | None = None

    def __len__(self) -> int:
        """Count the structures."""
        return len(self.offsets) - 1

    @property
    def shape(self) -> tuple[int]:
        """One item for each structure."""
        return (len(self),)

    @property
    def sizes(self) -> Int[np.ndarray, " structures"]:
        """Atoms of each structure."""
        return np.diff(self.offsets)

    @cached_property
    def structure(self) -> Int[np.ndarray, " atoms"]:
        """Structure that each atom belongs to."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def __getitem__(self, key: Any) -> Encoded:
        """Return some of the structures: a slice, numbers or a mask; of one number a set of one."""
        if isinstance(key, tuple):
            key = key[0]
        chosen = np.atleast_1d(np.arange(len(self))[key])
        places, offsets = _places(self.offsets, chosen)
        part = replace(
            self,
            vectors=self.vectors[places],
            numbers=self.numbers[places],
            offsets=offsets,
            groups=tuple(self.groups[s] for s in chosen),
        )
        if self.elements is None or self.ends is None:
            return part
        atoms, ends = _places(self.ends, chosen)
        return replace(part, elements=self.elements[atoms], ends=ends)

    @property
    def all_numbers(self) -> Int[np.ndarray, " all_atoms"]:
        """Atomic numbers of all atoms, structure by structure."""
        return self.numbers if self.elements is None else self.elements

    @property
    def n_atoms(self) -> Int[np.ndarray, " structures"]:
        """Atoms of each structure, however many vectors it has."""
        return self.sizes if self.ends is None else np.diff(self.ends)

    def counts(self, species: Sequence[int]) -> Float[np.ndarray, "structures species"]:
        """Count the atoms of each element; elements that are not asked for are left out."""
        structure = np.repeat(np.arange(len(self)), self.n_atoms)
        result = np.zeros((len(self), len(species)))
        for a, z in enumerate(species):
            result[:, a] = np.bincount(structure[self.all_numbers == z], minlength=len(self))
        return result

    def means(self) -> Float[np.ndarray, "structures f"]:
        """Return each structure's mean unit vector, or the one vector it has."""
        if self.elements is not None:
            return self.vectors
        x = unit_or_zero(self.vectors)
        return np.add.reduceat(x, self.offsets[:-1], axis=0) / self.sizes[:, None]

    def environments(self) -> tuple[Float[np.ndarray, "atoms f"], Int[np.ndarray, " structures_plus_1"]]:
        """Return all unit vectors with their offsets, as rivals in the design room ask for them."""
        return unit_or_zero(self.vectors).astype(np.float32), self.offsets

    @classmethod
    def from_arrays(cls, descriptor: Descriptor, arrays: Mapping[str, np.ndarray]) -> Encoded:
        """Make the set that `arrays` describes."""
        if descriptor.species is None:
            raise ValueError("the descriptor of structures in a file must name its species")
        wide = {"f": descriptor.n_features} if hasattr(descriptor, "n_features") else {}
        parts = read_arrays(cls, arrays, **wide)
        numbers, offsets = parts["numbers"], parts["offsets"]
        if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(numbers) or (np.diff(offsets) < 1).any():
            raise ValueError("the offsets of structures do not rise from 0 to their atoms")
        # The one vector of a structure has no element of its own.
        known = (0,) if getattr(descriptor, "per_structure", False) else descriptor.species
        strange = np.setdiff1d(numbers, known)
        if len(strange):
            raise ValueError(f"the descriptor knows the atomic numbers {known}, the structures hold {strange.tolist()}")
        return cls(descriptor, **parts, groups=("",) * (len(offsets) - 1))


def settled(descriptor: Descriptor, structures: Sequence[Atoms]) -> Descriptor:
    """Return the descriptor with its species: its own, or those of the structures."""
    return descriptor if descriptor.species is not None else descriptor.with_species(species_of(structures))


def encode(descriptor: Descriptor, structures: Sequence[Atoms]) -> Encoded:
    """Describe every atom."""
    if len(structures) == 0:
        raise ParameterError("`structures` must hold at least one structure, got none; check the selection.")
    descriptor = settled(descriptor, structures)
    elements = np.concatenate([atoms.numbers for atoms in structures]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(atoms) for atoms in structures])]).astype(np.int64)
    groups = tuple(str(atoms.info.get("config_type", "")) for atoms in structures)
    if getattr(descriptor, "per_structure", False):
        features = descriptor.transform(structures)  # type: ignore[attr-defined]
        n = len(structures)
        return Encoded(descriptor, features, np.zeros(n, np.int64), np.arange(n + 1), groups, elements, offsets)

    def described(piece: tuple[int, int]) -> np.ndarray:
        batch = Batch.from_structures(structures[slice(*piece)], descriptor.cutoff, start=piece[0])
        return descriptor.environments(batch).vectors

    pieces = list(chunks(structures))
    vectors: np.ndarray | None = None
    filled = 0
    for part in ordered(described, track(pieces, "environments")):
        # Filled as it comes, as pieces beside their whole would double the memory.
        vectors = np.empty((len(elements), part.shape[1])) if vectors is None else vectors
        vectors[filled : filled + len(part)] = part
        filled += len(part)
    return Encoded(descriptor, np.empty((0, 0)) if vectors is None else vectors, elements, offsets, groups)


def _places(
    offsets: Int[np.ndarray, " n_plus_1"], chosen: Int[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " k_plus_1"]]:
    """Return the places of what belongs to the chosen, and their offsets among themselves."""
    lengths = np.diff(offsets)[chosen]
    short = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.repeat(offsets[chosen] - short[:-1], lengths) + np.arange(short[-1]), short


def unit_or_zero(vectors: Float[np.ndarray, "atoms f"]) -> Float[np.ndarray, "atoms f"]:
    """Divide vectors by their lengths; what has none, as atoms without neighbours may, stays zero."""
    norm = np.sqrt(np.einsum("if,if->i", vectors, vectors))
    return vectors / np.where(norm > 0.0, norm, 1.0)[:, None]


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
