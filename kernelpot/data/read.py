"""Structures and their labels from files."""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kernelpot.data.check import SOURCE, validate
from kernelpot.data.formats import OURS, check_format, format_of, unconverged
from kernelpot.data.labels import resolve
from kernelpot.data.stream import atoms_of_row
from kernelpot.data.xyz import (
    OPENERS,
    STDIN,
    UNREADABLE,
    broken_stream,
    cut,
    is_pipe,
    name_of,
    one_line,
    opened,
    parse_xyz,
    path_of,
    plain_copy,
    refuse_missing,
)
from kernelpot.errors import DataError, ParameterError
from kernelpot.progress import track

if TYPE_CHECKING:
    from ase import Atoms


def read(
    source: str | Path | Sequence[str | Path],
    index: str | int = ":",
    *,
    keys: Mapping[str, str | None] | None = None,
    require: Sequence[str] = (),
    verbose: bool = True,
    check: bool = True,
    format: str | None = None,
    species: Sequence[str] | None = None,
) -> list[Atoms]:
    """Read structures with their labels from every format that ASE reads, and some more, compressed or not.

    Those more are MLIP's .cfg, VASP's ML_AB, the .npz of MD17 and the .xyz of QM9 as they are published.

    Each structure comes back with its labels settled in a `SinglePointCalculator` (eV, eV/Å, eV/Å³) beside
    what else its calculator held, and with its file and number in ``atoms.info["kernelpot_source"]``, for
    instance "train.xyz@5". How labels are found is told in `kernelpot.data.labels`.

    Parameters
    ----------
    source
        File, or list of files that are read one after the other. Also "file@index", as ASE writes it. Names
        that end in .xz, .gz or .bz2 are decompressed. "-" is the standard input, which holds extended XYZ where
        `format` does not say otherwise.
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
    format
        "xyz", "mtp", "ml_ab", "npz" or one of ASE's names, such as "aims-output"; None: by name and first bytes.
    species
        Chemical symbols of the types 0, 1, … of formats that number their elements (.cfg of MLIP).

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
        If `source`, `index`, `keys`, `require`, `format` or `species` breaks its rule.
    """
    paths = [source] if isinstance(source, str | Path) else source
    if not isinstance(paths, Sequence) or not paths or not all(isinstance(path, str | Path) for path in paths):
        raise ParameterError(f"`source` must be a file or a list of files, got {source!r}.")
    check_format(format)
    structures = [
        atoms for path in track(paths, "reading") for atoms in _File.named(path, index, format, species).read()
    ]
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
    format: str | None
    species: Sequence[str] | None

    @classmethod
    def named(cls, source: str | Path, index: str | int, format: str | None, species: Sequence[str] | None) -> _File:
        """Separate "file@index", unless a file of that very name exists."""
        path = path_of(source)
        name, at, inner = str(path).rpartition("@")
        try:
            whole = not at or path.exists() or not Path(name).exists()
        except (OSError, ValueError):
            whole = True  # What is wrong with the name is said when it is opened.
        return cls(path, index, format, species) if whole else cls(Path(name), inner, format, species)

    def read(self) -> list[Atoms]:
        """Return the wanted structures, each with the name of the file and its number."""
        path = self.path
        if str(path) != STDIN:
            refuse_missing(path)
        kind = self.format or format_of(path)
        if kind == "xyz":
            chosen = self._frames()
        else:
            with plain_copy(path) as plain:
                structures = self._parse(plain, kind)
            if not structures:
                raise DataError(f"{path}: file must hold structures, found none.")
            chosen = {number: structures[number] for number in self._chosen(len(structures))}
        for number, atoms in chosen.items():
            atoms.info[SOURCE] = name_of(path, number)
        return list(chosen.values())

    def _frames(self) -> dict[int, Atoms]:
        """Return the wanted frames of extended XYZ, which alone are parsed."""
        path = self.path
        size = None if is_pipe(path) or path.suffix.lower() in OPENERS else path.stat().st_size
        pieces = []
        try:
            with opened(path) as file:
                for piece in cut(file, size):
                    if piece.reason:
                        raise DataError(f"{path}: {piece.reason}")
                    pieces.append(piece.text)
        except DataError:
            raise
        except UNREADABLE as error:
            raise DataError(broken_stream(path, error)) from error
        if not pieces:
            raise DataError(f"{path}: file must hold structures, found none.")
        if not pieces[-1].endswith((b"\n", b"\r")):
            warnings.warn(
                f"{path}: file must end with a line break, found none: is its last line cut off? All was read all the "
                "same.",
                stacklevel=4,
            )
        return {k: parse_xyz(pieces[k].decode(errors="replace"), name_of(path, k)) for k in self._chosen(len(pieces))}

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

    def _parse(self, plain: Path, kind: str) -> list[Atoms]:
        """Read every structure of a file, turning whatever ASE raises into one error that names the file."""
        import ase.io
        from ase.db import connect
        from ase.io.formats import UnknownFileTypeError, filetype

        if kind in OURS:
            return OURS[kind](plain, self.species)
        try:
            kind = kind or filetype(str(plain))
            if kind in ("db", "json"):
                # `ase.io.read` drops the keys and data of the rows.
                return [atoms_of_row(row) for row in connect(plain, serial=True, type=kind).select()]
            structures = list(ase.io.read(plain, index=":", format=kind, do_not_split_by_at_sign=True))
        except MemoryError:
            raise
        except PermissionError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}); check whose file it is.") from None
        except UnknownFileTypeError:
            raise DataError(
                f"{self.path}: file must be in a format that ASE or kernelpot knows, found none that fits; name it "
                "with format=… (--format), or convert it to extended XYZ."
            ) from None
        except Exception as error:  # ASE's readers raise whatever a file makes them trip over
            raise DataError(
                f"{self.path}: by name or first bytes this is {kind}, and ASE failed to read it as such "
                f"({one_line(error)}); mend the file, or, if it is something else, name its format with format=… "
                "(--format)."
            ) from error
        if plain.is_file() and (count := unconverged(plain)):
            warnings.warn(
                f"{self.path}: calculations must be converged to be labels, {count} did not, by their own words; "
                "all were read all the same: leave them out, or compute them again.",
                stacklevel=4,
            )
        return structures


def _describe(structures: Sequence[Atoms]) -> str:
    atoms = sum(map(len, structures))
    species = sorted({symbol for structure in structures for symbol in structure.symbols.species()})
    pbc = sum(bool(structure.pbc.all()) for structure in structures)
    free = sum(not structure.pbc.any() for structure in structures)
    kinds = ((pbc, "periodic"), (len(structures) - pbc - free, "partly periodic"), (free, "not periodic"))
    cells = ", ".join(f"{count} {name}" if count < len(structures) else name for count, name in kinds if count)
    return f"{len(structures)} structures, {atoms} atoms, {' '.join(species)}; {cells}"
