"""Structures of a pool, one after another, from lists or from files that are never read as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kernelpot.data.check import SOURCE, check_structure
from kernelpot.data.formats import OURS, format_of
from kernelpot.data.xyz import (
    OPENERS,
    UNREADABLE,
    cut,
    name_of,
    one_line,
    opened,
    parse_xyz,
    path_of,
    plain_copy,
    refuse_missing,
)
from kernelpot.errors import DataError, ParameterError
from kernelpot.linalg.store import digest
from kernelpot.rules import MOST_SEED, whole

if TYPE_CHECKING:
    from ase import Atoms

Source = Sequence["Atoms"] | Sequence[str | Path] | str | Path


@dataclass(frozen=True, eq=False)
class Frame:
    """One structure of a source, not yet parsed where it is cheap to leave that to a worker."""

    index: int  # Number in the whole source
    file: int  # file, number: Number of the file (-1 for none), and number within it
    number: int
    where: str  # Name for messages
    content: Atoms | str | None  # The structure, or its text in extended XYZ; None where there is none
    reason: str = ""  # Why it has no content

    def atoms(self) -> Atoms:
        """Parse and check the structure."""
        if self.content is None:
            raise DataError(f"{self.where}: {self.reason}")
        atoms = self.content
        if isinstance(atoms, str):
            atoms = parse_xyz(atoms, self.where)
            atoms.info.setdefault(SOURCE, self.where)
        if not hasattr(atoms, "positions"):
            raise DataError(f"{self.where}: must be an ase.Atoms, found a {type(atoms).__name__}")
        check_structure(atoms, self.where)
        return atoms


def frames(source: Source) -> Iterator[Frame]:
    """Go through a source; a single broken structure is marked and passed on.

    Extended XYZ, compressed (.xz, .gz, .bz2) or not, is cut into structures without being parsed; of other formats that
    ASE reads, compressed ones are unpacked into a temporary file.
    """
    files = file_list(source)
    if files is None:
        for k, atoms in enumerate(cast("Sequence[Atoms]", source)):
            yield Frame(k, -1, k, f"structure {k} (from 0)", atoms)
        return
    index = 0
    for f, path in enumerate(files):
        before = index
        for number, (content, reason) in enumerate(_contents(path)):
            yield Frame(index, f, number, name_of(path, number), content, reason)
            index += 1
        if index == before:
            raise DataError(f"{path}: file must hold structures, found none.")


def file_list(source: Source) -> list[Path] | None:
    """Return the files of a source, or None where it is a list of structures."""
    items = [source] if isinstance(source, str | Path) else source
    if not isinstance(items, Sequence) or not len(items):
        raise ParameterError("`source` must be files or a list of structures that is not empty")
    if not all(isinstance(item, str | Path) for item in items):
        if any(isinstance(item, str | Path) for item in items):
            raise ParameterError("`source` must be files or structures, got a mixture")
        return None
    paths = [path_of(item) for item in items]
    for path in paths:
        refuse_missing(path, several=True)
    return paths


def describe(source: Source) -> list[dict[str, Any]]:
    """Return JSON values by which a later run knows that the source is the same."""
    files = file_list(source)
    if files is None:
        names = ("positions", "numbers", "cell", "pbc")
        structures = cast("Sequence[Atoms]", source)
        sums = [digest(*(np.asarray(getattr(atoms, name)) for name in names)) for atoms in structures]
        return [{"structures": len(sums), "checksum": digest(sums)}]
    return [
        {"path": str(path.resolve()), "size": path.stat().st_size, "modified": path.stat().st_mtime_ns}
        for path in files
    ]


def sample(source: Source, size: int, *, seed: int = 0) -> list[Atoms]:
    """Draw structures at random in one pass (Vitter 1985, algorithm R), as many as are there at most.

    Parameters
    ----------
    source
        As in `frames`. Unusable structures that are drawn are left out.
    size
        How many to draw.
    seed
        Makes the draw repeatable.

    Raises
    ------
    DataError
        None that was drawn is usable.
    """
    return counted_sample(source, size, seed=seed)[0]


def counted_sample(source: Source, size: int, *, seed: int) -> tuple[list[Atoms], int]:
    """Draw what `sample` does, and count the structures of the source."""
    size, seed = whole(size, "size", least=1), whole(seed, "seed", most=MOST_SEED)
    rng = np.random.default_rng(seed)
    kept: list[Frame] = []
    count = 0
    for frame in frames(source):
        count += 1
        if len(kept) < size:
            kept.append(frame)
        elif (place := int(rng.integers(count))) < size:
            kept[place] = frame
    kept.sort(key=lambda frame: frame.index)
    usable, reason = [], ""
    for frame in kept:
        try:
            usable.append(frame.atoms())
        except DataError as error:
            reason = str(error)
    if not usable:
        raise DataError(f"none of {len(kept)} structures that were drawn is usable; the last: {reason}")
    return usable, count


def read_frames(source: Source, wanted: Iterable[int]) -> list[Atoms]:
    """Read some structures of a source, in the order given."""
    order = [int(k) for k in wanted]
    missing, found = set(order), {}
    if missing:
        for frame in frames(source):
            if frame.index in missing:
                found[frame.index] = frame.atoms()
                found[frame.index].info.setdefault(SOURCE, frame.where)
                missing.discard(frame.index)
                if not missing:
                    break
    if missing:
        raise DataError(f"the source must hold structure {min(missing)}, found fewer; is it the one of the blocks?")
    return [found[k] for k in order]


def _contents(path: Path) -> Iterator[tuple[Atoms | str | None, str]]:
    """Yield every structure of a file, or the reason why there is none."""
    kind = format_of(path)
    if kind in OURS:
        with plain_copy(path) as plain:
            yield from ((atoms, "") for atoms in OURS[kind](plain, None))
        return
    if kind != "xyz":
        yield from _by_ase(path)
        return
    size = None if path.suffix.lower() in OPENERS else path.stat().st_size
    try:
        with opened(path) as file:
            for piece in cut(file, size):
                yield (None if piece.reason else piece.text.decode(errors="replace")), piece.reason
    except UNREADABLE as error:
        yield None, f"the rest of the file cannot be read: {one_line(error)}"


def _by_ase(path: Path) -> Iterator[tuple[Atoms | str | None, str]]:
    import ase.io

    with plain_copy(path) as plain:
        stream = ase.io.iread(plain, index=":", do_not_split_by_at_sign=True)
        while True:
            try:
                atoms = next(stream)
            except StopIteration:
                return
            except (MemoryError, PermissionError):
                raise
            except Exception as error:  # as above; ASE cannot go on behind a broken structure
                yield None, f"the rest of the file cannot be read: {one_line(error)}"
                return
            yield atoms, ""
