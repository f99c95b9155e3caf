"""Structures and their labels from files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import operator
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernelpot.data.check import SOURCE, validate
from kernelpot.data.labels import resolve
from kernelpot.data.stream import atoms_of_row
from kernelpot.errors import DataError, ParameterError
from kernelpot.progress import track

if TYPE_CHECKING:
    from ase import Atoms

OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
# A number cut off in the last line of such a file still reads as a number.
_LINES = (".xyz", ".extxyz")


def read(
    source: str | Path | Sequence[str | Path],
    index: str | int = ":",
    *,
    keys: Mapping[str, str | None] | None = None,
    require: Sequence[str] = (),
    verbose: bool = True,
    check: bool = True,
) -> list[Atoms]:
    """Read structures with their labels from every format that ASE reads, compressed or not.

    Each structure comes back with its labels settled in a `SinglePointCalculator` (eV, eV/Å, eV/Å³) beside
    what else its calculator held, and with its file and number in ``atoms.info["kernelpot_source"]``, for
    instance "train.xyz@5". How labels are found is told in `kernelpot.data.labels`.

    Parameters
    ----------
    source
        File, or list of files that are read one after the other. Also "file@index", as ASE writes it. Names
        that end in .xz, .gz or .bz2 are decompressed once, since ASE seeks in compressed streams, which is
        quadratic.
    index
        Which structures of each file: a number, or a slice as text, e.g. "::10" or "-5:".
    keys
        Names of labels, e.g. ``{"energy": "my_energy", "virial": "my_virial"}``; None ignores the kind.
    require
        Kinds ("energy", "forces", "stress") that every structure must have.
    verbose
        Print on standard error what was found.
    check
        Refuse unusable structures. False reads them too, for `kernelpot.screen` to set aside.

    Returns
    -------
    list of ase.Atoms
        In the order of the files.

    Raises
    ------
    DataError
        If a file is absent, empty, truncated or unreadable, the index selects nothing, or a structure is
        unusable (`kernelpot.data.check`); the message names file and number, counted from 0.
    LabelError
        If labels are ambiguous, broken, or required and missing (`kernelpot.data.labels`).
    ParameterError
        If `source`, `index`, `keys` or `require` breaks its rule.
    """
    paths = [source] if isinstance(source, str | Path) else source
    if not isinstance(paths, Sequence) or not paths or not all(isinstance(path, str | Path) for path in paths):
        raise ParameterError(f"`source` must be a file or a list of files, got {source!r}.")
    structures = [atoms for path in track(paths, "reading") for atoms in _File.named(path, index).read()]
    if check:
        validate(structures)
    name = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files"
    labels = resolve(structures, keys, require=require, source=name)
    labels.attach(structures)
    if verbose:
        sys.stderr.write(f"{name}: {_describe(structures)}\n{labels.summary()}\n")
    return structures


@dataclass(frozen=True)
class _File:
    """A file, and which of its structures are wanted."""

    path: Path
    index: str | int

    @classmethod
    def named(cls, source: str | Path, index: str | int) -> _File:
        """Separate "file@index", unless a file of that very name exists."""
        path = Path(source).expanduser()
        name, at, inner = str(path).rpartition("@")
        if not at or path.exists() or not Path(name).exists():
            return cls(path, index)
        return cls(Path(name), inner)

    def read(self) -> list[Atoms]:
        """Return the wanted structures, each with the name of the file and its number."""
        path = self.path
        if not path.exists():
            raise DataError(f"{path}: file must exist, found none; check the name and the directory.")
        if path.is_file() and path.stat().st_size == 0:
            raise DataError(f"{path}: file must hold structures, found it empty.")
        with plain_copy(path) as plain:
            structures = self._parse(plain)
        if not structures:
            raise DataError(f"{path}: file must hold structures, found none.")
        numbers = self._chosen(len(structures))
        for number in numbers:
            structures[number].info[SOURCE] = f"{path}@{number}"
        return [structures[number] for number in numbers]

    def _chosen(self, count: int) -> Sequence[int]:
        from ase.io.formats import string2index

        index = self.index
        try:
            chosen = string2index(index) if isinstance(index, str) else operator.index(index)
            numbers = range(count)[chosen] if isinstance(chosen, slice) else [range(count)[chosen]]
        except IndexError:
            numbers = []
        except (TypeError, ValueError) as error:
            raise ParameterError(f'`index` must be a whole number or a slice such as "::10", got {index!r}.') from error
        if len(numbers) == 0:
            raise DataError(f"{self.path}: `index` must select structures, {index!r} selects none of {count}.")
        return numbers

    def _parse(self, plain: Path) -> list[Atoms]:
        """Read every structure of a file, turning whatever ASE raises into one error that names the file."""
        import ase.io
        from ase.db import connect
        from ase.io.formats import UnknownFileTypeError, filetype

        try:
            if filetype(str(plain)) in ("db", "json"):
                # `ase.io.read` drops the keys and data of the rows.
                structures = [atoms_of_row(row) for row in connect(plain, serial=True).select()]
            else:
                structures = list(ase.io.read(plain, index=":", do_not_split_by_at_sign=True))
        except MemoryError:
            raise
        except PermissionError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}); check whose file it is.") from None
        except UnknownFileTypeError as error:
            raise DataError(
                f"{self.path}: file must be in a format that ASE knows, found none that fits; "
                "check the file, or convert it to extended XYZ."
            ) from error
        except Exception as error:  # ASE's readers raise whatever a broken file makes them trip over
            raise DataError(
                f"{self.path}: file must be complete and in the format of its name, ASE failed on it "
                f"({_one_line(error)}); is it truncated or damaged?"
            ) from error
        if plain.suffix.lower() in _LINES:
            with plain.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                whole = file.read() in (b"\n", b"\r")
            if not whole:
                warnings.warn(
                    f"{self.path}: file must end with a line break, found none: is its last line cut off? All was "
                    "read all the same.",
                    stacklevel=5,
                )
        return structures


@contextmanager
def plain_copy(path: Path) -> Iterator[Path]:
    """Decompress into a file that keeps the inner name, from which ASE guesses the format."""
    opener = OPENERS.get(path.suffix.lower())
    if opener is None or not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="kernelpot_") as folder:
        plain = Path(folder) / path.stem
        try:
            with opener(path) as compressed, plain.open("wb") as target:
                shutil.copyfileobj(compressed, target, 1 << 20)
        except PermissionError:
            raise
        except (EOFError, OSError, lzma.LZMAError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                why = f"{error.strerror} while {path} was unpacked; TMPDIR names another folder"
                raise OSError(error.errno, why, str(plain)) from None
            raise DataError(
                f"{path}: file must be complete {path.suffix} data, found it truncated or damaged "
                f"({_one_line(error)}); copy it again."
            ) from error
        if plain.stat().st_size == 0:
            raise DataError(f"{path}: file must hold structures, found it empty.")
        yield plain


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _describe(structures: Sequence[Atoms]) -> str:
    atoms = sum(map(len, structures))
    species = sorted({symbol for structure in structures for symbol in structure.symbols.species()})
    pbc = sum(bool(structure.pbc.all()) for structure in structures)
    free = sum(not structure.pbc.any() for structure in structures)
    kinds = ((pbc, "periodic"), (len(structures) - pbc - free, "partly periodic"), (free, "not periodic"))
    cells = ", ".join(f"{count} {name}" if count < len(structures) else name for count, name in kinds if count)
    return f"{len(structures)} structures, {atoms} atoms, {' '.join(species)}; {cells}"
