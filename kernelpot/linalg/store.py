"""A folder of arrays in numbered chunks, each whole or absent, for work that outlives one process's memory and life."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from kernelpot.archive import named, replacing
from kernelpot.errors import ParameterError, StoreError
from kernelpot.progress import say

FORMAT = 1
_PREFIX, _TEMPORARY = "chunk-", ".unfinished-"
_PIECE = 1 << 22


class ChunkStore:
    """Numbered chunks of named arrays in a folder, written by one process or by many.

    A chunk is a Zarr group of its own. It is written under a temporary name and renamed when complete, so that a
    killed process leaves no half chunk; what was there first stays. Every array carries a checksum of its values,
    as a Zarr file that is missing would otherwise read as zeros.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, k: int) -> Path:
        """Where chunk k is, or would be."""
        return self.folder / f"{_PREFIX}{k:06d}"

    def numbers(self) -> list[int]:
        """Return the numbers of the chunks that are there, sorted; their contents are not looked at."""
        if not self.folder.is_dir():
            return []
        names = (entry.name.removeprefix(_PREFIX) for entry in self.folder.glob(f"{_PREFIX}*"))
        return sorted(int(name) for name in names if name.isdigit())

    def write(self, k: int, arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any] | None = None) -> str:
        """Write chunk k and return its checksum."""
        zarr = require_zarr()
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{_TEMPORARY}{k:06d}-{uuid.uuid4().hex}"
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        sums = {name: _checksum(array) for name, array in whole.items()}
        attributes = {"format": FORMAT, "notes": dict(notes or {}), "sums": sums}
        attributes["checksum"] = total = _total(attributes)
        try:
            with _one_thread(zarr):
                group = zarr.open_group(str(temporary), mode="w", zarr_format=3, attributes={"kernelpot": attributes})
                for name, array in whole.items():
                    # In pieces of a few MiB along the first axis, compressed where that pays.
                    row = max(array[:1].nbytes, 1)
                    made = group.create_array(
                        name,
                        shape=array.shape,
                        chunks=(min(max(_PIECE // row, 1), max(len(array), 1)), *(max(n, 1) for n in array.shape[1:])),
                        dtype=array.dtype,
                        compressors=zarr.codecs.BloscCodec(
                            cname="zstd", clevel=1, shuffle="shuffle", typesize=array.dtype.itemsize
                        ),
                    )
                    if array.size:
                        made[...] = array
            self.remove(k)
            try:
                temporary.rename(self.path(k))
            except OSError:
                # Another process, such as a worker that outlived its run, was faster with the same chunk.
                if not self.intact(k):
                    raise
        except OSError as error:
            if error.filename is not None or error.errno is None:
                raise
            raise named(error, self.path(k)) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return total

    def read(self, k: int, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Read arrays of chunk k."""
        zarr, sums = require_zarr(), self._attributes(k)["sums"]
        arrays = {}
        for name in sums if names is None else names:
            if name not in sums:
                raise StoreError(f"{self.path(k)}: the chunk must hold an array {name!r}, found {', '.join(sums)}")
            try:
                with _one_thread(zarr):
                    array = np.asarray(zarr.open_array(str(self.path(k) / name), mode="r")[...])
            except (MemoryError, PermissionError):
                raise
            except Exception as error:  # a damaged file makes the decoders raise whatever they trip over
                raise self._damaged(k, f"{name}: {type(error).__name__}: {error}") from error
            if _checksum(array) != sums[name]:
                raise self._damaged(k, f"{name}: the values do not agree with their checksum")
            arrays[name] = array
        return arrays

    def notes(self, k: int) -> dict[str, Any]:
        """Read the notes of chunk k."""
        return dict(self._attributes(k)["notes"])

    def checksum(self, k: int) -> str:
        """Read the checksum of chunk k, which stands for everything in it."""
        return str(self._attributes(k)["checksum"])

    def intact(self, k: int) -> bool:
        """Whether chunk k is there and every value in it agrees with its checksum; reads all of it."""
        try:
            self.read(k)
        except StoreError:
            return False
        return True

    def remove(self, k: int) -> None:
        """Remove chunk k where it is there."""
        if self.path(k).exists():
            # Away by one rename first: a process killed here must not leave half a chunk under a good name.
            gone = self.folder / f"{_TEMPORARY}{k:06d}-{uuid.uuid4().hex}"
            self.path(k).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed processes left unfinished; no other process may be writing."""
        for entry in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(entry, ignore_errors=True)

    def _attributes(self, k: int) -> dict[str, Any]:
        """Read what stands beside the arrays, without Zarr, as it is one JSON file."""
        file = self.path(k) / "zarr.json"
        try:
            attributes = json.loads(file.read_text(encoding="utf-8"))["attributes"]["kernelpot"]
            if attributes["format"] != FORMAT:
                raise StoreError(
                    f"{self.path(k)}: this kernelpot reads chunks of format {FORMAT}, found {attributes['format']}; "
                    "use the kernelpot that wrote them"
                )
            if attributes["checksum"] != _total(attributes):
                raise self._damaged(k, "its notes do not agree with their checksum")
        except FileNotFoundError:
            raise StoreError(f"{self.path(k)}: there is no such chunk; make it again") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, StoreError | PermissionError):
                raise
            raise self._damaged(k, f"{type(error).__name__}: {error}") from error
        return dict(attributes)

    def _damaged(self, k: int, why: str) -> StoreError:
        return StoreError(f"{self.path(k)}: the chunk is damaged ({why}); make it again")


LOCK = ".lock"
_held: ContextVar[frozenset[Path]] = ContextVar("kernelpot_held", default=frozenset())


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, or wait until they have left; a block that fails leaves no waste in it.

    The lock is the system's and ends with its process. A folder that was empty is so again, and one that was not there
    is gone, unless chunks were completed.
    """
    folder = folder.resolve()
    if folder in _held.get() or folder.is_file():  # which the block refuses
        yield
        return
    lock, made = _lock(folder)
    fresh = all(entry.name == LOCK for entry in folder.iterdir())
    token = _held.set(_held.get() | {folder})
    if lock is not None:
        _sweep(folder)  # what killed runs have left
    try:
        yield
    except BaseException:
        _sweep(folder)
        if fresh and not any(folder.glob(f"chunks/{_PREFIX}*")):
            for entry in folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            with contextlib.suppress(OSError):
                for place in made:
                    place.rmdir()
        raise
    finally:
        _held.reset(token)
        if lock is not None:
            (folder / LOCK).unlink(missing_ok=True)
            os.close(lock)


def _sweep(folder: Path) -> None:
    """Remove what is unfinished in a folder that no other process writes to."""
    for pattern in ("chunks", "rounds/*", "rounds/*/*"):
        for entry in folder.glob(f"{pattern}/{_TEMPORARY}*"):
            shutil.rmtree(entry, ignore_errors=True)


def _lock(folder: Path) -> tuple[int | None, list[Path]]:
    """Lock a folder and return the lock, None where the system has none, and the folders that were made for it."""
    while True:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl

            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # removed by a run that ended just now
            continue
        except (ModuleNotFoundError, OSError):
            return None, made
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                who = os.read(lock, 200).decode(errors="replace")
                say(f"{folder}: another run is at work in this folder{who}; waiting until it has ended")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / LOCK).exists() and os.path.samestat(os.fstat(lock), (folder / LOCK).stat()):
                os.truncate(lock, 0)
                os.write(lock, f" (process {os.getpid()} on {socket.gethostname()})".encode())
                return lock, made
        except OSError:  # such as a file system that knows no locks
            os.close(lock)
            return None, made
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that is whole or as it was before."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def digest(*parts: object) -> str:
    """Return a short checksum of arrays and JSON values, in order."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(_checksum(part).encode())
        else:
            total.update(json.dumps(part, sort_keys=True).encode())
    return total.hexdigest()


def require_zarr() -> Any:
    """Import Zarr, or say how to install it."""
    try:
        import zarr
    except ModuleNotFoundError:
        raise ParameterError(
            "pools in chunks need the package zarr, which is not installed; in kernelpot's folder: "
            "pip install -c constraints.txt '.[scale]'"
        ) from None
    return zarr


def _one_thread(zarr: Any) -> AbstractContextManager[object]:
    """Keep Zarr from starting threads: workers are one per core, and chunks are read one after another."""
    context: AbstractContextManager[object] = zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})
    return context


def _checksum(array: np.ndarray) -> str:
    """Checksum of an array's type, shape and values."""
    array = np.ascontiguousarray(array)
    total = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    total.update(array.data.cast("B") if array.size else b"")
    return total.hexdigest()


def _total(attributes: Mapping[str, Any]) -> str:
    """Checksum of everything in a chunk, from its notes and the checksums of its arrays."""
    return digest({key: attributes[key] for key in ("format", "notes", "sums")})
