"""The command `kernelpot curate`."""

from __future__ import annotations

import json
import lzma

import numpy as np
import pytest
from ase.io import read

from kernelpot.cli import main

pytest.importorskip("zarr", reason="zarr is not installed (kernelpot[scale])")

from tests.curate.pools import pool, xyz

SMALL = ["--cutoff", "3.6", "--n-max", "4", "--l-max", "2", "--sigma", "0.6", "--n-inducing", "20", "--workers", "0"]


def curate(*arguments):
    return main(["curate", *map(str, arguments), *SMALL])


def test_a_pool_is_written_chosen_from_and_resumed(tmp_path, capsys):
    first, second = xyz(tmp_path / "a.xyz", pool()[:12]), tmp_path / "b.xyz.xz"
    second.write_bytes(lzma.compress(xyz(tmp_path / "b.xyz", pool()[12:]).read_bytes(), preset=0))
    out, numbers = tmp_path / "chosen.xyz", tmp_path / "numbers.json"
    asked = (first, second, "--blocks", tmp_path / "s", "-n", 5, "--chunk", 8, "--sample", 20)
    assert curate(*asked, "--out", out, "--json", numbers) == 0
    said = capsys.readouterr()
    assert "30 structures in 4 chunks" in said.err
    assert "5 of 30 structures" in said.out
    found = json.loads(numbers.read_text())
    assert len(found["indices"]) == 5
    assert found["settings"]["chunk"] == 8
    for atoms, index, entry in zip(read(out, ":"), found["indices"], found["structures"], strict=True):
        assert np.allclose(atoms.positions, pool()[index].positions, atol=1e-6)
        name, number = entry["source"].split("@")
        assert (name, int(number)) == (("a.xyz", index) if index < 12 else ("b.xyz.xz", index - 12))
    assert curate(*asked, "--json", "-") == 0
    said = capsys.readouterr()
    assert "complete, 4 chunks; nothing to do" in said.err
    assert json.loads(said.out)["indices"] == found["indices"]
    assert curate(first, second, "--blocks", tmp_path / "s", "-n", 5, "--chunk", 9) == 2
    assert "chunk was 8, now 9" in capsys.readouterr().err
    assert curate(*asked, "--noise-forces", "0.3") == 2
    assert "noise.forces was 0.1, now 0.3" in capsys.readouterr().err


def test_existing_structures_and_broken_ones(tmp_path, capsys):
    structures = [atoms.copy() for atoms in pool()[:10]]
    structures[4].positions[1] = structures[4].positions[0]
    file = xyz(tmp_path / "a.xyz", structures)
    known = xyz(tmp_path / "known.xyz", structures[:1])
    numbers = tmp_path / "numbers.json"
    status = curate(
        file, "--blocks", tmp_path / "s", "-n", 8, "--criterion", "D", "--existing", known, "--json", numbers,
        "--method", "stochastic",
    )  # fmt: skip
    assert status == 0
    assert "1 unusable structures were set aside" in capsys.readouterr().out
    assert sorted(json.loads(numbers.read_text())["indices"]) == [1, 2, 3, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "31"], "`n` must be between 0 and"),
        (["-n", "3", "--memory", "0.001"], "`memory` must be at least"),
        (["-n", "3", "--epsilon", "2"], "`--epsilon` must lie between 0 and 1"),
        (["-n", "3", "--truncate", "1"], "`--truncate` must lie between 0 and 1"),
        (["-n", "3", "--scheduler", "nonsense"], "`scheduler` must be an address"),
    ],
)
def test_bad_input_is_one_line_and_status_two(tmp_path, capsys, arguments, words):
    file = xyz(tmp_path / "a.xyz", pool()[:6])
    assert curate(file, "--blocks", tmp_path / "s", "--quiet", *arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words in said


def test_an_absent_file_makes_no_folder(tmp_path, capsys):
    assert curate(tmp_path / "absent.xyz", "--blocks", tmp_path / "s", "-n", 3, "--quiet") == 2
    assert "must exist" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_no_store_is_refused(tmp_path, capsys):
    file = xyz(tmp_path / "a.xyz", pool()[:6])
    (tmp_path / "s").write_text("")
    assert curate(file, "--blocks", tmp_path / "s", "-n", 3, "--quiet") == 2
    assert capsys.readouterr().err.count("\n") == 1
