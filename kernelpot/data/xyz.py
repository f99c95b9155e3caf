"""Files that are opened, decompressed or read from a pipe, and extended XYZ cut into frames."""

from __future__ import annotations

import bz2
import fcntl
import gzip
import io
import itertools
import lzma
import os
import re
import stat
import sys
import termios
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import numpy as np

from kernelpot.archive import scratch
from kernelpot.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

XYZ = (".xyz", ".extxyz")
OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
STDIN = "-"
"""Name of the standard input."""

MOST_ATOMS = 10**8
SHORTEST_ATOM = 7
"""Bytes of the shortest line of an atom with its line break, less one that the last may lack: "H 0 0 0"."""

LONGEST_LINE, LONGEST_FRAME = 1 << 24, 1 << 29
"""Bytes beyond which a line, or a structure, is no text that a person's program wrote."""

UNREADABLE = (EOFError, lzma.LZMAError, zlib.error, OSError, ValueError)
"""What a broken compressed stream raises."""

PATIENCE = 10.0
"""How long a pipe may wait for its first writer, s."""

MARK = b"\xef\xbb\xbf"
"""Byte-order mark that some editors put before UTF-8."""


# ---- opening


def path_of(name: str | Path) -> Path:
    """Return a path with the home directory for ~, where there is one."""
    path = Path(str(name))
    try:
        return path.expanduser()
    except RuntimeError:
        return path  # "~.xyz" is nobody's home.


def name_of(path: Path, number: int) -> str:
    """Name a structure by file and number in text that fits into a line of UTF-8."""
    plain = str(path).encode("utf-8", "backslashreplace").decode()
    return f"{plain.encode('unicode_escape').decode() if not plain.isprintable() else plain}@{number}"


def inner(path: Path) -> Path:
    """Return the name without the ending of a compressed file."""
    return path.with_suffix("") if path.suffix.lower() in OPENERS else path


def refuse_missing(path: Path, *, several: bool = False) -> None:
    """Refuse a file that is not there, is empty or may not be read, or cannot be read several times."""
    if several and (str(path) == STDIN or path.is_fifo()):
        raise DataError(f"{path}: must be a file, as it is read several times; save a pipe's content first.")
    try:
        found = path.stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path}: file must exist, found none; check the name and the directory.") from None
        raise DataError(f"{path}: cannot be looked at ({error.strerror}); check the name and the directory.") from None
    except ValueError:
        raise DataError(f"{str(path)!r}: no file can have such a name; check it.") from None
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        raise DataError(f"{path}: must be a file or a pipe, found a device; '-' is the standard input.")
    if stat.S_ISREG(found.st_mode) and found.st_size == 0:
        raise DataError(f"{path}: file must hold structures, found it empty.")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: must be readable, permission was denied; ask its owner, or copy it.")


def is_pipe(path: Path) -> bool:
    """Whether a name stands for the standard input or a pipe: what can be read once."""
    if str(path) == STDIN:
        return True
    mode = path.stat().st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressed, behind its byte-order mark; a pipe's content is read once."""
    opener = OPENERS.get(path.suffix.lower())
    try:
        file = cast("BinaryIO", opener(path, "rb")) if opener else _raw(path)
    except PermissionError:
        raise DataError(f"{path}: must be readable, permission was denied; ask its owner, or copy it.") from None
    with file:
        try:
            marked = cast("Any", file).peek(len(MARK))[: len(MARK)] == MARK
        except UNREADABLE as error:
            raise DataError(broken_stream(path, error)) from None
        if marked:
            file.read(len(MARK))
        yield file


def _raw(path: Path) -> BinaryIO:
    """Open a file, the standard input, or a pipe that somebody writes to."""
    if str(path) == STDIN:
        return cast("BinaryIO", os.fdopen(os.dup(sys.stdin.fileno()), "rb"))
    if not stat.S_ISFIFO(path.stat().st_mode):
        return path.open("rb")
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    end = time.monotonic() + PATIENCE
    # Without a writer a pipe is at its end at once, and nothing but the number of waiting bytes tells.
    while not any(fcntl.ioctl(handle, termios.FIONREAD, bytes(4))):
        if time.monotonic() > end:
            os.close(handle)
            raise DataError(f"{path}: a pipe must have a writer, found none for {PATIENCE:g} s; start it first.")
        time.sleep(0.02)
    os.set_blocking(handle, True)
    return cast("BinaryIO", os.fdopen(handle, "rb"))


@contextmanager
def plain_copy(path: Path) -> Iterator[Path]:
    """Give a file on disk: a compressed one, or a pipe, is copied to one that keeps the inner name."""
    if path.suffix.lower() not in OPENERS and not is_pipe(path):
        yield path
        return
    with scratch() as folder:
        plain = Path(folder) / (inner(path).name if str(path) != STDIN else "stdin.xyz")
        with plain.open("wb") as target, opened(path) as source:
            while True:
                try:
                    piece = source.read(1 << 20)
                except UNREADABLE as error:
                    raise DataError(broken_stream(path, error)) from None
                if not piece:
                    break
                try:
                    _put(target, piece)
                except OSError as error:
                    raise DataError(
                        f"{folder}: {path} must be unpacked there, it failed ({error.strerror}); "
                        "free some space, or set TMPDIR to another folder."
                    ) from None
        if plain.stat().st_size == 0:
            raise DataError(f"{path}: file must hold structures, found it empty.")
        yield plain


def _put(target: BinaryIO, piece: bytes) -> None:
    """Write bytes to the disk, so that a full one is noticed here."""
    target.write(piece)
    target.flush()


def broken_stream(path: Path, error: Exception) -> str:
    """Say that the bytes of a file are not what its name says."""
    kind = f"complete {path.suffix} data" if path.suffix.lower() in OPENERS else "readable"
    return f"{path}: file must be {kind}, found it truncated or damaged ({one_line(error)}); copy it again."


def one_line(error: BaseException) -> str:
    """Return type and message of an error."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


# ---- extended XYZ


class Piece(NamedTuple):
    """A frame of an XYZ file as text, or the reason why there is none."""

    place: int  # Byte where it begins
    n_atoms: int
    text: bytes
    reason: str


def cut(file: BinaryIO, size: int | None) -> Iterator[Piece]:
    """Cut XYZ into frames by their first lines; what fits none goes up to the next that may be one.

    No line and no frame is held that a file of this size (None: unknown, as it is compressed) could not hold.
    """
    stray: list[bytes] = []
    number, place = 0, file.tell() if size is not None else 0
    start, first = place, 1
    while line := file.readline(LONGEST_LINE):
        number += 1
        here, place = place, place + len(line)
        count = line.strip()
        n = int(count) if count.isdigit() and len(count) < 20 else -1
        fits = size is None or n * SHORTEST_ATOM <= size - place + 1
        if not 0 <= n <= MOST_ATOMS or not fits:
            if count or stray:
                start, first = (start, first) if stray else (here, number)
                stray = [*stray, line] if len(stray) < 3 else stray
            if n >= 0:
                reason = f"line {number} announces {n} atoms, more than the file can hold"
                yield Piece(start, 0, b"", f"{reason}: the file ends within this structure; was it cut off?")
                return
            if len(line) == LONGEST_LINE:
                yield Piece(start, 0, b"", f"line {number} is longer than {LONGEST_LINE} bytes; is this extended XYZ?")
                return
            continue
        if stray:
            yield Piece(start, 0, b"", _stray(stray[0], first, number - 1))
            stray = []
        body, length = [line], len(line)
        for k in itertools.count():
            more = 0 if k <= n else 3 if len(body) > 1 and body[1].startswith(b"gdb ") else 0
            if k > n + more:
                break
            following = file.readline(LONGEST_LINE)
            length += len(following)
            if not following:
                break
            if len(following) == LONGEST_LINE or length > LONGEST_FRAME:
                reason = f"a structure must be below {LONGEST_FRAME} bytes and its lines below {LONGEST_LINE}"
                yield Piece(here, n, b"", f"{reason}, found more at line {number + k + 1}; is this extended XYZ?")
                return
            body.append(following)
        number += len(body) - 1
        place = here + length
        whole = len(body) >= n + 2
        reason = "" if whole else f"the file ends within a structure of {n} atoms, at line {number}; was it cut off?"
        yield Piece(here, n, b"".join(body), reason)
    if stray:
        yield Piece(start, 0, b"", _stray(stray[0], first, number))


def _stray(line: bytes, first: int, last: int) -> str:
    found = line.strip()[:60].decode(errors="replace")
    lines = f"line {first} belongs" if last == first else f"lines {first} to {last} belong"
    return f"{lines} to no structure; line {first} must be a structure's number of atoms, found {found!r}"


_KEY = re.compile(r"(?:^|\s)([^\s=\"']+)\s*=\s*(\"[^\"]*\"|'[^']*'|\S*)")
_EXPONENT = re.compile(r"(?<![\w.])([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:[dD]|\*\^)([+-]?\d+)(?![\w.])")
_WIDE = re.compile(r":[SRIL]:\d{5,}")
_LABEL = re.compile(r"([A-Za-z]{1,2})(?:[_-]?\d+[+-]?|[+-]\d*)?")
HEAVY_HYDROGEN = ("D", "T")


def parse_xyz(text: str, where: str) -> Atoms:
    """Parse one structure of extended XYZ, of raw QM9, or with the labels and exponents of other programs."""
    header = text.split("\n", 2)[1] if text.count("\n") else ""
    if wide := _WIDE.search(header):
        raise DataError(f"{where}: a column must have fewer than 10,000 numbers for each atom, found {wide[0]!r}.")
    if header.startswith("gdb "):
        return qm9(text, where)
    found: dict[str, str] = {}
    for key, value in _KEY.findall(header):
        if found.setdefault(key, value) != value:
            raise DataError(
                f"{where}: a key must stand once in a header, `{key}` stands there as {found[key]} and as {value}; "
                "remove one."
            )
    try:
        return _by_ase(text)
    except MemoryError:
        raise
    except Exception as error:  # ASE's reader raises whatever a broken structure makes it trip over
        fault = error
    mended = _mended(text, found.get("Properties", ""), where)
    try:
        if mended != text:
            return _by_ase(mended)
    except MemoryError:
        raise
    except Exception as error:  # as above
        fault = error
    raise DataError(f"{where}: must be extended XYZ, ASE failed on it ({one_line(fault)[:200]})") from fault


def _by_ase(text: str) -> Atoms:
    from ase.io.extxyz import read_xyz

    atoms: Atoms = next(iter(read_xyz(io.StringIO(text), index=slice(0, 1))))
    return atoms


def _mended(text: str, properties: str, where: str) -> str:
    """Return the text with elements for other programs' labels and with exponents that Python reads."""
    first, header, *rest = text.split("\n")
    fields = properties.strip("\"'").split(":")
    column, at = 0, 0
    for name, size in zip(fields[::3], fields[2::3], strict=False):
        if name == "species":
            column = at
        at += int(size) if size.isdigit() and len(size) < 5 else 1
    lines = []
    for number, line in enumerate(rest):
        words = line.split()
        if len(words) > column and number < int(first):
            words[column] = element_of(words[column], f"{where}: atom {number}")
            line = " ".join(words)
        lines.append(_EXPONENT.sub(r"\1e\2", line))
    return "\n".join([first, _EXPONENT.sub(r"\1e\2", header), *lines])


def element_of(label: str, where: str) -> str:
    """Return the chemical symbol that a label of an atom stands for: Cu1, Fe3+, si, D, 29."""
    from ase.data import atomic_numbers, chemical_symbols

    if label.isdigit() and len(label) < 4 and 0 < int(label) < len(chemical_symbols):
        return chemical_symbols[int(label)]
    match = _LABEL.fullmatch(label)
    name = match[1].capitalize() if match else ""
    if name in HEAVY_HYDROGEN:
        warnings.warn(f"{label} is read as H: energies do not depend on the mass of a nucleus.", stacklevel=2)
        return "H"
    if atomic_numbers.get(name, 0) < 1:
        raise DataError(
            f"{where} must be an element, found the label {label!r}, which is no chemical symbol; rename it, or remove "
            "what has no nucleus, such as ghost and dummy atoms."
        )
    return name


QM9 = ("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
_QM9_ENERGIES = ("homo", "lumo", "gap", "zpve", "U0", "U", "H", "G")


def qm9(text: str, where: str) -> Atoms:
    """Parse one file of QM9 as it is published (Ramakrishnan et al. 2014): energies come in Hartree, here in eV."""
    from ase import Atoms
    from ase.units import Hartree

    first, header, *rest = _EXPONENT.sub(r"\1e\2", text).split("\n")
    try:
        rows = [line.split() for line in rest[: int(first)]]
        values = dict(zip(QM9, map(float, header.split()[2:]), strict=True))
        atoms = Atoms([row[0] for row in rows], positions=[[float(x) for x in row[1:4]] for row in rows])
        atoms.info |= {"qm9": int(header.split()[1])}
        atoms.info |= {name: value * (Hartree if name in _QM9_ENERGIES else 1.0) for name, value in values.items()}
        atoms.info["energy"] = atoms.info["U0"]
        atoms.arrays["mulliken"] = np.array([float(row[4]) for row in rows])
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(f"{where}: must be a molecule of QM9 as its first words say ({one_line(error)})") from None
    return atoms
