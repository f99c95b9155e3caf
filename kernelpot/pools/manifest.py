"""What a store of blocks says of itself: its format, its settings, how much there is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernelpot.errors import StoreError

NAME, VERSION = "kernelpot-blocks", 1
DTYPES = ("float32", "float64")
MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what a store says of itself.

    Parameters
    ----------
    folder
        The store.

    Raises
    ------
    StoreError
        There is no manifest, it is damaged, or of another version.
    """
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        name, version = manifest["format"], manifest["version"]
        settings = manifest["settings"]
        known = isinstance(settings, dict) and {"d", "chunk", "dtype"} <= set(settings) and "n_chunks" in manifest
    except FileNotFoundError:
        raise StoreError(f"{folder}: must be a folder of blocks, found no {MANIFEST} in it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: damaged ({type(error).__name__}: {error}); write the store again") from None
    if name != NAME or version != VERSION:
        raise StoreError(f"{file}: must be {NAME} version {VERSION}, found {name} version {version}")
    if not known:
        raise StoreError(f"{file}: damaged (settings are missing); write the store again")
    _check_numbers(file, manifest)
    return dict(manifest)


def _check_numbers(file: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse numbers that no store can have."""
    settings = manifest["settings"]
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


def check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings; say which.

    Parameters
    ----------
    folder
        The store.
    old, new
        Settings, as JSON values.
    """
    different = differences(old, new)
    if different:
        raise StoreError(
            f"{folder}: the store was made with other settings: {'; '.join(different)}; "
            "use those, or choose another folder"
        )


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Say in words where two sets of JSON values differ; of things of other names, and of tables, no more than that.

    Parameters
    ----------
    old, new
        JSON values.
    name
        What they are called.
    """
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
