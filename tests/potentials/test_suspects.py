"""Labels that do not fit the others: found, explained, left out, weighed down; and fits that say they are no good."""

from __future__ import annotations

import json
import warnings
from functools import cache

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

import kernelpot as kp
from kernelpot.cli import main
from kernelpot.errors import LabelError, ParameterError
from tests import potentials
from tests import structures as make

HARTREE, BOHR = 27.211386, 0.529177
N = 40


def copies(structures) -> list[Atoms]:
    found = []
    for atoms in structures:
        other = atoms.copy()
        results = atoms.calc.results
        other.calc = SinglePointCalculator(other, energy=float(results["energy"]), forces=np.array(results["forces"]))
        found.append(other)
    return found


@cache
def crystals(n: int, seed: int) -> tuple[Atoms, ...]:
    """Rattled Cu crystals with up to one Au of four, by EMT; energies about those of isolated nuclei."""
    rng = np.random.default_rng(seed)
    every = []
    for k in range(n):
        atoms = bulk("Cu", "fcc", a=rng.uniform(3.6, 3.8), cubic=True)
        if k % 3 == 0:
            atoms.numbers[rng.integers(4)] = 79
        atoms.positions += rng.normal(0.0, 0.08, atoms.positions.shape)
        every.append(atoms)
    every = copies(make.labelled(every))
    for atoms in every:
        atoms.calc.results["energy"] -= float(np.sum(np.where(atoms.numbers == 29, 30.0, 50.0)))
    return tuple(every)


def clean() -> tuple[Atoms, ...]:
    return crystals(N, 0)


def spoiled(**changes) -> list[Atoms]:
    """Structures with results changed by functions, keyed "s<number>"."""
    every = copies(clean())
    for name, change in changes.items():
        change(every[int(name[1:])].calc.results)
    return every


def in_hartree(results) -> None:
    results["energy"] /= HARTREE
    results["forces"] = results["forces"] * BOHR / HARTREE


def turned(results) -> None:
    results["forces"] = -results["forces"]


def kicked(results) -> None:
    results["forces"][2] += [0.0, 8.0, 0.0]


def raised(results) -> None:
    results["energy"] += 0.5 * len(results["forces"])


def model(**settings) -> kp.SparseGP:
    return potentials.model(60, noise="cv", **settings)


def test_clean_labels_stand():
    check = kp.check_labels(list(clean()), model())
    assert check.suspects == ()
    assert check.kept == tuple(range(N))
    assert "no label of 40 structures stands out" in str(check)
    assert np.isfinite(check.errors["energy"]).all()
    assert set(check.times) == {"energy", "forces"}


@pytest.mark.parametrize(
    ("change", "cause", "kind", "words"),
    [
        (in_hartree, "unit or sign", "energy", "as if in Hartree"),
        (turned, "unit or sign", "forces", "wrong sign"),
        (kicked, "single atom", "forces", "that on one is not"),
        (raised, "unknown", "energy", "nothing that is known"),
    ],
)
def test_what_is_wrong_is_found_and_explained(change, cause, kind, words):
    check = kp.check_labels(spoiled(s3=change, s17=change), model())
    assert check.structures == (3, 17)
    mine = [one for one in check.suspects if one.kind == kind]
    assert {one.structure for one in mine} == {3, 17}
    assert {one.cause for one in mine} == {cause}
    assert all(words in one.reason for one in mine)
    if change is kicked:
        assert {one.atom for one in mine} == {2}


def test_many_wrong_labels_hide_nothing():
    """One of ten in other units, which move every energy constant."""
    wrong = range(0, N, 10)
    check = kp.check_labels(spoiled(**{f"s{k}": in_hartree for k in wrong}), model())
    assert check.structures == tuple(wrong)


def test_a_constant_of_one_source_is_named():
    every = spoiled(**{f"s{k}": raised for k in (1, 5, 9, 30)})
    for k, atoms in enumerate(every):
        atoms.info["config_type"] = "old code" if k in (1, 5, 9, 30) else f"new code {k % 2}"
    check = kp.check_labels(every, model())
    assert check.structures == (1, 5, 9, 30)
    assert check.causes["source"] >= 4
    assert "energies of the group 'old code' are off by about +0.5" in check.suspects[0].reason


def test_two_labels_of_one_geometry_and_labels_of_another_structure():
    every = copies(clean())
    twin = copies(clean()[7:8])[0]
    twin.calc.results["energy"] += 0.6 * len(twin)
    check = kp.check_labels([*every, twin], model())
    assert N in check.structures or 7 in check.structures
    assert "labelled twice" in check.causes
    forces = [atoms.calc.results["forces"] for atoms in every]
    k, other = next(
        (i, j)
        for i in range(N)
        for j in range(N)
        if i != j and forces[i].shape == forces[j].shape and np.array_equal(every[i].numbers, every[j].numbers)
    )
    every[k].calc.results["forces"] = forces[other].copy()
    check = kp.check_labels(every, model())
    assert check.structures == (k,)
    assert check.suspects[0].reason == f"its labels look like those of structure {other} (from 0)"


def test_the_fit_says_it_and_leaves_out_or_weighs_down_what_it_is_told():
    every, test = spoiled(s3=in_hartree, s17=raised), list(crystals(12, 1))
    errors = {}
    for how, words in (("warn", "fitted all the same"), ("drop", "left out"), ("robust", "weighed down")):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fitted = model().fit(every, suspects=how)
        assert "labels of 2 of 40 structures do not fit the others" in str(said[0].message)
        assert words in str(said[0].message)
        # With energies in Hartree among its labels the fit is no good, and says so.
        assert [("hardly better than none" in str(one.message)) for one in said[1:]] == [True] * (how == "warn")
        assert fitted.suspects_.structures == (3, 17)
        errors[how] = kp.evaluate(fitted, test, uncertainty=False).overall["energy"].rmse
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fitted.calibrate()
    with pytest.warns(UserWarning, match="hardly better than none"):
        ignored = model().fit(every, suspects="ignore")
    assert ignored.suspects_ is None
    errors["clean"] = kp.evaluate(model().fit(list(clean())), test, uncertainty=False).overall["energy"].rmse
    assert errors["warn"] > 5 * errors["clean"]
    assert errors["drop"] < 1.5 * errors["clean"]
    assert errors["robust"] < 1.5 * errors["clean"]
    with pytest.raises(ParameterError, match="`suspects` must be one of warn, drop, robust, ignore, got 'no'"):
        model().fit(every, suspects="no")


def test_a_baseline_does_not_hide_a_unit():
    check = kp.check_labels(spoiled(s8=in_hartree), model(baseline=kp.ZBL()))
    assert check.structures == (8,)
    assert {one.cause for one in check.suspects} == {"unit or sign"}
    energy = next(one for one in check.suspects if one.kind == "energy")
    assert energy.label[0] == pytest.approx(clean()[8].get_potential_energy() / len(clean()[8]) / HARTREE)
    assert energy.predicted[0] == pytest.approx(clean()[8].get_potential_energy() / len(clean()[8]), abs=0.1)


def test_a_fitted_model_judges_labels_that_it_did_not_see():
    fitted = model().fit(list(clean()))
    some = copies(crystals(4, 2))
    turned(some[1].calc.results)
    check = kp.check_labels(some, fitted)
    assert check.structures == (1,)
    assert check.suspects[0].cause == "unit or sign"


def test_few_structures_are_not_judged():
    with pytest.raises(LabelError, match="needs at least 20 different structures"):
        kp.check_labels(list(clean()[:8]), model())
    assert model().fit(list(clean()[:8])).suspects_ is None


def test_a_fit_that_is_no_good_says_so():
    rng = np.random.default_rng(0)
    noise = copies(clean())
    for atoms in noise:
        atoms.calc.results["forces"] = rng.normal(size=atoms.positions.shape)
    with pytest.warns(UserWarning, match="forces: left-out RMSE .* hardly better than none"):
        fitted = model().fit(noise, suspects="ignore")
    assert "note                forces: left-out RMSE" in fitted.summary()
    scores = kp.evaluate(fitted, noise[:20])
    assert scores.warnings
    assert "forces of zero would give" in scores.warnings[0]
    assert "warning: forces: RMSE" in str(scores)


def test_the_summary_says_how_structures_are_described():
    text = potentials.copper_gold().summary()
    assert text.startswith("descriptor          SOAP, cutoff ")


def test_scores_stand_beside_those_without_a_model():
    fitted, test = potentials.copper_gold(), make.copper_gold_set(12, seed=3)
    scores = kp.evaluate(fitted, test)
    forces = np.concatenate([atoms.get_forces().ravel() for atoms in test])
    assert scores.overall["forces"].no_model_rmse == pytest.approx(np.sqrt(np.mean(forces**2)))
    shares = np.array([[np.mean(atoms.numbers == z) for z in (29, 79)] for atoms in test])
    energies = np.array([atoms.get_potential_energy() / len(atoms) for atoms in test])
    rest = energies - shares @ np.linalg.lstsq(shares, energies, rcond=None)[0]
    assert scores.overall["energy"].no_model_rmse == pytest.approx(np.sqrt(np.mean(rest**2)))
    worst = scores.worst["energy"]
    assert abs(worst["label"] - worst["predicted"]) == pytest.approx(scores.overall["energy"].worst)
    assert "3/3" in str(kp.evaluate(fitted, test[:3])) or "2/3" in str(kp.evaluate(fitted, test[:3]))


def test_the_command_names_them_and_writes_the_rest(tmp_path, capsys, monkeypatch):
    path, out, answer = tmp_path / "set.xyz", tmp_path / "good.xyz", tmp_path / "check.json"
    kp_write(path, spoiled(s3=in_hartree))
    assert main(["check", str(path), "--out", str(out), "--json", str(answer), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "labels of 1 of 40 structures do not fit the others" in text
    assert "set.xyz@3: energy" in text
    assert "it looks as if in Hartree" in text
    found = json.loads(answer.read_text())
    assert found["structures"] == [3]
    assert len(kp.read(out, verbose=False)) == N - 1
    small = ["--n-max", "3", "--l-max", "2", "--cutoff", "4", "--n-inducing", "40", "--quiet"]
    model_file, report = tmp_path / "m.kp", tmp_path / "fit.json"
    monkeypatch.setattr(warnings, "filters", [])
    assert main(["fit", str(path), "--out", str(model_file), "--drop-suspects", "--json", str(report), *small]) == 0
    assert json.loads(report.read_text())["suspects"]["done"] == "drop"
    said = capsys.readouterr()
    assert "set.xyz@3: energy" in said.out
    assert "their structures were left out" in said.err
    wrong = ["fit", str(path), "--out", str(model_file), "--drop-suspects", "--suspects", "robust", *small]
    assert main(wrong) == 2
    assert "give one or the other" in capsys.readouterr().err


def kp_write(path, structures) -> None:
    from ase.io import write

    write(path, structures, format="extxyz")
