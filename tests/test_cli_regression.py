"""The command `regress`, and what `evaluate` and `predict` do with its models."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import read, write

import kernelpot as kp
from kernelpot.cli import main

SIZE = ["--n-max", "3", "--l-max", "2", "--cutoff", "3.5", "--quiet"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    rng = np.random.default_rng(0)
    structures = []
    for _ in range(40):
        atoms = molecule(str(rng.choice(["CH3OH", "C2H6", "H2O"])))
        atoms.positions += rng.normal(scale=0.05, size=(len(atoms), 3))
        atoms.calc = EMT()
        energy = atoms.get_potential_energy()
        atoms.calc = None
        atoms.info["u0"] = energy
        structures.append(atoms)
    folder = tmp_path_factory.mktemp("regression")
    write(folder / "train.xyz", structures[:30])
    write(folder / "test.xyz", structures[30:])
    return folder


def test_regress_evaluate_and_predict_agree_with_python(files, capsys):
    train, test, out = (str(files / name) for name in ("train.xyz", "test.xyz", "u0.kp"))
    assert main(["regress", train, "--property", "u0", "--out", out, "--test", test, "--json", "-", *SIZE]) == 0
    said = json.loads(capsys.readouterr().out)
    assert main(["evaluate", out, test, "--json", "-", "--quiet"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores == pytest.approx(said["test"])
    assert main(["predict", out, test, "--out", str(files / "new.xyz"), "--quiet"]) == 0
    assert "std" in capsys.readouterr().out
    model = kp.load(out)
    structures = read(test, ":")
    values = np.array([atoms.info["u0"] for atoms in structures])
    assert model.label_ == "u0"
    assert np.abs(model.predict(structures) - values).mean() == pytest.approx(scores["mae"])
    written = read(files / "new.xyz", ":")
    np.testing.assert_allclose([atoms.info["u0_predicted"] for atoms in written], model.predict(structures))
    np.testing.assert_allclose([atoms.info["u0_std"] for atoms in written], model.std(structures))
    spread = values.std()
    assert scores["mae"] < 0.3 * spread


def test_an_element_that_training_lacks_ends_before_the_fit(files, capsys):
    train, out = str(files / "train.xyz"), files / "never.kp"
    strange = [molecule("H2O"), molecule("CH3SH"), molecule("SO2")]
    for atoms in strange:
        atoms.info["u0"] = 1.0
    write(files / "strange.xyz", strange)
    test = str(files / "strange.xyz")
    assert main(["regress", train, "--property", "u0", "--out", str(out), "--test", test, *SIZE]) == 2
    said = capsys.readouterr().err
    assert "strange.xyz@1: S stands in no training structure, and so in 2 of 3 test structures" in said
    assert not out.exists()


def test_intensive_properties_take_averages_and_a_mean(files, capsys):
    out = str(files / "mean.kp")
    arguments = [str(files / "train.xyz"), "--property", "u0", "--out", out, "--combine", "average"]
    assert main(["regress", *arguments, *SIZE]) == 0
    assert "average of environment kernels, baseline mean" in capsys.readouterr().out
    assert kp.load(out).kernel_.normalise


def test_one_structure_and_several_properties_are_one_line(files, capsys, tmp_path):
    out = tmp_path / "no.kp"
    assert main(["regress", f"{files / 'train.xyz'}@0", "--property", "u0", "--out", str(out), *SIZE]) == 2
    assert "at least two structures" in capsys.readouterr().err
    assert not out.exists()
    structures = read(files / "train.xyz", ":5")
    y = np.stack([[atoms.info["u0"], 1.0] for atoms in structures])
    kernel = kp.StructureKernel(kp.SOAP(cutoff=3.5, n_max=3, l_max=2))
    kp.KernelRidge(kernel).fit(structures, y).save(out, label="u0")
    test, new = str(files / "test.xyz"), tmp_path / "new.xyz"
    for command in (["evaluate", str(out), test], ["predict", str(out), test, "--out", str(new)]):
        assert main([*command, "--quiet"]) == 2
        assert "several properties" in capsys.readouterr().err
    assert not new.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda info: info.pop("u0"), r"@2: no `u0`, found nothing"),
        (lambda info: info.update(u0=float("nan")), r"@2: `u0` must be finite"),
        (lambda info: info.update(u0="high"), r"@2: `u0` must be one number, found 'high'"),
    ],
)
def test_a_property_that_cannot_be_used_is_one_line(files, capsys, tmp_path, change, said):
    structures = read(files / "train.xyz", ":5")
    change(structures[2].info)
    write(tmp_path / "broken.xyz", structures)
    out = tmp_path / "no.kp"
    assert main(["regress", str(tmp_path / "broken.xyz"), "--property", "u0", "--out", str(out), *SIZE]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert re.search(said, message)
    assert not out.exists()


def test_a_file_without_the_property_is_refused_in_the_words_of_the_command(files, capsys, tmp_path):
    out = str(files / "words.kp")
    assert main(["regress", str(files / "train.xyz"), "--property", "u0", "--out", out, *SIZE]) == 0
    write(tmp_path / "bare.xyz", [molecule("H2O")])
    assert main(["evaluate", out, str(tmp_path / "bare.xyz"), "--quiet"]) == 2
    assert "no `u0`, found nothing; the model was fitted to this property" in capsys.readouterr().err


def test_models_of_features_are_for_python(capsys, tmp_path, files):
    rng = np.random.default_rng(0)
    kp.KernelRidge("rbf").fit(rng.normal(size=(9, 2)), rng.normal(size=9)).save(tmp_path / "rows.kp")
    assert main(["evaluate", str(tmp_path / "rows.kp"), str(files / "test.xyz"), "--quiet"]) == 2
    assert "which is for Python alone" in capsys.readouterr().err


def test_a_file_without_a_label_says_how_to_give_one(capsys, tmp_path, files):
    structures = read(files / "train.xyz", ":6")
    kernel = kp.StructureKernel(kp.SOAP(cutoff=3.5, n_max=3, l_max=2))
    kp.KernelRidge(kernel).fit(structures, np.arange(6.0)).save(tmp_path / "bare.kp")
    assert main(["evaluate", str(tmp_path / "bare.kp"), str(files / "test.xyz"), "--quiet"]) == 2
    assert "label=" in capsys.readouterr().err


def test_predict_takes_a_force_ridge_which_has_no_stds(files, tmp_path, capsys):
    structures = []
    for seed in range(4):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        structures.append(atoms)
    model = kp.ForceRidge(kp.SOAP(cutoff=3.5, n_max=3, l_max=2), kp.DotProduct(3), noise=kp.Noise(1e-4, 1e-3))
    model.fit(structures).save(tmp_path / "water.kp")
    write(tmp_path / "new.xyz", structures[:2])
    out = tmp_path / "out.xyz"
    assert main(["predict", str(tmp_path / "water.kp"), str(tmp_path / "new.xyz"), "--out", str(out), "--quiet"]) == 0
    assert "nan" in capsys.readouterr().out
    found = read(out, ":")
    np.testing.assert_allclose(found[0].get_forces(), model.predict(structures[:1]).forces[0], atol=1e-7)
    assert "energy_std" not in found[0].info
    assert main(["evaluate", str(tmp_path / "water.kp"), str(tmp_path / "new.xyz"), "--quiet"]) == 0
