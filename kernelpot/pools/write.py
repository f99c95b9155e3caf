"""Blocks of a pool written to disk in chunks, with the space they are made in; a run that was killed goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kernelpot.archive import DAMAGE, read_archive, write_archive
from kernelpot.data.check import check_species
from kernelpot.design.information import Information
from kernelpot.errors import DataError, ModelFileError, ParameterError, StoreError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.linalg.store import digest, held
from kernelpot.linalg.workers import number_of, spread
from kernelpot.pools.block_store import BASE_GIB, DTYPES, BlockStore
from kernelpot.pools.source import Frame, Source, describe, frames
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.progress import say, shown, track
from kernelpot.record import record_of
from kernelpot.rules import real, whole

if TYPE_CHECKING:
    from ase import Atoms

FORMAT, VERSION = "kernelpot-space", 2


def settings_of(space: SparseGP) -> dict[str, Any]:
    """Return what fixes the rows of a prepared model, arrays apart, as JSON values."""
    features = features_of(space)
    _, noise, amplitude = space.plan()
    return {
        "features": features.settings(),
        "terms": [term.settings() for term in space.terms],
        "amplitude": float(amplitude),
        "noise": noise.settings(),
        "n_inducing": int(space.n_inducing),
        "seed": int(space.seed),
        "inducing": space.inducing,
        "tolerance": float(space.tolerance),
    }


def fingerprint(space: SparseGP) -> str:
    """Return a checksum of everything that decides the rows of a prepared model."""
    features = features_of(space)
    return digest(settings_of(space), *features.arrays().values())


def save_space(space: SparseGP, path: str | Path) -> None:
    """Write a prepared model without labels: safetensors with a JSON header; it holds no code.

    Parameters
    ----------
    space
        Made by `SparseGP.prepare`, or fitted: then with the noises and the amplitude of the fit.
    path
        The file to write, whole or not at all.

    Raises
    ------
    NotFittedError, ParameterError
        As `settings_of`.
    ModelFileError
        The file cannot be written.
    """
    write_archive(path, FORMAT, VERSION, {"model": settings_of(space)}, features_of(space).arrays())


def load_space(path: str | Path) -> SparseGP:
    """Read a prepared model that `save_space` wrote; nothing in the file is ever run as code.

    Raises
    ------
    StoreError
        There is no such file, or it is damaged, foreign, or of another version.
    """
    if not Path(path).is_file():
        raise StoreError(f"{path}: there is no such file; write_blocks makes it beside the blocks")
    try:
        archive = read_archive(path)
        archive.require(FORMAT, VERSION)
        settings = archive.header["model"]
        space = SparseGP.from_settings(settings)
        space.terms = (space.terms[0].with_amplitude(settings["amplitude"]), *space.terms[1:])
        space.features_ = record_of("feature map", settings["features"], archive.arrays)
        return space
    except (*DAMAGE, ModelFileError) as error:
        raise StoreError(
            f"{path}: the feature space is damaged or was altered ({type(error).__name__}: {error}); "
            "remove the folder and write it again"
        ) from None


def features_of(space: SparseGP) -> FeatureMap:
    """Return the feature map of a prepared model, or refuse it."""
    if not isinstance(space, SparseGP):
        raise ParameterError(f"`space` must be a prepared SparseGP, got a {type(space).__name__}")
    return space.plan()[0]


SPACE = "space.safetensors"
TRUNCATE = 1e-2
PILOT = 8
"""Structures whose blocks are made before the start, for the plan, and so that compiled code is there for workers."""


@dataclass(frozen=True)
class Needs:
    """What writing will take, from a pilot."""

    rank: float  # Mean rows of a block
    d: int  # d, width: Weights, and length of a mean descriptor
    width: int
    chunk: int  # Structures in a chunk
    processes: int  # That make chunks at the same time
    item: int  # Bytes of a stored number
    text: float  # Bytes of a structure on its way to a worker

    @property
    def disk(self) -> float:
        """Bytes on disk for each structure, before compression."""
        return self.rank * (self.d * self.item + 9) + self.width * self.item + 300

    @property
    def memory(self) -> float:
        """Bytes of all processes together.

        A chunk's blocks are there twice when they are joined and once as they are stored.
        """
        block = self.rank * self.d * (16 + self.item) + self.width * (16 + self.item) + 3 * self.text + 600
        return self.processes * (BASE_GIB * 2**30 + self.chunk * block) + (self.processes > 1) * BASE_GIB * 2**30

    @classmethod
    def of(cls, space: SparseGP, source: Source, *, chunk: int, truncate: float, dtype: str, processes: int) -> Needs:
        """Make a few blocks to see what they take."""
        pilot, text = [], [0]
        for frame in islice(frames(source), 8 * PILOT):
            try:
                atoms = frame.atoms()
                check_species([atoms], space.species_)
            except DataError:
                continue
            pilot.append(atoms)
            text.append(len(frame.content) if isinstance(frame.content, str) else 100 * len(atoms))
            if len(pilot) == PILOT:
                break
        item = np.dtype(dtype).itemsize
        if not pilot:
            return cls(0.0, 0, 0, chunk, max(processes, 1), item, 0.0)
        info = space.information(pilot, truncate=truncate)
        return cls(
            len(info.rows) / len(info),
            info.d,
            info.means.shape[1],
            chunk,
            max(processes, 1),
            item,
            float(np.mean(text[1:])),
        )

    def __str__(self) -> str:
        """Return one line for people."""
        return (
            f"blocks of mean rank {self.rank:.1f} in {self.d} weights: about {self.disk / 1e3:.3g} kB of disk a "
            f"structure ({self.disk * self.chunk / 1e6:.3g} MB a chunk of {self.chunk}), and "
            f"{self.memory / 2**30:.2g} GiB of memory in {self.processes} process(es)"
        )


def open_blocks(folder: str | Path) -> BlockStore:
    """Open a complete store.

    Raises
    ------
    StoreError
        There is none, or it is not complete.
    """
    store = BlockStore(folder)
    store.require_complete()
    return store


def write_blocks(
    space: SparseGP,
    source: Source,
    folder: str | Path,
    *,
    chunk: int = 2000,
    workers: int | None = None,
    scheduler: str | None = None,
    truncate: float = TRUNCATE,
    dtype: str = "float32",
    resume: bool = True,
) -> BlockStore:
    """Write the compressed blocks of a pool to a folder, as if every label were planned.

    Memory does not grow with the pool, and is printed before the start with the disk that is needed. Chunks are
    complete or absent: a run that was interrupted or killed goes on with those that are there, after their
    checksums were verified. Structures that are unusable are set aside and listed, with the reason, by
    ``store.set_aside()``.

    Parameters
    ----------
    space
        Prepared model: ``spec.prepare(sample)``. It is kept in the folder.
    source
        Files (extended XYZ is cut into structures as it streams by, compressed or not), or a list of structures.
    folder
        Where the store is, or will be. With a `scheduler`, workers must see it under the same name.
    chunk
        Structures in a chunk.
    workers
        Local worker processes, one thread each; 0 works in this process; None is one per thread of this process.
    scheduler
        Address of a running Dask cluster to use instead, such as "tcp://host:8786".
    truncate
        Share of each kind's trace that the compression of a block may drop.
    dtype
        "float32" or "float64": how rows are stored. float32 changes the information of a block by 1e-7 of its
        trace at most, which is added to what compression discarded.
    resume
        False refuses a folder that holds a store.

    Returns
    -------
    BlockStore
        The complete store.

    Raises
    ------
    StoreError
        The folder holds a store that was made with other settings or from another source.
    DataError
        A file is absent or empty.
    ParameterError
        A parameter breaks its rule, or a package is missing.
    """
    chunk, truncate = whole(chunk, "chunk", least=1), real(truncate, "truncate", most=1.0)
    if dtype not in DTYPES:
        raise ParameterError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}")
    processes = number_of(workers, scheduler)
    folder, settings = Path(folder), _settings(space, source, chunk, truncate, dtype)
    with held(folder):
        store = BlockStore.create(folder, settings, resume=resume)
        good = store.sound()
        if store.complete and len(good) == store.manifest["n_chunks"]:
            say(f"{folder}: complete, {len(good)} chunks; nothing to do")
            return store
        store.chunks.sweep()
        if not (folder / SPACE).exists():
            save_space(space, folder / SPACE)
        if good:
            say(f"{folder}: going on with {len(good)} complete chunk(s)")
        needs = Needs.of(space, source, chunk=chunk, truncate=truncate, dtype=dtype, processes=processes)
        say(str(needs))
        pieces = _Pieces()
        items = ((str(folder), k, piece, truncate) for k, piece in pieces.cut(source, chunk, set(good)))
        for _ in track(spread(_make, items, workers=processes, scheduler=scheduler), "chunks"):
            pass
        store.finish(pieces.n)
        store = BlockStore(folder)
        missing = store.manifest["n_set_aside"]
        say(
            f"{folder}: {store.manifest['n_structures']} structures in {pieces.n} chunks"
            + (f"; {missing} unusable ones set aside" if missing else "")
        )
        return store


def _settings(space: SparseGP, source: Source, chunk: int, truncate: float, dtype: str) -> dict[str, Any]:
    """Return what decides the contents of the chunks; a store goes on only where all of it is the same."""
    model, features = settings_of(space), features_of(space)
    _, noise, amplitude = space.plan()
    description = {kind: noise.sigma(kind) for kind in noise.kinds}
    return {
        "d": features.n_weights + len(features.species),
        "chunk": chunk,
        "dtype": dtype,
        "truncate": float(truncate),
        "space": {**model, "checksum": fingerprint(space)},
        "source": describe(source),
        "description": {**description, "amplitude": amplitude, "n_inducing": space.n_inducing_, "truncate": truncate},
    }


class _Pieces:
    """A source cut into the frames of its chunks, and how many there are, which is known only at its end."""

    n = 0

    def cut(self, source: Source, chunk: int, skip: set[int]) -> Iterator[tuple[int, list[Frame]]]:
        """Yield number and frames of the chunks that are not to be skipped."""
        stream = frames(source)
        while True:
            if self.n in skip:
                # Passed through one by one: nothing of them is kept.
                if not sum(1 for _ in islice(stream, chunk)):
                    return
            else:
                piece = list(islice(stream, chunk))
                if not piece:
                    return
                yield self.n, piece
            self.n += 1


@lru_cache(maxsize=2)
def _space(path: str, modified: int) -> SparseGP:  # noqa: ARG001 (part of the key)
    return load_space(path)


def _make(item: tuple[str, int, list[Frame], float]) -> int:
    """Make one chunk, here or in a worker."""
    folder, k, piece, truncate = item
    path = Path(folder) / SPACE
    try:
        modified = path.stat().st_mtime_ns
    except FileNotFoundError:
        raise StoreError(f"{path}: this worker must see the folder of the store, and does not") from None
    space = _space(str(path), modified)
    good, structures, aside = [], [], []
    for frame in piece:
        try:
            atoms = frame.atoms()
            check_species([atoms], space.species_)
        except DataError as error:
            aside.append(_why(frame, error))
        else:
            good.append(frame)
            structures.append(atoms)
    with shown(enabled=False):  # one bar counts the chunks
        info, usable, late = _information(space, structures, good, truncate)
    BlockStore(folder).write(
        k,
        info,
        index=[frame.index for frame in usable],
        file=[frame.file for frame in usable],
        frame=[frame.number for frame in usable],
        set_aside=sorted([*aside, *late], key=lambda one: one["index"]),
    )
    return k


def _information(
    space: SparseGP, structures: Sequence[Atoms], frames_: Sequence[Frame], truncate: float
) -> tuple[Information | None, list[Frame], list[dict[str, Any]]]:
    """Return the blocks of structures; where one spoils the whole, find it and leave it out."""
    if not structures:
        return None, [], []
    try:
        return space.information(structures, truncate=truncate), list(frames_), []
    except DataError as error:
        if len(structures) == 1:
            return None, [], [_why(frames_[0], error)]
    half = len(structures) // 2
    left = _information(space, structures[:half], frames_[:half], truncate)
    right = _information(space, structures[half:], frames_[half:], truncate)
    parts = [part for part in (left[0], right[0]) if part is not None]
    whole = parts[0].append(parts[1]) if len(parts) == 2 else next(iter(parts), None)
    return whole, left[1] + right[1], left[2] + right[2]


def _why(frame: Frame, error: Exception) -> dict[str, Any]:
    return {"index": frame.index, "file": frame.file, "frame": frame.number, "reason": " ".join(str(error).split())}
