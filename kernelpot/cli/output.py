"""Tables for people, JSON for programs, files that are whole or absent."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kernelpot.archive import replacing
from kernelpot.errors import ParameterError


def check_outputs(outputs: Mapping[str, str | None], inputs: Sequence[str] = ()) -> None:
    """Refuse outputs that cannot be written, or that would replace each other or an input.

    Parameters
    ----------
    outputs
        Path of each option; None and ``'-'`` pass.
    inputs
        Input files, also as "file@index".

    Raises
    ------
    ParameterError
        As `check_writable`, or two options name one file.
    """
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        check_writable(option, path, inputs)
        if path is None or path == "-":
            continue
        first = seen.setdefault(Path(path).resolve(), option)
        if first != option:
            raise ParameterError(f"`{first}` and `{option}` must be different files, got {path!r} for both")


def check_writable(option: str, path: str | None, inputs: Sequence[str] = ()) -> None:
    """Refuse an output that cannot be written, before the long work starts.

    Parameters
    ----------
    option
        The option's name, for the message.
    path
        The output file; None and ``'-'`` pass.
    inputs
        Input files, also as "file@index", which an output must not replace.

    Raises
    ------
    ParameterError
        The directory is missing or not writable, the path is a directory, or it is one of the inputs.
    """
    if path is None or path == "-":
        return
    target = Path(path)
    if target.is_dir():
        raise ParameterError(f"`{option}` must be a file, got the directory {path!r}")
    if target.exists() and not target.is_file():
        return  # a device or a pipe
    if not target.parent.is_dir():
        raise ParameterError(f"`{option}` must be in a directory that exists, got {path!r}; create {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise ParameterError(f"`{option}` must be in a writable directory, got {path!r}")
    places = [place for name in inputs for place in (name, name.rpartition("@")[0]) if place and Path(place).exists()]
    if target.exists() and any(target.samefile(place) for place in places):
        raise ParameterError(f"`{option}` must not replace an input file, got {path!r}; choose another name")


def write_json(path: str | None, content: Mapping[str, Any]) -> None:
    """Write strict JSON (NaN becomes null) to a file; ``'-'`` is standard output, None writes nothing."""
    if path is None:
        return
    text = json.dumps(plain(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
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


def show(text: str, args_json: str | None) -> None:
    """Print text for people: on standard output, or on standard error where standard output carries JSON."""
    stream = sys.stderr if args_json == "-" else sys.stdout
    stream.write(text.rstrip("\n") + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Set a plain table: text to the left, numbers to the right.

    Parameters
    ----------
    head
        Column titles.
    rows
        One sequence of cells per row; floats get four significant digits, or two decimals where total energies need
        more.
    """
    cells = [[_cell(value) for value in row] for row in rows]
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


def _cell(value: object) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{value:.2f}" if 1000.0 <= abs(float(value)) < 1e7 else f"{value:.4g}"
    return str(value)
