"""Structures that stay in their files: a list in all but memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.check import SOURCE
from kernelpot.data.xyz import XYZ, cut, name_of, opened, parse_xyz, path_of, refuse_missing
from kernelpot.errors import DataError, ParameterError

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_PER_CHUNK = 2048


class Stream(Sequence["Atoms"]):
    """Structures of extended XYZ files or ASE databases, read anew whenever they are asked for.

    Kept in memory are the place and the number of atoms of each, 24 bytes a structure. Every pass of a fit reads the
    files again: about 0.2 ms a small structure.
    """

    def __init__(self, files: str | Path | Sequence[str | Path]) -> None:
        if not isinstance(files, str | Path | Iterable):
            raise ParameterError(f"`files` must be one file name or several, got {files!r}.")
        given = [files] if isinstance(files, str | Path) else list(files)
        if not given:
            raise ParameterError("`files` must name at least one file, got none.")
        self.files = tuple(path_of(file) for file in given)
        places, sizes, owners = [], [], []
        for number, path in enumerate(self.files):
            refuse_missing(path, several=True)
            found = _opened(path).index()
            places.append(found[:, 0])
            sizes.append(found[:, 1])
            owners.append(np.full(len(found), number))
        self._place, self._owner = np.concatenate(places), np.concatenate(owners)
        self.sizes: Int[np.ndarray, " structures"] = np.concatenate(sizes)

    def __len__(self) -> int:
        """Count the structures."""
        return len(self.sizes)

    def __repr__(self) -> str:
        """Name the files."""
        names = ", ".join(str(path) for path in self.files[:3]) + (", …" if len(self.files) > 3 else "")
        return f"Stream({names}: {len(self)} structures, {int(self.sizes.sum())} atoms)"

    @overload
    def __getitem__(self, index: int) -> Atoms: ...

    @overload
    def __getitem__(self, index: slice) -> list[Atoms]: ...

    def __getitem__(self, index: int | slice) -> Atoms | list[Atoms]:
        """Read one structure, or those of a slice, as a list."""
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        k = range(len(self))[index]
        return self.take([k])[0]

    def __iter__(self) -> Iterator[Atoms]:
        """Read all structures, one after another."""
        for start in range(0, len(self), 256):
            yield from self.take(range(start, min(len(self), start + 256)))

    def take(self, indices: Sequence[int]) -> list[Atoms]:
        """Read some structures, in the order given."""
        result: list[Any] = [None] * len(indices)
        by_file: dict[int, list[tuple[int, int]]] = {}
        for slot, k in enumerate(indices):
            by_file.setdefault(int(self._owner[k]), []).append((slot, int(k)))
        for number, wanted in by_file.items():
            path = self.files[number]
            first = int(np.searchsorted(self._owner, number))
            try:
                found = list(_opened(path).read([int(self._place[k]) for _, k in wanted]))
            except (OSError, sqlite3.Error) as error:
                raise DataError(f"{path}: cannot be read any more ({error}); was the file changed meanwhile?") from None
            for (slot, k), atoms in zip(wanted, found, strict=True):
                where = name_of(path, k - first)
                if atoms is None or len(atoms) != self.sizes[k]:
                    raise DataError(f"{where}: cannot be read as it was; was the file changed meanwhile?")
                atoms.info.setdefault(SOURCE, where)
                result[slot] = atoms
        return result


def stream(files: str | Path | Sequence[str | Path]) -> Stream:
    """Return the structures of files as a list that stays on disk; see `Stream`.

    Models take it wherever they take a list: `prepare` and `fit` then need memory for their factors and for the labels,
    not for the structures.
    """
    return Stream(files)


def sizes_of(structures: Sequence[Atoms]) -> Int[np.ndarray, " structures"]:
    """Return the number of atoms of each structure, without reading any that stays on disk."""
    if isinstance(structures, Stream):
        return structures.sizes
    return np.array([len(atoms) for atoms in structures], dtype=np.int64)


def species_of(structures: Sequence[Atoms]) -> tuple[int, ...]:
    """Return the atomic numbers in the structures, sorted."""
    return tuple(sorted({int(z) for atoms in structures for z in np.unique(atoms.numbers)}))


WAVE = np.array([7.316, 11.327, 15.921])
"""An arbitrary vector, 1/Å."""


def draws_of(atoms: Atoms, seed: int = 0) -> Float[np.ndarray, " atoms"]:
    """Return a number from -1 to 1 for each atom, as if drawn, that its element and place alone decide."""
    found: np.ndarray = np.cos(atoms.positions @ WAVE + atoms.numbers + seed)
    return found


def canonical_order(structures: Iterable[Atoms], seed: int = 0) -> Int[np.ndarray, " structures"]:
    """Return an order of structures, as if drawn, that depends on the set alone: on no order of structures or atoms."""
    return np.argsort([float(np.sort(draws_of(atoms, seed)).sum()) for atoms in structures], kind="stable")


def chunks(structures: Sequence[Atoms], n_atoms: int = ATOMS_PER_CHUNK) -> Iterator[tuple[int, int]]:
    """Cut a list of structures into runs ``start, stop`` of about n_atoms atoms each."""
    yield from runs_of(sizes_of(structures), n_atoms)


def runs_of(sizes: Int[np.ndarray, " structures"], n_atoms: int) -> Iterator[tuple[int, int]]:
    """Cut structures of these sizes into runs ``start, stop`` of about n_atoms atoms each."""
    start, filled = 0, 0
    for stop, size in enumerate(sizes.tolist()):
        if filled and filled + size > n_atoms:
            yield start, stop
            start, filled = stop, 0
        filled += size
    if start < len(sizes):
        yield start, len(sizes)


def taken(structures: Sequence[Atoms], indices: Sequence[int]) -> list[Atoms]:
    """Return some structures as a list, in the order given."""
    return structures.take(indices) if isinstance(structures, Stream) else [structures[k] for k in indices]


def atoms_of_row(row: Any) -> Atoms:
    """Return the structure of a row of an ASE database, with its keys and data, which may hold labels."""
    atoms: Atoms = row.toatoms()
    atoms.info.update({**row.data, **row.key_value_pairs})
    return atoms


def _opened(path: Path) -> _XYZFile | _DatabaseFile:
    return _XYZFile(path) if path.suffix.lower() in XYZ else _DatabaseFile(path)


@dataclass(frozen=True)
class _XYZFile:
    """A file of extended XYZ."""

    path: Path

    def index(self) -> Int[np.ndarray, "structures 2"]:
        """Find where every structure of an XYZ file begins, and its number of atoms."""
        found: list[tuple[int, int]] = []
        with opened(self.path) as file:
            for piece in cut(file, self.path.stat().st_size):
                if piece.reason:
                    raise DataError(f"{self.path}: {piece.reason}; is the file whole, and not compressed?")
                found.append((piece.place, piece.n_atoms))
        if not found:
            raise DataError(f"{self.path}: file must hold structures, found none.")
        return np.array(found, dtype=np.int64)

    def read(self, places: Sequence[int]) -> Iterator[Atoms | None]:
        """Yield the structures that begin at some bytes; None where none does any more."""
        with self.path.open("rb") as file:
            for place in places:
                file.seek(place)
                piece = next(cut(file, self.path.stat().st_size), None)
                if piece is None or piece.reason:
                    yield None
                else:
                    yield parse_xyz(piece.text.decode(errors="replace"), f"{self.path}, at byte {place}")


@dataclass(frozen=True)
class _DatabaseFile:
    """An ASE database."""

    path: Path

    def index(self) -> Int[np.ndarray, "structures 2"]:
        """List the rows of an ASE database with their numbers of atoms."""
        if self.path.suffix.lower() != ".db":
            raise ParameterError(
                f"{self.path}: a stream reads extended XYZ ({', '.join(XYZ)}, not compressed) or ASE databases (.db); "
                "unpack or convert the file, or read it whole with kernelpot.read."
            )
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
                rows = connection.execute("select id, natoms from systems order by id").fetchall()
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: must be an ASE database, SQLite failed on it ({error}).") from None
        if not rows:
            raise DataError(f"{self.path}: file must hold structures, found none.")
        return np.array(rows, dtype=np.int64)

    def read(self, places: Sequence[int]) -> Iterator[Atoms | None]:
        """Yield the structures of some rows; None where there is none any more."""
        from ase.db import connect

        with connect(self.path) as database:
            for row in places:
                try:
                    found = database.get(id=row)
                except KeyError:
                    yield None
                    continue
                yield atoms_of_row(found)


def structure_list(structures: Sequence[Atoms]) -> list[Atoms]:
    """Return the structures as a list, which must hold at least one; a `Stream` stays what it is."""
    if hasattr(structures, "positions"):
        raise ParameterError("`structures` must be a list of ase.Atoms, got a single one; write [atoms].")
    if isinstance(structures, Stream):
        # Read when it is used; every batch is checked then.
        return cast("list[Atoms]", structures)
    try:
        result = list(structures)
    except TypeError:
        raise ParameterError(f"`structures` must be a list of ase.Atoms, got {structures!r}.") from None
    if not result:
        raise ParameterError(
            "`structures` must hold at least one structure, got none; check the file or the selection."
        )
    for number, atoms in enumerate(result):
        if not hasattr(atoms, "positions") or not hasattr(atoms, "cell"):
            raise ParameterError(
                f"`structures` must be a list of ase.Atoms, item {number} is of type {type(atoms).__name__}; "
                "kernelpot.read makes such a list from a file."
            )
    return result
