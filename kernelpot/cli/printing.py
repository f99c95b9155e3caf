"""Reading and writing of all commands: tables for people, JSON for programs, files that are whole or absent."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

import kernelpot as kp
from kernelpot.archive import replacing
from kernelpot.cli.options import Command, PotentialOptions, SpaceOptions
from kernelpot.data.geometry import broken, default_cutoff
from kernelpot.errors import ParameterError
from kernelpot.progress import put, say

if TYPE_CHECKING:
    from ase import Atoms

Settings = TypeVar("Settings", bound=PotentialOptions)

SHOWN = 60
"""Most rows of a table of structures that a screen is given; files and JSON hold them all."""


def check_outputs(outputs: Mapping[str, str | None], inputs: Sequence[str] = ()) -> None:
    """Refuse outputs that cannot be written, or would replace each other or an input, before the long work starts.

    Inputs may be named as "file@index".

    Raises
    ------
    ParameterError
        A directory is missing or not writable, a path is a directory or an input, or two options name one file.
    """
    seen: dict[Path, str] = {}
    places = [Path(place) for name in inputs for place in (name, name.rpartition("@")[0]) if place]
    for option, path in outputs.items():
        if path is None or path == "-":
            continue
        target, got = Path(path), f"got {path!r}"
        check_path(option, path)
        if target.is_dir():
            raise ParameterError(f"`{option}` must be a file, got the directory {path!r}")
        if target.is_file() or not target.exists():  # else a device or a pipe
            if not target.parent.is_dir():
                raise ParameterError(f"`{option}` must be in a directory that exists, {got}; create {target.parent}")
            if not os.access(target.parent, os.W_OK):
                raise ParameterError(f"`{option}` must be in a writable directory, {got}")
            if target.exists() and any(place.exists() and target.samefile(place) for place in places):
                raise ParameterError(f"`{option}` must not replace an input file, {got}; choose another name")
        elif not os.access(target, os.W_OK):
            raise ParameterError(f"`{option}` must be a device that may be written to, {got}")
        first = seen.setdefault(target.resolve(), option)
        if first != option:
            raise ParameterError(f"`{first}` and `{option}` must be different files, got {path!r} for both")


def check_path(option: str, path: str) -> None:
    """Refuse a name that the system cannot look up, such as a loop of symbolic links."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ParameterError(
            f"`{option}` must be a name that can be written to, got {path!r} ({error.strerror}); choose another"
        ) from None


def read(
    command: Command, files: Sequence[str], *, check: bool = True, look: bool = True, **options: Any
) -> list[Atoms]:
    """Read structures, with a word on what was found; unusable ones too where they are not to be refused.

    A warning names the first whose geometry looks broken, where nothing else is to look for these.
    """
    given: dict[str, Any] = {
        "keys": getattr(command, "keys", None),
        "verbose": not command.quiet,
        "format": getattr(command, "format", None),
        "species": getattr(command, "species", None),
    }
    found = kp.read(list(files), check=check, **(given | options))
    strange = broken(found) if look else []
    if strange:
        number, reason = strange[0]
        warn(
            f"{len(strange)} of {len(found)} structures look broken; the first, {source_of(found[number], number)}: "
            f"{reason}; check it, and the units (Å)"
        )
    return found


def space_of(settings: SpaceOptions, structures: Sequence[Atoms], spec: kp.SparseGP) -> kp.SparseGP:
    """Return what a choice is made in: a model with inducing environments of these structures, labels unseen."""
    say(f"preparing: inducing environments from {len(structures)} structures, labels unseen")
    return spec.prepare(structures) if settings.model is None else spec.widened(structures, settings.n_inducing)


def spec_of(settings: SpaceOptions) -> kp.SparseGP:
    """Return the model of the settings, or the fitted one that has them."""
    if settings.model is None:
        return settings.spec()
    idle = sorted(settings.given - {"model", "n_inducing", "seed"})
    if idle:
        raise ParameterError(f"`--{idle[0].replace('_', '-')}` is settled by --model; leave it out")
    model = kp.load(settings.model)
    if not isinstance(model, kp.SparseGP):
        raise ParameterError(f"`--model` must be a potential that `kernelpot fit` wrote, got {settings.model}")
    return model


def settled(settings: Settings, structures: Sequence[Atoms]) -> Settings:
    """Return the settings with the cutoff that structures suggest, where none was given."""
    if "cutoff" in settings.given or not len(structures) or getattr(settings, "model", None) is not None:
        return settings
    cutoff = default_cutoff(structures)
    say(f"cutoff {cutoff:g} Å, from the distances between atoms")
    return replace(settings, cutoff=cutoff)


def write_structures(path: str, structures: Sequence[Atoms]) -> None:
    """Write extended XYZ, whole or not at all."""
    from ase.io import write

    with replacing(path) as temporary:
        write(temporary, list(structures), format="extxyz")


def write_json(path: str | None, content: Mapping[str, Any]) -> None:
    """Write strict JSON (NaN becomes null) to a file; ``'-'`` is standard output, None writes nothing."""
    if path is None:
        return
    text = json.dumps(plain(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    if path == "-":
        put(text, sys.stdout)
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """Turn arrays, NumPy scalars and NaN into what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def show(text: str, json_path: str | None) -> None:
    """Print text for people: on standard output, or on standard error where standard output carries JSON."""
    put(text.rstrip("\n") + "\n", sys.stderr if json_path == "-" else sys.stdout)


def warn(text: str) -> None:
    """Print a warning of one line, also where progress is not wanted."""
    sys.stderr.write(f"kernelpot: warning: {text}\n")


def source_of(atoms: Atoms, number: int) -> str:
    """File and number that `kp.read` left on a structure."""
    return Path(str(atoms.info.get("kernelpot_source", f"@{number}"))).name


def facts_of(atoms: Atoms, number: int) -> dict[str, Any]:
    """Say which structure it is, for JSON."""
    return {"source": source_of(atoms, number), "formula": str(atoms.symbols), "n_atoms": len(atoms)}


def cells_of(atoms: Atoms, number: int) -> tuple[str, str, int]:
    """Say which structure it is, in a table: source, formula, atoms."""
    return source_of(atoms, number), atoms.get_chemical_formula(), len(atoms)


def shortened(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a table, and say how many rows it leaves out."""
    more = len(rows) - SHOWN
    return table(head, rows[:SHOWN]) + (f"\n… and {more} more" if more > 0 else "")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Set a plain table: text to the left, numbers to the right, floats with four digits or two decimals."""

    def cell(value: object) -> str:
        if isinstance(value, (float, np.floating)):
            return f"{value:.2f}" if 1000.0 <= abs(float(value)) < 1e7 else f"{value:.4g}"
        return str(value)

    cells = [[cell(value) for value in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(head, *cells, strict=True)]
    right = [
        all(isinstance(value, (int, float, np.number)) for value in column) for column in zip(*rows, strict=True)
    ] or [False] * len(head)
    lines = [head, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )
