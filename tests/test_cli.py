"""The command line: run as a user would, errors included."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write

import kernelpot
import kernelpot as kp
from kernelpot.archive import PREFIX, replacing
from kernelpot.cli import COMMANDS, EXAMPLES, main, parse
from kernelpot.cli.options import Select, SpaceOptions
from kernelpot.cli.printing import plain, table
from kernelpot.data.labels import resolve
from kernelpot.demo import label, structures

SMALL = ["--cutoff", "4.5", "--n-max", "4", "--l-max", "3", "--sigma", "0.6", "--n-inducing", "60"]


def kernelpot_command(*args, cwd=None, **settings):
    return subprocess.run(
        [sys.executable, "-m", "kernelpot", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **settings,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A pool without labels, a training set, a test set, and a model fitted on the command line."""
    folder = tmp_path_factory.mktemp("files")
    write(folder / "pool.xyz", structures(24, seed=1))
    write(folder / "train.xyz", label(structures(24, seed=2)))
    write(folder / "test.xyz", label(structures(8, seed=3)))
    done = kernelpot_command(
        "fit",
        "train.xyz",
        "--out",
        "model.kp",
        "--test",
        "test.xyz",
        "--json",
        "fit.json",
        *SMALL,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    (folder / "fit.txt").write_text(done.stdout)
    return folder


def error_line(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert lines[0].startswith("kernelpot: error: ")
    return lines[0]


# help


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["select", "--help"], ["demo", "--help"]])
def test_help_imports_nothing_heavy(args):
    code = (
        "import sys\nfrom kernelpot.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as"
        " end:\n    heavy = {'torch', 'ase', 'numba', 'numpy', 'gpytorch', 'matplotlib'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy), end.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0"


def test_installed_command_is_the_module():
    script = Path(sys.executable).with_name("kernelpot")
    if not script.exists():
        pytest.skip("the package is not installed with its command")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == kernelpot_command("--version").stdout == f"kernelpot {kernelpot.__version__}\n"


def test_a_command_is_what_its_options_say():
    asked = parse(["select", "a.xyz", "b.xyz", "-n", "3", "--cutoff", "4", "--quota", "a=1", "--quota", "b=1-2"])
    assert isinstance(asked, Select)
    assert asked.pool == ("a.xyz", "b.xyz")
    assert asked.quota == (("a", 1), ("b", (1, 2)))
    assert asked.model == SpaceOptions(cutoff=4.0, given=frozenset({"cutoff"}))
    searched = parse(["fit", "a.xyz", "--out", "m.kp", "--tune", "--noise", "0.1,none"])
    assert searched.tuning.tune == 10.0
    assert searched.noise == (0.1, None)
    assert "cutoff" not in searched.model.given


def test_commands_in_the_docs_can_be_typed():
    root = Path(kernelpot.__file__).parents[1]
    texts = [path.read_text(encoding="utf-8") for path in (root / "README.md", *(root / "docs").glob("*.md"))]
    start = f"kernelpot (?:{'|'.join(command.__name__.lower() for command in COMMANDS)})"
    found = [line for text in texts for line in re.findall(rf"`({start} [^`]*)`|^ *({start} .*)$", text, re.MULTILINE)]
    lines = [*EXAMPLES.splitlines()[1:], *("".join(pair) for pair in found)]
    # Some name one option alone.
    whole = [line.split()[1:] for line in lines if not re.search(r"kernelpot \w+ --", line)]
    assert len(whole) >= 20
    for words in whole:
        parse(words)


def test_options_of_a_model_start_from_its_own_defaults():
    model = SpaceOptions()
    assert model.describing() == kernelpot.SOAP()
    assert model.comparing() == kernelpot.DotProduct()


# the four verbs


def test_fit_writes_model_and_scores(files):
    scores = json.loads((files / "fit.json").read_text())
    assert (files / "model.kp").stat().st_size > 0
    assert set(scores["noise"]) == {"energy", "forces", "stress"}
    assert scores["amplitude"] > 0
    assert scores["test"] is not None
    assert "wrote model.kp" in (files / "fit.txt").read_text()
    assert not list(files.glob(".kernelpot-*"))


def test_assess_judges_a_set(files, capsys):
    args = ["assess", str(files / "test.xyz"), "--pool", str(files / "pool.xyz"), "--next", "3", *SMALL, "--quiet"]
    out = files / "assess.json"
    assert main([*args, "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("VERDICT\n  feasible: 8 structures")
    for word in ("labels: those that are there count", "WHAT TO ADD NEXT", "ELEMENTS", "least known", "FORECAST"):
        assert word in text
    found = json.loads(out.read_text())
    first = 1000 * found["forecast"]["errors"]["energy"][0]
    quoted = re.search(r"energy of the pool: expected error by the labels (\S+) meV/atom; ", text)
    assert float(quoted.group(1)) == pytest.approx(first, rel=0.01)
    assert "cost, N_atoms³" in text
    pick = found["next"]["indices"][0]
    assert f"{pick} (pool.xyz@{pick})" in text
    assert len(found["next"]["indices"]) == 3
    assert found["labels_counted"] == "present"
    assert found["forecast"]["n"] == [8, 10, 11]
    assert {one["number"] for one in found["coverage"]["species"]} == {29, 79}


def test_assess_warns_of_colliding_frames(files, tmp_path, capsys):
    pool = read(files / "pool.xyz", ":")
    pool[4].positions[1] = pool[4].positions[0] + [0.6, 0.0, 0.0]
    write(tmp_path / "bad.xyz", pool)
    out = tmp_path / "assess.json"
    args = ["assess", str(files / "test.xyz"), "--pool", str(tmp_path / "bad.xyz"), "--next", "2", "--swaps", "0"]
    assert main([*args, *SMALL, "--quiet", "--json", str(out)]) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warned) == 1
    assert f"1 of {len(pool)} structures of the pool look broken" in warned[0]
    assert "bad.xyz@4" in warned[0]
    assert [one["index"] for one in json.loads(out.read_text())["screen"]["pool"]] == [4]


def test_assess_needs_neither_labels_nor_pool(files, capsys):
    assert main(["assess", str(files / "pool.xyz"), *SMALL, "--quiet", "--json", "-"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["labels_counted"] == "planned"
    assert "none found, so all planned ones count" in printed.err
    assert "no forecast: it needs a pool" in printed.err


def test_assess_says_which_element_is_missing(files, tmp_path, capsys):
    copper = [atoms for atoms in read(files / "train.xyz", ":") if set(atoms.symbols) == {"Cu"}][:2]
    write(tmp_path / "cu.xyz", copper)
    out = ["assess", str(tmp_path / "cu.xyz"), "--pool", str(files / "pool.xyz"), "--next", "2", *SMALL, "--quiet"]
    assert main(out) == 0
    text = capsys.readouterr().out
    assert "Au is missing: no atom of it in the set" in text
    assert "no forecast: it needs at least 3 different labelled structures" in text


def test_assess_refuses_bad_input_in_one_line(files, tmp_path, capsys):
    empty = tmp_path / "empty.xyz"
    empty.write_text("")
    assert main(["assess", str(empty), *SMALL, "--quiet"]) == 2
    assert "empty.xyz" in error_line(capsys)
    assert main(["assess", str(files / "nothing.xyz"), "--quiet"]) == 2
    assert "nothing.xyz" in error_line(capsys)
    pool = str(files / "pool.xyz")
    assert main(["assess", pool, "--json", pool, "--quiet"]) == 2
    assert "--json" in error_line(capsys)


def test_fit_takes_inducing_environments_from_a_pool(files, tmp_path):
    few = tmp_path / "few.xyz"
    write(few, read(files / "train.xyz", ":2"))
    sizes = []
    for extra in ([], ["--pool", str(files / "pool.xyz")]):
        out = str(tmp_path / "m.kp")
        assert main(["fit", str(few), "--out", out, "--noise", "0.002,0.1", *SMALL, "--quiet", *extra]) == 0
        sizes.append(kernelpot.load(out).n_inducing_)
    assert sizes[0] < sizes[1]


def test_missing_labels_are_explained_in_the_words_of_the_command_line(files, capsys):
    assert main(["fit", str(files / "pool.xyz"), "--out", str(files / "no.kp"), *SMALL, "--quiet"]) == 2
    assert "--keys energy=NAME" in capsys.readouterr().err
    assert not (files / "no.kp").exists()


def test_select_writes_the_chosen_structures(files, tmp_path):
    done = kernelpot_command(
        "select",
        files / "pool.xyz",
        "-n",
        6,
        "--existing",
        files / "test.xyz",
        "--out",
        tmp_path / "chosen.xyz",
        "--json",
        "-",
        *SMALL,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    chosen, pool = read(tmp_path / "chosen.xyz", ":"), read(files / "pool.xyz", ":")
    assert len(report["indices"]) == len(set(report["indices"])) == len(chosen) == 6
    assert len(report["curve"]) == 7
    assert report["curve"] == sorted(report["curve"], reverse=True)
    assert report["criterion"] == "balanced"
    for k, atoms in zip(report["indices"], chosen, strict=True):
        np.testing.assert_allclose(atoms.positions, pool[k].positions)
    assert "balanced" in done.stderr, "the table for people moves to standard error"


def test_select_counts_groups_and_compositions(files, tmp_path, capsys):
    pool = read(files / "pool.xyz", ":")
    pool.append(pool[2].copy())
    for k, atoms in enumerate(pool):
        atoms.info["config_type"] = f"kind {k}"
    write(tmp_path / "pool.xyz", pool)
    args = ["select", str(tmp_path / "pool.xyz"), "-n", "3", "--json", str(tmp_path / "c.json"), "--quiet", *SMALL]
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert f"… and {len(pool) - 10} more" in printed
    assert f" and {len(pool) - 3 - 10} more" in printed.partition("none chosen of: ")[2].splitlines()[0]
    report = json.loads((tmp_path / "c.json").read_text())
    told = {one["name"]: (one["pool"], one["chosen"]) for one in report["coverage"]["group"]}
    assert told == {f"kind {k}": (1, int(k in report["indices"])) for k in range(len(pool))}
    assert sum(one["chosen"] for one in report["coverage"]["composition"]) == 3
    left = {one["chosen"]: [] for one in report["coverage"]["group"]}
    for one in report["coverage"]["group"]:
        left[one["chosen"]].append(one["std_left_percent"])
    assert 0.0 < np.mean(left[1]) < np.mean(left[0]) < 100.0
    assert "std left, %" in printed
    assert report["repeats"] == [[2, len(pool) - 1]]
    assert f"that repeat each other: 2={len(pool) - 1}" in printed


def test_select_and_assess_start_from_a_model(files, tmp_path, capsys):
    model, out = tmp_path / "m.kp", tmp_path / "c.json"
    assert main(["fit", str(files / "test.xyz"), "--out", str(model), "--noise", "0.01,0.2", *SMALL, "--quiet"]) == 0
    pool, labelled = str(files / "pool.xyz"), str(files / "test.xyz")
    start = ["--model", str(model), "--n-inducing", "10", "--quiet"]
    assert main(["select", pool, "-n", "3", "--existing", labelled, "--json", str(out), *start]) == 0
    found, fitted = json.loads(out.read_text()), kp.load(model)
    assert found["settings"]["model"] == str(model)
    planned = fitted.widened(kp.read(pool, verbose=False), 10)
    assert planned.n_inducing_ == fitted.n_inducing_ + 10
    assert planned.plan()[1:] == (fitted.noise_, fitted.amplitude_)
    assert main(["assess", labelled, "--pool", pool, "--next", "2", *start]) == 0
    capsys.readouterr()
    assert main(["select", pool, "-n", "3", "--cutoff", "4", *start]) == 2
    assert "`--cutoff` is settled by --model" in capsys.readouterr().err


def test_select_by_a_rival_and_another_criterion(files, capsys):
    pool = str(files / "pool.xyz")
    assert main(["select", pool, "-n", "3", "--criterion", "D", "--method", "random", "--quiet", *SMALL]) == 0
    assert "log det" in capsys.readouterr().out


def test_select_warns_of_broken_structures_and_sets_them_aside_when_asked(files, tmp_path, capsys):
    pool = read(files / "pool.xyz", ":")
    for k in (0, 7):
        pool[k].positions[1] = pool[k].positions[0] + [0.6, 0.0, 0.0]
    write(tmp_path / "pool.xyz", pool)
    args = ["select", str(tmp_path / "pool.xyz"), "-n", "20", "--json", str(tmp_path / "c.json"), "--quiet", *SMALL]
    assert main(args) == 0
    printed = capsys.readouterr()
    assert "set aside" not in printed.out
    assert printed.err.count("warning: 2 of 24 structures look broken or outlying") == 1
    report = json.loads((tmp_path / "c.json").read_text())
    assert report["screen"]["set_aside"] is False
    assert [entry["index"] for entry in report["screen"]["found"]] == [0, 7]
    assert main([*args, "--screen", "--out", str(tmp_path / "chosen.xyz")]) == 0
    printed = capsys.readouterr()
    assert "2 of 24 structures set aside" in printed.out
    assert "0.6 Å apart" in printed.out
    assert "warning" not in printed.err
    report = json.loads((tmp_path / "c.json").read_text())
    assert not {0, 7} & set(report["indices"])
    for k, entry, atoms in zip(
        report["indices"], report["structures"], read(tmp_path / "chosen.xyz", ":"), strict=True
    ):
        np.testing.assert_allclose(atoms.positions, pool[k].positions)
        assert entry["index"] == k
        assert entry["source"] == f"pool.xyz@{k}"
    assert main([*args[:3], "23", "--screen", "--quiet", *SMALL]) == 2
    assert "got 23 of 22" in capsys.readouterr().err


def test_evaluate_prints_and_writes_scores(files, tmp_path, capsys):
    args = [
        "evaluate",
        str(files / "model.kp"),
        str(files / "test.xyz"),
        "--json",
        str(tmp_path / "s.json"),
        "--quiet",
    ]
    assert main(args) == 0
    assert "energy" in capsys.readouterr().out
    again = json.loads((tmp_path / "s.json").read_text())["scores"]["overall"]
    first = json.loads((files / "fit.json").read_text())["test"]["overall"]
    assert again.keys() == first.keys()
    for kind, score in again.items():
        assert score == pytest.approx(first[kind], rel=1e-6)


def test_fit_calibrates_where_asked(files, tmp_path, capsys):
    fitted, calibrated = kernelpot.load(files / "model.kp"), tmp_path / "calibrated.kp"
    assert main(["fit", str(files / "train.xyz"), "--out", str(calibrated), "--calibrate", *SMALL, "--quiet"]) == 0
    capsys.readouterr()
    model = kernelpot.load(calibrated)
    assert fitted.fitted_.calibration.shape == {}
    assert set(model.fitted_.calibration.shape) == set(model.calibration_)
    assert main(["evaluate", str(calibrated), str(files / "test.xyz"), "--quiet"]) == 0
    out = capsys.readouterr().out
    for column in ("in 68%", "in 95%", "log score", "rank", "ceiling"):
        assert column in out


def test_predict_writes_predictions_with_stds(files, tmp_path, capsys):
    out = tmp_path / "predicted.xyz"
    assert main(["predict", str(files / "model.kp"), str(files / "test.xyz"), "--out", str(out), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "std meV/atom" in text
    model, test = kernelpot.load(files / "model.kp"), read(files / "test.xyz", ":")
    prediction = model.predict(test)
    grades = np.concatenate(prediction.extrapolation)
    assert f"extrapolation grades: {(grades > 1).sum()} of {len(grades)} atoms beyond 1" in text
    np.testing.assert_allclose(read(out, 0).arrays["extrapolation"], prediction.extrapolation[0], atol=1e-6)
    for s, atoms in enumerate(read(out, ":")):
        assert atoms.get_potential_energy() == pytest.approx(prediction.energy[s], abs=1e-6)
        np.testing.assert_allclose(atoms.get_forces(), prediction.forces[s], atol=1e-6)
        assert atoms.info["energy_std"] == pytest.approx(prediction.energy_std[s], abs=1e-6)
        np.testing.assert_allclose(atoms.arrays["forces_std"], prediction.forces_std[s], atol=1e-6)
    assert "predictions of `kernelpot predict`" in resolve(read(out, ":")).summary()


def test_predict_molecule_has_no_stress(files, tmp_path):
    cluster = molecule("H2")
    cluster.symbols[:] = "Cu"
    cluster.positions *= 3.0
    write(tmp_path / "cluster.xyz", cluster)
    out = tmp_path / "predicted.xyz"
    assert main(["predict", str(files / "model.kp"), str(tmp_path / "cluster.xyz"), "--out", str(out), "--quiet"]) == 0
    atoms = read(out)
    assert "stress" not in atoms.calc.results
    assert "stress_std" not in atoms.info


def test_fixed_noise(files, tmp_path, capsys):
    args = [
        "fit",
        str(files / "train.xyz"),
        "--out",
        str(tmp_path / "m.kp"),
        "--noise",
        "0.003,0.2",
        "--quiet",
        *SMALL,
    ]
    assert main(args) == 0
    model = kernelpot.load(tmp_path / "m.kp")
    assert model.noise_ == kernelpot.Noise(energy=0.003, forces=0.2)


# bad input


def test_bad_input_exits_2_with_one_line(tmp_path):
    for more in ([], ["--quiet"]):
        done = kernelpot_command("select", tmp_path / "absent.xyz", "-n", 3, *more)
        lines = done.stderr.splitlines()
        assert done.returncode == 2
        assert done.stdout == ""
        assert lines[-1].startswith("kernelpot: error: ")
        assert "absent.xyz" in lines[-1]
        assert sum("error" in line for line in lines) == 1
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "arguments are required"),
        (["guess"], "invalid choice"),
        (["select", "p.xyz", "-n", "0"], "at least 1"),
        (["select", "p.xyz", "-n", "two"], "whole number"),
        (["select", "p.xyz", "-n", "2", "--criterion", "Z"], "must be one of balanced, IV, D, A"),
        (["select", "p.xyz", "-n", "2", "--criterion", "D,IV"], "or a compound such as D=0.3,IV=0.7"),
        (["select", "p.xyz", "-n", "2", "--criterion", "D=0.3,IV=-1"], "positive number"),
        (["select", "p.xyz", "-n", "2", "--quota", "surface"], "GROUP=MOST"),
        (["select", "p.xyz", "-n", "2", "--force", "7-3"], "at least 7"),
        (["select", "p.xyz", "-n", "2", "--force", "0-9999999999"], "at most 10000000"),
        (["select", "p.xyz", "-n", "2", "--quota", "a=99999999999999999999"], "at most 10000000"),
        (["select", "p.xyz", "-n", "2", "--criterion", "D=1,D=5"], "every criterion once"),
        (["select", "p.xyz", "-n", "2", "--cost-power", "1e6"], "at most 10"),
        (["select", "p.xyz", "-n", "2", "--method", "magic"], "invalid choice"),
        (["select", "p.xyz", "-n", "2", "--cutoff", "-5"], "positive number"),
        (["select", "p.xyz", "-n", "2", "--noise-energy", "nan"], "positive number"),
        (["fit", "t.xyz"], "--out"),
        (["fit", "t.xyz", "--out", "m.kp", "--noise", "0.1"], "ENERGY,FORCES"),
        (["fit", "t.xyz", "--out", "m.kp", "--keys", "energie=x"], "energy=NAME"),
    ],
)
def test_mistyped_arguments_exit_2_with_one_line(args, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert words in error_line(capsys)


def test_select_obeys_limits_and_certifies(files, capsys):
    pool, out = str(files / "pool.xyz"), files / "limited.json"
    limits = ["--force", "3,5-6", "--forbid", "0-2", "--criterion", "D=0.3,IV=0.7", "--target", str(files / "test.xyz")]
    args = ["select", pool, "-n", "5", *limits, "--certify", *SMALL, "--quiet", "--json", str(out)]
    assert main(args) == 0
    found = json.loads(out.read_text())
    assert found["indices"][:3] == [3, 5, 6]
    assert not {0, 1, 2} & set(found["indices"])
    assert 0 < found["certificate"]["efficiency"] <= 1
    assert "efficiency against the best possible choice" in capsys.readouterr().out
    budget = ["--budget", "3000", "--cost-power", "2", "--method", "exchange", "--json", "-"]
    assert main(["select", pool, *budget, *SMALL, "--quiet"]) == 0
    paid = json.loads(capsys.readouterr().out)
    assert sum(paid["costs"]) <= 3000
    assert paid["costs"] == [s["n_atoms"] ** 2 for s in paid["structures"]]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "`-n`, or what they may cost with `--budget`"),
        (["-n", "2", "--force", "99"], "`--force` names structure 99, but the pool has 24"),
        (["-n", "2", "--quota", "nowhere=1"], "names the group 'nowhere'"),
        (["-n", "2", "--force", "1", "--forbid", "1"], "forbidden"),
    ],
)
def test_limits_that_make_no_sense_are_one_line(files, args, words, capsys):
    assert main(["select", str(files / "pool.xyz"), *args, *SMALL, "--quiet"]) == 2
    assert words in error_line(capsys)


def test_fewer_than_asked_for_are_a_warning_or_an_error(files, tmp_path, capsys):
    pool, out = str(files / "pool.xyz"), tmp_path / "o.xyz"
    groups = {str(atoms.info["config_type"]) for atoms in read(files / "pool.xyz", ":")}
    rule = [word for name in sorted(groups) for word in ("--quota", f"{name}=1")]
    words = f"{len(groups)} of {len(groups) + 2} structures were chosen: --quota "
    assert main(["select", pool, "-n", str(len(groups) + 2), *rule, *SMALL, "--quiet"]) == 0
    assert words in capsys.readouterr().err
    assert main(["select", pool, "-n", str(len(groups) + 2), *rule, "--strict", *SMALL, "--quiet"]) == 2
    assert words in error_line(capsys)
    assert main(["select", pool, "-n", "3", "--budget", "1", "--out", str(out), *SMALL, "--quiet"]) == 0
    said = capsys.readouterr()
    assert "0 of 3 structures were chosen: --budget 1 leaves less than" in said.err
    assert "was not written" in said.out
    assert not out.exists()


def test_geometry_is_looked_at_by_every_command(files, tmp_path, capsys):
    """Lengths in nm: neighbours at 0.25 Å."""
    tiny = [atoms.copy() for atoms in structures(6, seed=4)]
    for atoms in tiny:
        atoms.set_cell(0.13 * atoms.cell, scale_atoms=True)
    write(tmp_path / "nm.xyz", tiny)
    main(["predict", str(files / "model.kp"), str(tmp_path / "nm.xyz"), "--out", str(tmp_path / "o.xyz"), "--quiet"])
    assert "6 of 6 structures look broken; the first, " in capsys.readouterr().err


def test_too_many_to_choose(files, capsys):
    assert main(["select", str(files / "pool.xyz"), "-n", "25", "--quiet"]) == 2
    assert "at most the size of the pool, got 25 of 24" in error_line(capsys)


def test_outputs_are_checked_before_the_work(files, tmp_path, capsys):
    train, pool = str(files / "train.xyz"), str(files / "pool.xyz")
    for args, words in [
        (["fit", train, "--out", str(tmp_path / "absent" / "m.kp")], "directory that exists"),
        (["fit", train, "--out", str(tmp_path)], "got the directory"),
        (["select", pool, "-n", "2", "--out", pool], "must not replace an input"),
        (["select", pool, "-n", "2", "--json", str(tmp_path / "absent" / "x.json")], "`--json`"),
        (["demo", "--out", str(tmp_path / "absent" / "report.html")], "`--out`"),
    ]:
        assert main([*args, "--quiet"]) == 2
        assert words in error_line(capsys)


def test_noise_given_twice(files, tmp_path, capsys):
    args = [
        "fit",
        str(files / "train.xyz"),
        "--out",
        str(tmp_path / "m.kp"),
        "--noise",
        "cv",
        "--noise-energy",
        "0.1",
    ]
    assert main([*args, "--quiet"]) == 2
    assert "give one or the other" in error_line(capsys)


def test_missing_labels(files, tmp_path, capsys):
    assert main(["fit", str(files / "pool.xyz"), "--out", str(tmp_path / "m.kp"), "--quiet", *SMALL]) == 2
    error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_foreign_and_damaged_models(files, tmp_path, capsys):
    data = (files / "model.kp").read_bytes()
    (tmp_path / "cut.kp").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.kp").write_bytes(b"")
    for path in (files / "test.xyz", tmp_path / "cut.kp", tmp_path / "empty.kp", tmp_path / "absent.kp"):
        assert main(["evaluate", str(path), str(files / "test.xyz"), "--quiet"]) == 2
        assert path.name in error_line(capsys)


def test_unseen_species(files, tmp_path, capsys):
    write(tmp_path / "water.xyz", molecule("H2O"))
    args = [
        "predict",
        str(files / "model.kp"),
        str(tmp_path / "water.xyz"),
        "--out",
        str(tmp_path / "p.xyz"),
        "--quiet",
    ]
    assert main(args) == 2
    assert "H" in error_line(capsys)
    assert not (tmp_path / "p.xyz").exists()


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_interruption_exits_130_with_one_line(tmp_path):
    code = (
        "import sys, time\nimport kernelpot.cli as c\nc.run = lambda command: (print('ready',"
        " flush=True), time.sleep(60))\nfrom kernelpot.cli import main\nsys.exit(main(['demo']))\n"
    )
    # A parent that runs in the background may ignore Ctrl-C, and children inherit that: this child must not.
    code = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + code
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err.strip().splitlines() == ["kernelpot: interrupted; every output file is whole or as it was"]


# the demonstration


@pytest.mark.parametrize(
    "numbers", [("--pool", "5", "-n", "2"), ("--pool", "9", "-n", "10"), ("--pool", "9", "-n", "1")]
)
def test_demo_checks_its_numbers_first(monkeypatch, capsys, numbers):
    monkeypatch.setattr("kernelpot.demo.run", lambda _: pytest.fail("work was begun"))
    assert main(["demo", *numbers]) == 2
    assert "`--pool` must be at least 6 and `-n` from 2 to that" in error_line(capsys)


@pytest.mark.slow
def test_demo_needs_no_file(tmp_path):
    done = kernelpot_command("demo", "--json", "demo.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "chosen by" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json", "report.html"]
    assert len(json.loads((tmp_path / "demo.json").read_text())["chosen"]) == 25


# writing


def test_replacing_leaves_the_old_file_when_the_work_fails(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_plain_knows_arrays_and_nan():
    value = {"a": np.arange(2), 1: (np.float64("nan"), np.int64(3), np.bool_(True)), "b": None, "c": "x"}
    assert plain(value) == {"a": [0, 1], "1": [None, 3, True], "b": None, "c": "x"}


def test_table_aligns_numbers_to_the_right():
    text = table(("name", "n"), [("a", 1), ("long name", 123.456)])
    assert text.splitlines() == [
        "name           n",
        "---------  -----",
        "a              1",
        "long name  123.5",
    ]
    assert table(("energy",), [(-42091.236,), (3.14159,)]).splitlines()[2:] == ["-42091.24", "    3.142"]


# outputs and inputs


def test_an_output_never_replaces_an_input_that_was_named_with_an_index(tmp_path, files, capsys):
    write(tmp_path / "pool.xyz", structures(6, seed=3))
    before = (tmp_path / "pool.xyz").read_bytes()
    path = str(tmp_path / "pool.xyz")
    assert main(["predict", str(files / "model.kp"), f"{path}@:2", "--out", path]) == 2
    assert "must not replace an input" in error_line(capsys)
    assert (tmp_path / "pool.xyz").read_bytes() == before


def test_a_full_device_is_one_line_that_names_it(files, capsys):
    command = f'"{sys.executable}" -m kernelpot --help >/dev/full'
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "kernelpot: error: standard output: No space left on device\n"
    assert main(["evaluate", str(files / "model.kp"), str(files / "test.xyz"), "--quiet", "--json", "/dev/full"]) == 2
    assert error_line(capsys) == "kernelpot: error: /dev/full: No space left on device"


@pytest.mark.parametrize(
    ("name", "words"),
    [("loop", "symbolic links"), ("a" * 300, "name too long"), ("a\0b", "NUL"), ("a\udcffb", r"'a\udcffb'")],
)
def test_names_that_cannot_be_written_to_are_refused_before_the_work(files, tmp_path, capsys, name, words):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = f"{tmp_path}/{name}"
    for asked in (
        ["fit", str(files / "train.xyz"), "--out"],
        ["curate", str(files / "pool.xyz"), "-n", "2", "--blocks"],
    ):
        assert main([*asked, path, "--quiet", *SMALL]) == 2
        assert words.strip("'").lower() in error_line(capsys).lower()
    assert [entry.name for entry in tmp_path.iterdir()] == ["loop"]


def test_an_error_of_the_system_names_the_file_and_is_no_damage(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: .*out.txt"), replacing(tmp_path / "out.txt"):
        full()
    write(tmp_path / "a.xyz", structures(6, seed=1))
    # Other formats are unpacked to a file; extended XYZ is read as it is unpacked.
    write(tmp_path / "a.traj", structures(6, seed=1))
    (tmp_path / "a.traj.gz").write_bytes(gzip.compress((tmp_path / "a.traj").read_bytes()))
    monkeypatch.setattr("kernelpot.data.xyz._put", full)
    with pytest.raises(
        kernelpot.errors.DataError, match=r"a.traj.gz must be unpacked there, it failed \(No space left on device\)"
    ):
        kernelpot.read(tmp_path / "a.traj.gz")


def test_what_killed_processes_have_left_is_swept(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for number, there in ((gone.pid, False), (os.getpid(), True)):
        left = tmp_path / f"{PREFIX}{number}-x.xyz"
        left.write_text("half")
        with replacing(tmp_path / "out.txt") as temporary:
            temporary.write_text("whole")
        assert left.exists() == there


def test_a_model_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def locked(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "m.kp"))

    (tmp_path / "m.kp").write_text("")
    monkeypatch.setattr(Path, "open", locked)
    with pytest.raises(kernelpot.errors.ModelFileError, match=r"cannot be read \(Permission denied\)"):
        kernelpot.load(tmp_path / "m.kp")


def test_no_warning_of_arithmetic_stands_beside_the_line_of_an_error(monkeypatch, capsys):
    def overflow(_):
        np.exp(np.array([1e3]))
        raise kernelpot.errors.DataError("too large")

    monkeypatch.setattr("kernelpot.cli.run", overflow)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "kernelpot: error: too large\n"


def test_two_outputs_are_two_files(tmp_path, files, capsys):
    out = str(tmp_path / "o.xyz")
    assert main(["predict", str(files / "model.kp"), str(files / "test.xyz"), "--out", out, "--json", out]) == 2
    assert "different files" in error_line(capsys)


def test_the_largest_force_is_the_true_one_under_constraints(tmp_path, files):
    from ase.constraints import FixAtoms

    atoms = structures(6, seed=3)[5]
    atoms.set_constraint(FixAtoms(range(len(atoms))))
    write(tmp_path / "fixed.xyz", atoms)
    arguments = ["--out", str(tmp_path / "o.xyz"), "--json", str(tmp_path / "o.json"), "--quiet"]
    assert main(["predict", str(files / "model.kp"), str(tmp_path / "fixed.xyz"), *arguments]) == 0
    largest = json.loads((tmp_path / "o.json").read_text())["structures"][0]["largest_force_eV_per_A"]
    forces = read(tmp_path / "o.xyz").calc.results["forces"]
    assert largest == pytest.approx(np.abs(forces).max(), rel=1e-6)
    assert largest > 0


def test_a_test_without_labels_is_refused_before_the_fit(tmp_path, files, capsys):
    out = tmp_path / "m.kp"
    pool, train = str(files / "pool.xyz"), str(files / "train.xyz")
    assert main(["fit", train, "--out", str(out), "--test", pool, *SMALL]) == 2
    assert "--test" in error_line(capsys)
    assert not out.exists()


@pytest.mark.parametrize("extreme", [["--seed", "-1"], ["--seed", str(2**32)]])
def test_a_seed_out_of_range_is_one_line(files, capsys, extreme):
    with pytest.raises(SystemExit) as end:
        main(["select", str(files / "pool.xyz"), "-n", "2", *extreme])
    assert end.value.code == 2
    assert "--seed" in error_line(capsys)


@pytest.mark.parametrize(
    "extreme",
    [["--noise", "1e-300,0.1"], ["--noise", "0.1,1e300"], ["--amplitude", "1e300"], ["--cutoff", "1e-6"],
     ["--sigma", "1e-6"], ["--sigma", "1e300"], ["--n-max", "32"]],
)  # fmt: skip
def test_absurd_numbers_are_one_line(tmp_path, files, capsys, extreme):
    arguments = ["--n-inducing", "20", "--l-max", "1", *extreme]
    assert main(["fit", str(files / "train.xyz"), "--out", str(tmp_path / "m.kp"), *arguments]) == 2
    error_line(capsys)


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_streams_are_no_crash(files, closed):
    command = f'"{sys.executable}" -m kernelpot evaluate model.kp test.xyz {closed}'
    done = subprocess.run(["sh", "-c", command], cwd=files, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    import threading

    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    with replacing(pipe) as temporary:
        temporary.write_text("{}")
    reader.join(10)
    assert found == ["{}"]
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe.json"]


def test_screen_reads_what_it_sets_aside(files, tmp_path, capsys):
    from ase.io import read, write

    pool = read(files / "pool.xyz", ":")
    pool[4].positions[1] = pool[4].positions[0]  # on top of each other: unusable, and refused without --screen
    write(tmp_path / "broken.xyz", pool)
    args = ["select", str(tmp_path / "broken.xyz"), "-n", "3", *SMALL, "--quiet", "--json", "-"]
    assert main(args) == 2
    assert "--screen" in error_line(capsys)
    assert main([*args, "--screen"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 4 in [one["index"] for one in found["screen"]["found"]]
    assert 4 not in found["indices"]


def test_symmetry_functions_on_the_command_line(files, tmp_path):
    small = ["--descriptor", "acsf", "--gaussian", "1.5", "--cutoff", "4.5", "--n-max", "4", "--n-angular", "1",
             "--n-inducing", "30"]  # fmt: skip
    done = kernelpot_command(
        "fit", "train.xyz", "--out", tmp_path / "acsf.kp", "--test", "test.xyz", "--json", tmp_path / "fit.json",
        *small, cwd=files,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = kernelpot.load(tmp_path / "acsf.kp")
    descriptor = model.terms[0].descriptor
    assert descriptor == kernelpot.ACSF.spaced(4.5, n_radial=4, n_angular=1)
    assert model.terms[0].kernel.length == 1.5
    settings = json.loads((tmp_path / "fit.json").read_text())["settings"]
    assert settings["descriptor"] == "acsf"
    assert settings["n_angular"] == 1
    assert not {"sigma", "l_max", "zeta"} & set(settings)
    chosen = kernelpot_command("select", "pool.xyz", "-n", 3, "--out", tmp_path / "chosen.xyz", *small, cwd=files)
    assert chosen.returncode == 0, chosen.stderr
    assert len(read(tmp_path / "chosen.xyz", index=":")) == 3


@pytest.mark.parametrize(
    ("command", "more", "text"),
    [
        ("fit", ["--descriptor", "acsf", "--sigma", "0.4"], "`--sigma` belongs to SOAP; leave it out, or leave"),
        ("fit", ["--descriptor", "acsf", "--l-max", "4", "--tune-fits", "2"], "`--l-max` belongs to SOAP"),
        ("fit", ["--n-angular", "3"], "`--n-angular` belongs to acsf; leave it out, or add --descriptor acsf"),
        ("regress", ["--property", "gap", "--n-angular", "3"], "`--n-angular` belongs to acsf"),
        ("fit", ["--gaussian", "1", "--zeta", "2"], "`--zeta` is the power of the kernel that --gaussian replaces"),
    ],
)
def test_options_without_a_use_are_refused(files, tmp_path, command, more, text, capsys):
    args = [command, str(files / "train.xyz"), "--out", str(tmp_path / "a.kp"), "--quiet", *more]
    assert main(args) == 2
    assert text in error_line(capsys)
