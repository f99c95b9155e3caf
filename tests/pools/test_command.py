"""The command `kernelpot curate`."""

from __future__ import annotations

import json
import lzma
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

import kernelpot as kp
from kernelpot.cli import main

pytest.importorskip("zarr", reason="zarr is not installed (kernelpot[scale])")

from kernelpot.pools import load_space, sample
from tests.pools.pools import pool, xyz

SMALL = ["--cutoff", "3.6", "--n-max", "4", "--l-max", "2", "--sigma", "0.6", "--n-inducing", "20", "--workers", "0"]


ACSF = ["--descriptor", "acsf", "--gaussian", "1.5"]
ACSF_SIZES = ["--cutoff", "3.6", "--n-max", "4", "--n-angular", "1"]


def curate(*arguments, small=SMALL):
    return main(["curate", *map(str, arguments), *small])


def curate_acsf(*arguments, kinds=ACSF, sizes=ACSF_SIZES):
    return curate(*arguments, small=[*kinds, *sizes, "--n-inducing", "20", "--workers", "0"])


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
        (["-n", "31"], "`-n` must be at most the size of the pool, got 31 of 6 structures"),
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
    assert not (tmp_path / "s").exists()


def test_a_refused_run_leaves_a_folder_as_it_was(tmp_path, capsys):
    file, folder = xyz(tmp_path / "a.xyz", pool()[:6]), tmp_path / "deep" / "s"
    known = xyz(tmp_path / "known.xyz", [Atoms("U", pbc=False)])
    asked = (file, "--blocks", folder, "-n", 3, "--quiet", "--existing", known)
    assert curate(*asked) == 2
    assert not (tmp_path / "deep").exists()
    folder.mkdir(parents=True)
    assert curate(*asked) == 2
    assert not list(folder.iterdir())
    assert "U" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("delay", [0.5, 3.0])
def test_an_interruption_of_workers_is_one_line_and_leaves_nothing(tmp_path, number, status, delay):
    file, scratch = xyz(tmp_path / "a.xyz", 8 * pool()), tmp_path / "scratch"
    scratch.mkdir()
    # A parent that runs in the background may ignore Ctrl-C, and children inherit that: this child must not.
    code = (
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nfrom kernelpot.cli import main\n"
    )
    asked = ["curate", file, "--blocks", tmp_path / "s", "-n", 3, "--chunk", 1, *SMALL[:-1], 2]
    run = subprocess.Popen(
        [sys.executable, "-c", f"{code}sys.exit(main({list(map(str, asked))}))"],
        stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"TMPDIR": str(scratch)},
    )  # fmt: skip
    for line in run.stderr:
        if "blocks of mean rank" in line:
            break
    time.sleep(delay)
    os.killpg(run.pid, number)
    said = [line for line in run.communicate(timeout=60)[1].splitlines() if line and "chunks: " not in line]
    assert (run.returncode, said) == (status, ["kernelpot: interrupted; every output file is whole or as it was"])
    assert not list(scratch.iterdir())
    assert not list(tmp_path.rglob(".*"))


def test_an_absent_file_makes_no_folder(tmp_path, capsys):
    assert curate(tmp_path / "absent.xyz", "--blocks", tmp_path / "s", "-n", 3, "--quiet") == 2
    assert "must exist" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_no_store_is_refused(tmp_path, capsys):
    file = xyz(tmp_path / "a.xyz", pool()[:6])
    (tmp_path / "s").write_text("")
    assert curate(file, "--blocks", tmp_path / "s", "-n", 3, "--quiet") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_symmetry_functions_choose_as_in_memory(tmp_path, capsys):
    file, numbers = xyz(tmp_path / "a.xyz", pool()), tmp_path / "numbers.json"
    asked = (file, "--blocks", tmp_path / "s", "-n", 5, "--chunk", 8, "--sample", 20, "--truncate", "1e-9")
    assert curate_acsf(*asked, "--json", numbers) == 0
    found = json.loads(numbers.read_text())
    descriptor = kp.ACSF.spaced(3.6, n_radial=4, n_angular=1)
    spec = kp.SparseGP(descriptor, kp.Gaussian(1.5), n_inducing=20, noise=kp.Noise(energy=0.002, forces=0.1))
    space = spec.prepare(sample([file], 20, seed=0))
    structures = read(file, ":")
    wanted = kp.design.select(space.information(structures, truncate=0.0), 5, criterion="balanced")
    assert found["indices"] == wanted.indices.tolist()
    assert np.allclose(found["curve"], wanted.curve, rtol=1e-3)  # stored as float32
    # The folder's space is the one that was prepared, descriptor and kernel included.
    loaded = load_space(tmp_path / "s" / "space.safetensors")
    (term,) = loaded.terms
    assert term.descriptor == descriptor
    assert term.kernel == kp.Gaussian(1.5)
    mine, theirs = (one.information(structures[:3]) for one in (space, loaded))
    assert np.allclose(mine.rows, theirs.rows, rtol=1e-12)
    capsys.readouterr()
    assert curate_acsf(*asked, "--json", numbers) == 0
    assert "complete, 4 chunks; nothing to do" in capsys.readouterr().err
    assert json.loads(numbers.read_text())["indices"] == found["indices"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": ["--cutoff", "3.8", "--n-max", "4", "--n-angular", "1"]}, "descriptor.cutoff was 3.6, now 3.8"),
        ({"sizes": ["--cutoff", "3.6", "--n-max", "5", "--n-angular", "1"]}, "descriptor.g2 had 4 rows, now 5"),
        ({"sizes": ["--cutoff", "3.6", "--n-max", "4"]}, "descriptor.g4 had 6 rows, now 12"),
        ({"kinds": ["--descriptor", "acsf", "--gaussian", "2"]}, "kernel.length was 1.5, now 2.0"),
        ({"kinds": ["--descriptor", "acsf"]}, "kernel was Gaussian, now DotProduct"),
        ({"kinds": ["--gaussian", "1.5"], "sizes": ["--cutoff", "3.6"]}, "descriptor was ACSF, now SOAP"),
    ],
)
def test_a_folder_of_symmetry_functions_goes_on_with_its_own_settings_alone(tmp_path, capsys, change, words):
    file = xyz(tmp_path / "a.xyz", pool()[:6])
    asked = (file, "--blocks", tmp_path / "s", "-n", 2, "--quiet")
    assert curate_acsf(*asked) == 0
    capsys.readouterr()
    assert curate_acsf(*asked, **change) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 400 + len(str(tmp_path))
    assert "prepared with other settings" in said
    assert words in said
    assert "use those, or choose another folder" in said
    assert curate_acsf(*asked) == 0


def test_a_folder_of_soap_is_refused_for_symmetry_functions(tmp_path, capsys):
    file = xyz(tmp_path / "a.xyz", pool()[:6])
    asked = (file, "--blocks", tmp_path / "s", "-n", 2, "--quiet")
    assert curate(*asked) == 0
    capsys.readouterr()
    assert curate_acsf(*asked) == 2
    assert "descriptor was SOAP, now ACSF; kernel was DotProduct, now Gaussian" in capsys.readouterr().err
    assert curate(*asked) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*ACSF, "--sigma", "0.6"], "`--sigma` belongs to SOAP"),
        (["--n-angular", "3"], "`--n-angular` belongs to acsf"),
        ([*ACSF, "--cutoff", "0.001"], "`cutoff` must lie between 0.01 and 50 Å, got 0.001"),
        (["--gaussian", "1e6"], "it is a distance of unit vectors"),
        ([*ACSF, "--zeta", "2"], "`--zeta` is the power of the kernel that --gaussian replaces"),
    ],
)
def test_a_model_that_cannot_be_makes_no_folder(tmp_path, capsys, options, words):
    file = xyz(tmp_path / "a.xyz", pool()[:6])
    assert curate(file, "--blocks", tmp_path / "s", "-n", 2, "--quiet", small=options) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words in said
    assert not (tmp_path / "s").exists()
