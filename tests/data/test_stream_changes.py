"""Streams whose files change after they were indexed, and arguments that are no files."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest

import kernelpot as kp
from kernelpot.errors import DataError, ParameterError
from tests import structures as make


@pytest.mark.parametrize("name", ["s.xyz", "s.db"])
@pytest.mark.parametrize("change", ["gone", "folder", "other", "cut"])
def test_a_changed_file_is_named(tmp_path: Path, name: str, change: str) -> None:
    path = tmp_path / name
    ase.io.write(path, [make.copper(k) for k in range(3)])
    structures = kp.pools.stream(path)
    content = path.read_bytes()
    path.unlink()
    if change == "folder":
        path.mkdir()
    elif change != "gone":
        path.write_bytes(b"\xff\x00other" * 999 if change == "other" else content[: len(content) // 2])
    with pytest.raises(DataError, match="changed meanwhile"):
        structures[2]


@pytest.mark.parametrize("files", [None, 5])
def test_no_files(files: object) -> None:
    with pytest.raises(ParameterError, match="`files`"):
        kp.pools.stream(files)  # type: ignore[arg-type]
