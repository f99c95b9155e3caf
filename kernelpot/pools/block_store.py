"""Information that does not fit in memory: blocks in chunks on disk, with a catalogue of them that fits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.blocks import KINDS
from kernelpot.design.information import Information
from kernelpot.errors import ParameterError, StoreError
from kernelpot.linalg.store import ChunkStore, digest, require_zarr, write_json
from kernelpot.linalg.subsets import equal_vectors
from kernelpot.progress import say, track
from kernelpot.rules import numbers

NAME, VERSION = "kernelpot-blocks", 1
DTYPES = ("float32", "float64")
MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what a store says of itself."""
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        name, version = manifest["format"], manifest["version"]
        settings = manifest["settings"]
        known = isinstance(settings, dict) and {"d", "chunk", "dtype"} <= set(settings) and "n_chunks" in manifest
    except FileNotFoundError:
        raise StoreError(f"{folder}: must be a folder of blocks, found no {MANIFEST} in it") from None
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: damaged ({type(error).__name__}: {error}); write the store again") from None
    if name != NAME or version != VERSION:
        raise StoreError(f"{file}: must be {NAME} version {VERSION}, found {name} version {version}")
    if not known:
        raise StoreError(f"{file}: damaged (settings are missing); write the store again")
    wanted = {"d": settings["d"], "chunk": settings["chunk"]}
    if manifest["n_chunks"] is not None:  # the source was gone through to its end
        wanted |= {name: manifest.get(name) for name in ("n_chunks", "n_structures", "n_set_aside")}
    for name, found in wanted.items():
        if isinstance(found, bool) or not isinstance(found, int) or found < (1 if name in settings else 0):
            raise StoreError(
                f"{file}: damaged (`{name}` must be a whole number, found {found!r}); write the store again"
            )
    if settings["dtype"] not in DTYPES or not isinstance(settings.get("description", {}), dict):
        raise StoreError(f"{file}: damaged (`dtype` or `description` is none); write the store again")
    return dict(manifest)


def check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings; say which."""
    different = differences(old, new)
    if different:
        raise StoreError(
            f"{folder}: the store was made with other settings: {'; '.join(different)}; "
            "use those, or choose another folder"
        )


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Say in words where two sets of JSON values differ; of things of other names, and of tables, no more than that."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        kinds = old.get("name"), new.get("name")
        if name and None not in kinds and kinds[0] != kinds[1]:
            return [f"{name} was {kinds[0]}, now {kinds[1]}"]
        found = []
        for key in sorted({*old, *new}):
            found += differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
        return found
    if old == new:
        return []
    if not (_is_table(old) and _is_table(new)):
        return [f"{name} was {old!r}, now {new!r}"]
    if len(old) != len(new):
        return [f"{name} had {len(old)} rows, now {len(new)}"]
    first = next(k for k, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
    return differences(old[first], new[first], f"{name}[{first}]")


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) for row in value)


_MARKS = 16

BASE_GIB = 0.35
"""Resident memory of a process that has loaded everything, GiB."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What is known of every structure in a store without reading its block; some 300 bytes each."""

    chunk: Int[np.ndarray, " structures"]  # chunk, place: Chunk that holds the structure, and its number within
    place: Int[np.ndarray, " structures"]
    index: Int[np.ndarray, " structures"]  # Number of the structure in the source, set-aside ones counted
    # file, frame: Number of the file in the manifest's list (-1 for none), and number of the structure in
    # that file
    file: Int[np.ndarray, " structures"]
    frame: Int[np.ndarray, " structures"]
    heights: Int[np.ndarray, " structures"]  # Rows of the block as it is stored
    counts: Int[np.ndarray, "structures 3"]  # True number of rows of each kind
    n_atoms: Int[np.ndarray, " structures"]  # Number of atoms
    # Group of equal structures: equal numbers of atoms and equal mean descriptors
    same: Int[np.ndarray, " structures"]
    # group, names: Position in `names` of the name of the group that the structure was given
    group: Int[np.ndarray, " structures"]
    names: tuple[str, ...]
    # A few random projections of the mean descriptor, by which equal structures are found
    marks: Float[np.ndarray, "structures k"]

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self.index)

    @cached_property
    def heads(self) -> Int[np.ndarray, " distinct"]:
        """The first structure of every group of equal ones."""
        return np.sort(np.unique(self.same, return_index=True)[1])


class BlockStore:
    """A folder with the blocks of a pool in chunks, and a manifest that says how they were made.

    Parameters
    ----------
    folder
        A folder that `create` made.

    Raises
    ------
    StoreError
        The folder holds no store, or one of another version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.chunks = ChunkStore(self.folder / "chunks")
        self.manifest = read_manifest(self.folder)

    def __repr__(self) -> str:
        """Return one line: where the store is, and what is in it so far."""
        n = self.manifest.get("n_structures")
        found = f"{'number of structures not known yet' if n is None else f'{n} structures'}, {self.d} weights"
        state = "complete" if self.complete else "not complete"
        return f"BlockStore({str(self.folder)!r}: {found}, {len(self.chunks.numbers())} chunks, {state})"

    @classmethod
    def create(cls, folder: str | Path, settings: Mapping[str, Any], *, resume: bool = True) -> BlockStore:
        """Make a store, or open the one that is there if it was made with the same settings.

        Parameters
        ----------
        folder
            Folder of the store.
        settings
            JSON values that decide what the chunks hold; at least ``d``, ``chunk`` and ``dtype``.
        resume
            False refuses a folder that holds a store already.

        Raises
        ------
        StoreError
            The folder holds a store with other settings (the message says which), or something else.
        """
        require_zarr()
        folder = Path(folder)
        settings = json.loads(json.dumps(dict(settings)))
        if (folder / MANIFEST).exists():
            store = cls(folder)
            if not resume:
                raise StoreError(f"{folder}: holds a store already; go on with it by resume=True, or choose another")
            check_same(folder, store.manifest["settings"], settings)
            return store
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder}: the store must be a folder, found a file")
        if folder.is_dir() and any((folder / "chunks").glob("chunk-*")):
            raise StoreError(f"{folder}: holds chunks but no manifest; remove the folder or choose another")
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": NAME, "version": VERSION, "settings": settings, "n_chunks": None}
        write_json(folder / MANIFEST, content)
        return cls(folder)

    @property
    def d(self) -> int:
        """Number of weights."""
        return int(self.manifest["settings"]["d"])

    @property
    def complete(self) -> bool:
        """Whether the whole source was gone through and every chunk is there."""
        n, there = self.manifest["n_chunks"], self.chunks.numbers()
        return n == len(there) and there == list(range(len(there)))

    def sound(self) -> list[int]:
        """Verify the chunks that are there; remove the damaged ones, so that they are made again."""
        good = []
        for k in track(self.chunks.numbers(), "verifying"):
            if self.chunks.intact(k):
                good.append(k)
            else:
                say(f"{self.chunks.path(k)}: damaged, will be made again")
                self.chunks.remove(k)
        return good

    def finish(self, n_chunks: int) -> None:
        """Note that the source ends after this many chunks."""
        structures = [self.chunks.notes(k) for k in range(n_chunks)]
        self.manifest = {
            **self.manifest,
            "n_chunks": n_chunks,
            "n_structures": sum(notes["n_structures"] for notes in structures),
            "n_set_aside": sum(len(notes["set_aside"]) for notes in structures),
        }
        write_json(self.folder / MANIFEST, self.manifest)

    def write(
        self,
        k: int,
        info: Information | None,
        *,
        index: Sequence[int],
        file: Sequence[int],
        frame: Sequence[int],
        set_aside: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Write chunk k.

        Parameters
        ----------
        k
            Number of the chunk.
        info
            Its blocks; None where every structure was set aside.
        index, file, frame
            Of every structure, as in `Catalogue`.
        set_aside
            What was left out, one mapping a structure, with its index and the reason.
        """
        dtype = self.manifest["settings"]["dtype"]
        arrays, notes = to_arrays(_nothing(self.d) if info is None else info, dtype)
        arrays |= {
            "index": np.asarray(index, dtype=np.int64),
            "file": np.asarray(file, dtype=np.int64),
            "frame": np.asarray(frame, dtype=np.int64),
        }
        n = len(arrays["index"])
        self.chunks.write(k, arrays, {**notes, "n_structures": n, "set_aside": [dict(one) for one in set_aside]})

    def chunk(self, k: int) -> Information:
        """Read chunk k as it was written, up to the rounding of its rows and means."""
        return from_arrays(self.chunks.read(k), self.chunks.notes(k))

    def information(self) -> Information:
        """Read everything; for stores that fit in memory."""
        self.require_complete()
        parts = [self.chunk(k) for k in self.chunks.numbers()]
        parts = [part for part in parts if len(part)] or parts[:1]
        if not parts:
            raise ParameterError(f"{self.folder}: the store holds no structure")
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.append(part)
        return whole

    def set_aside(self) -> list[dict[str, Any]]:
        """List the structures that were left out, each with its index and the reason."""
        return [one for k in self.chunks.numbers() for one in self.chunks.notes(k)["set_aside"]]

    def require_complete(self) -> None:
        """Refuse a store that was not finished.

        Raises
        ------
        StoreError
            Chunks are missing.
        """
        if self.complete:
            return
        found, wanted = len(self.chunks.numbers()), self.manifest["n_chunks"]
        raise StoreError(
            f"{self.folder}: the store must be complete, found {found} of {wanted or 'an unknown number of'} chunks; "
            "write it again from the same source, which makes only what is missing"
        )

    def fingerprint(self) -> str:
        """Return a checksum of everything in the store."""
        return digest(*(self.chunks.checksum(k) for k in self.chunks.numbers()))

    @cached_property
    def catalogue(self) -> Catalogue:
        """What is known of every structure without its block."""
        self.require_complete()
        names: dict[str, int] = {}
        parts: list[dict[str, np.ndarray]] = []
        for k in self.chunks.numbers():
            part = self.chunks.read(k, ("index", "file", "frame", "offsets", "counts", "n_atoms", "marks", "group"))
            codes = np.array([names.setdefault(name, len(names)) for name in self.chunks.notes(k)["groups"]], dtype=int)
            n = len(part["index"])
            part["heights"] = np.diff(part.pop("offsets"))
            part["group"] = codes[part["group"]] if n else part["group"]
            part |= {"chunk": np.full(n, k), "place": np.arange(n)}
            if n:
                parts.append(part)
        if not parts:
            raise ParameterError(f"{self.folder}: the store holds no structure; every one was set aside")
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if len(joined["index"]) != self.manifest["n_structures"]:
            raise StoreError(
                f"{self.folder / MANIFEST}: damaged (the chunks hold {len(joined['index'])} structures, "
                f"`n_structures` is {self.manifest['n_structures']}); write the store again"
            )
        same = equal_vectors(joined["marks"], joined["n_atoms"])
        return Catalogue(**joined, same=same, names=tuple(names))

    def take(self, which: Sequence[int] | Int[np.ndarray, " some"]) -> Information:
        """Read the blocks of some structures, in the order given, one chunk after another.

        Parameters
        ----------
        which
            Positions in the catalogue. Mean descriptors are not read: the result has none.
        """
        catalogue = self.catalogue
        which = numbers(which, "which")
        offsets = np.concatenate([[0], np.cumsum(catalogue.heights[which])])
        rows = np.empty((offsets[-1], self.d))
        kinds, sigma = np.empty(offsets[-1], dtype=np.int64), np.empty(offsets[-1])
        discarded = np.empty((len(which), len(KINDS)))
        chunk = catalogue.chunk[which]
        for k in np.unique(chunk):
            part = self.chunks.read(int(k), ("rows", "kinds", "sigma", "offsets", "discarded"))
            here = np.flatnonzero(chunk == k)
            place = catalogue.place[which[here]]
            discarded[here] = part["discarded"][place]
            for s, p in zip(here, place, strict=True):
                to, of = slice(offsets[s], offsets[s + 1]), slice(part["offsets"][p], part["offsets"][p + 1])
                rows[to], kinds[to], sigma[to] = part["rows"][of], part["kinds"][of], part["sigma"][of]
        return Information(
            rows=rows, kinds=kinds, offsets=offsets, counts=catalogue.counts[which], sigma=sigma,
            n_atoms=catalogue.n_atoms[which], groups=tuple(catalogue.names[g] for g in catalogue.group[which]),
            means=np.empty((len(which), 0)), discarded=discarded, description=self.description,
        )  # fmt: skip

    @property
    def description(self) -> dict[str, Any]:
        """The settings behind the rows, to be printed with results."""
        return dict(self.manifest["settings"].get("description", {}))


def to_arrays(info: Information, dtype: str = "float64") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Turn information into arrays and notes that a chunk can hold.

    For float32, the trace that rounding a block B to B₃₂ may have taken, ``2 |B₃₂|_F |B - B₃₂|_F + |B - B₃₂|_F²`` (the
    trace norm of the change of BᵀB is no more), is added to what compression discarded, so that certificates stay
    limits.
    """
    if dtype not in DTYPES:
        raise ParameterError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}")
    rows = info.rows.astype(dtype)
    names = sorted(set(info.groups))
    arrays = {
        "rows": rows,
        "kinds": info.kinds.astype(np.int8),
        "offsets": info.offsets,
        "counts": info.counts,
        "sigma": info.sigma,
        "n_atoms": info.n_atoms,
        "means": info.means.astype(dtype),
        "discarded": info.discarded + _rounded_off(info, rows),
        "group": np.array([names.index(group) for group in info.groups], dtype=np.int64),
        "marks": marks(info.means),
    }
    return arrays, {"groups": names, "description": dict(info.description)}


def from_arrays(arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]) -> Information:
    """Turn what `to_arrays` made back into information."""
    return Information(
        rows=arrays["rows"],
        kinds=arrays["kinds"],
        offsets=arrays["offsets"],
        counts=arrays["counts"],
        sigma=arrays["sigma"],
        n_atoms=arrays["n_atoms"],
        means=arrays["means"],
        discarded=arrays["discarded"],
        groups=tuple(notes["groups"][g] for g in arrays["group"]),
        description=notes["description"],
    )


def marks(means: Float[np.ndarray, "structures F"]) -> Float[np.ndarray, "structures k"]:
    """Project mean descriptors onto a few fixed random directions, which keeps equal ones equal and others apart.

    Vectors that differ by a share x of their norm have marks that differ by about x (Johnson and Lindenstrauss 1984).
    """
    width = means.shape[1]
    if width <= _MARKS:
        return np.array(means, dtype=np.float64)
    directions = np.random.default_rng(width).standard_normal((width, _MARKS)) / np.sqrt(_MARKS)
    return means @ directions


def _rounded_off(info: Information, rows: np.ndarray) -> Float[np.ndarray, "structures 3"]:
    """Limit of the trace that rounding changed, for each structure and kind."""
    lost = np.zeros((len(info), len(KINDS)))
    if rows.dtype == np.float64:
        return lost
    change, kept = info.rows - rows, rows.astype(np.float64)
    cells = (info.structure, info.kinds)
    squares, sizes = lost.copy(), lost.copy()
    np.add.at(squares, cells, np.einsum("rd,rd->r", change, change))
    np.add.at(sizes, cells, np.einsum("rd,rd->r", kept, kept))
    return 2.0 * np.sqrt(squares * sizes) + squares


def _nothing(d: int) -> Information:
    none = np.empty(0)
    return Information(
        rows=np.empty((0, d)), kinds=none, offsets=np.zeros(1), counts=np.empty((0, 3)), sigma=none, n_atoms=none,
        groups=(), means=np.empty((0, 0)), discarded=np.empty((0, 3)),
    )  # fmt: skip


_opened: dict[str, tuple[str, BlockStore]] = {}


def keep_open(store: BlockStore) -> None:
    """Let `opened` find a store, so that this process has one catalogue of it."""
    _opened.clear()
    _opened[str(store.folder)] = (store.fingerprint(), store)


def opened(folder: str) -> BlockStore:
    """Open a complete store once in a process, as its catalogue is long to read."""
    store = BlockStore(folder)
    if not store.complete:
        raise StoreError(f"{folder}: this worker must see the complete store, and does not")
    mark = store.fingerprint()
    if _opened.get(folder, ("",))[0] != mark:
        _opened.clear()
        _opened[folder] = (mark, store)
    return _opened[folder][1]
