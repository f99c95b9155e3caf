"""Files of arrays with a JSON header, as safetensors, so that reading one never runs code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from kernelpot.errors import KernelpotError, ModelFileError

PREFIX = f".kernelpot-{hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()}-"
"""How names of temporary files begin: with the machine's, then the process's."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, which takes its place only where the block ends well."""
    target = Path(path)
    # A device or a pipe (`/dev/null`, `>(jq)`) is written to, never replaced.
    special = target.exists() and not target.is_file() and not target.is_dir()
    # The suffix stays, as writers choose their format by it.
    folder = None if special else target.parent
    try:
        if folder is not None:
            sweep(folder)
        mine = f"{PREFIX}{os.getpid()}-"
        handle, name = tempfile.mkstemp(dir=folder, prefix=mine, suffix="".join(target.suffixes[-1:]))
    except OSError as error:
        raise named(error, error.filename if special else target) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if special:
            with temporary.open("rb") as content, target.open("wb") as sink:
                shutil.copyfileobj(content, sink)
            return
        # mkstemp makes files private; the result gets the mode that any other new file would have.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, name):
            raise
        raise named(error, target) from None
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove temporary files and folders of processes of this machine that were killed."""
    for left in folder.glob(f"{PREFIX}*"):
        number = left.name.removeprefix(PREFIX).partition("-")[0]
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            with contextlib.suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        except (OSError, ValueError):
            continue


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """Give a temporary folder; those that killed processes have left are removed."""
    sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield folder


def named(error: OSError, path: object) -> OSError:
    """Return an error of the system that says which file it is about."""
    return OSError(error.errno, error.strerror, str(path))


DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError)
"""What rebuilding a model from an altered file may raise."""

NO_ARRAYS: Mapping[str, np.ndarray] = MappingProxyType({})

DIGEST = "digest"
"""Name in a header of the digest of the rest and of the arrays."""

LARGEST = 1e150
"""Of numbers in property models: the square of one must still be a number."""


@dataclass(frozen=True, eq=False)
class Archive:
    """What a file holds."""

    path: Path  # Of the file, for messages
    header: dict[str, Any]  # JSON values; ``header["format"]`` and ``header["version"]`` say who wrote it
    arrays: dict[str, np.ndarray]  # By name

    @property
    def format(self) -> str:
        """Name of the format."""
        return str(self.header["format"])

    def require(self, name: str, version: int) -> None:
        """Refuse a file of another format or version."""
        found, its = self.header["format"], self.header["version"]
        if found != name or its != version:
            raise ModelFileError(
                f"{self.path}: this kernelpot reads {name} version {version}, found {found} version {its}; "
                "use the kernelpot that wrote it, or fit again."
            )


def write_archive(
    path: str | Path, name: str, version: int, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a header with arrays; the file appears whole or not at all."""
    from safetensors.numpy import save as to_bytes

    path = as_path(path)
    text = json.dumps({"format": name, "version": version, **header})
    whole = {k: np.ascontiguousarray(a) for k, a in arrays.items()}
    # Within the header: safetensors writes several entries of metadata in any order.
    text = f'{text[:-1]}, "{DIGEST}": "{digest_of(text, whole)}"}}'
    content = to_bytes(whole, metadata={"kernelpot": text})
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be written ({error.strerror}); choose a folder that exists, is yours and has room."
        ) from None


def read_archive(path: str | Path) -> Archive:
    """Return what a file holds, whatever its format and version."""
    from safetensors import SafetensorError, safe_open

    path = as_path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file; `kernelpot fit` or `model.save(path)` makes one.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); check whose file it is.") from None
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            header = _header(path, metadata)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, KernelpotError):
            raise
        raise ModelFileError(
            f"{path}: not a complete kernelpot model file ({error}); was it cut off or is it something else?"
        ) from None
    digest = header.pop(DIGEST, None)
    if digest is None:
        warnings.warn(
            "model files of older versions have no digest, so that damage to them cannot be seen; save the model again "
            "to have one.",
            stacklevel=1,
        )
    elif digest != digest_of(json.dumps(header), arrays):
        raise ModelFileError(
            f"{path}: the content must agree with its digest and does not: the file was damaged or altered; copy it "
            "again, or fit again."
        )
    return Archive(path, header, arrays)


def as_path(path: Any) -> Path:
    """Return the path of a file, or refuse what is none."""
    if not isinstance(path, str | Path) or "\0" in str(path):
        raise ModelFileError(f"`path` must be the name of a file, such as 'model.kp', got {path!r}.")
    return Path(path)


def check_numbers(name: str, array: np.ndarray, shape: tuple[int, ...], *, positive: bool = False) -> None:
    """Refuse an array of a file whose shape, type or values cannot be right."""
    if array.dtype != np.float64 or array.shape != shape:
        raise ValueError(f"{name} must be float64 of shape {shape}, found {array.dtype} of shape {array.shape}")
    if not (np.abs(array) <= LARGEST).all():
        raise ValueError(f"{name} must hold finite numbers up to {LARGEST:g}")
    if positive and not (array > 0.0).all():
        raise ValueError(f"{name} must hold positive numbers")


def damaged(path: str | Path, error: Exception) -> ModelFileError:
    """Return the error for a file whose content does not fit together."""
    return ModelFileError(
        f"{path}: the model file is damaged or was altered ({type(error).__name__}: {error}); fit again."
    )


def digest_of(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Return a BLAKE2b digest of a header and its arrays, which any flipped bit changes."""
    found = hashlib.blake2b(text.encode(), digest_size=32)
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if "kernelpot" not in metadata:
        raise ModelFileError(
            f"{path}: a safetensors file, but not one of kernelpot's; `kernelpot fit` makes model files."
        )
    try:
        header = json.loads(metadata["kernelpot"])
        return {**header, "format": header["format"], "version": header["version"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelFileError(f"{path}: the header is damaged; fit again.") from None


# ---- arrays of dataclasses, as their types say them


def arrays_of(value: Any, prefix: str = "", suffix: str = "") -> dict[str, np.ndarray]:
    """Return the arrays of a dataclass by prefix, name of the field and suffix; those of tuples are numbered."""
    types = _array_types(type(value))
    found = {f"{prefix}{name}{suffix}": getattr(value, name) for name, (_, several) in types.items() if not several}
    # Part by part: checksums depend on the order.
    tuples = {name: getattr(value, name) for name, (_, several) in types.items() if several}
    for k in range(max(map(len, tuples.values()), default=0)):
        found |= {f"{prefix}{name}{suffix}_{k}": parts[k] for name, parts in tuples.items()}
    return found


def read_arrays(
    kind: type, arrays: Mapping[str, np.ndarray], prefix: str = "", suffix: str = "", **sizes: int
) -> dict[str, Any]:
    """Return the arrays that `arrays_of` named, by their fields, checked by what the types of the fields say.

    ``Float[np.ndarray, "n d"]`` asks for float64 and finite numbers; sizes of one name, here n and d, must agree over
    all arrays and with those given. In tuples only sizes that are given do, the others within the parts of one number.
    """
    found: dict[str, Any] = {}
    known, parts = dict(sizes), list[dict[str, int]]()
    for name, (array, several) in _array_types(kind).items():
        key = f"{prefix}{name}{suffix}"
        if not several:
            found[name] = _fitting(key, arrays[key], *array, known)
            continue
        there = [arrays[f"{key}_{k}"] for k in range(sum(f"{key}_{k}" in arrays for k in range(len(arrays))))]
        parts = parts or [dict(sizes) for _ in there]
        found[name] = tuple(
            _fitting(f"{key}_{k}", one, *array, part) for k, (one, part) in enumerate(zip(there, parts, strict=True))
        )
    return found


def array_type(hint: Any) -> Any:
    """Return the type of an array, or of those in a tuple; None of anything else."""
    kind = get_args(hint)[0] if get_origin(hint) is tuple else hint
    return kind if hasattr(kind, "dim_str") else None


def _array_types(kind: type) -> dict[str, tuple[tuple[np.dtype[Any], str], bool]]:
    """Return type and shape of each array of a dataclass, and whether there is a tuple of them."""
    hints = get_type_hints(kind)
    types = {one.name: hints[one.name] for one in fields(kind) if array_type(hints[one.name]) is not None}
    said = {name: array_type(hint) for name, hint in types.items()}
    wanted = {name: np.dtype("float64" if "float64" in array.dtypes else "int64") for name, array in said.items()}
    return {name: ((wanted[name], said[name].dim_str), get_origin(hint) is tuple) for name, hint in types.items()}


def read_numbers(arrays: Mapping[str, np.ndarray], dims: Mapping[str, str], **sizes: int) -> dict[str, np.ndarray]:
    """Return arrays of float64 whose shapes are said by name, as in ``{"x": "n f"}``; sizes of one name must agree."""
    return {name: _fitting(name, arrays[name], np.dtype("float64"), said, sizes) for name, said in dims.items()}


def _fitting(name: str, array: np.ndarray, wanted: np.dtype[Any], said: str, sizes: dict[str, int]) -> np.ndarray:
    """Return an array of the type and shape that it must have; sizes that are new are added to the others."""
    dims = said.split()
    if array.ndim == len(dims):
        for dim, size in zip(dims, array.shape, strict=True):
            # Such as "species_plus_1", where `species` is known.
            base = dim.removesuffix("_plus_1")
            size = sizes[base] + 1 if base != dim and base in sizes else size
            sizes.setdefault(dim, int(dim) if dim.isdigit() else size)
    shape = tuple(sizes.get(dim, 0) for dim in dims)
    if array.dtype != wanted or array.shape != shape:
        raise ValueError(f"{name} must be {wanted} of shape {shape}, found {array.dtype} of shape {array.shape}")
    if not (np.abs(array) <= LARGEST).all():
        raise ValueError(f"{name} must hold finite numbers up to {LARGEST:g}")
    return array
