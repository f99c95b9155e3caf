"""``kernelpot fit --tune``, run as a user would."""

from __future__ import annotations

import csv
import json

import pytest
from ase.io import write

import kernelpot as kp
from kernelpot.cli import main
from kernelpot.tuning.scoring import Scorer
from tests import structures as make

FIXED = ["--n-max", "4", "--l-max", "3", "--sigma", "0.6", "--n-inducing", "20", "--keys", "stress=none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A training set of EMT labels."""
    folder = tmp_path_factory.mktemp("tuned")
    write(folder / "train.xyz", make.copper_gold_set(10))
    return folder


def fit(folder, *args):
    """Fit `train.xyz` of a folder."""
    return main(["fit", str(folder / "train.xyz"), "--out", str(folder / "model.kp"), *FIXED, *map(str, args)])


def test_tuned_settings_are_those_of_the_model(folder, capsys):
    table, out = folder / "trials.csv", folder / "fit.json"
    assert fit(folder, "--tune-fits", 8, "--tune-table", table, "--json", out) == 0
    printed = capsys.readouterr()
    content = json.loads(out.read_text())
    best = content["tuning"]["best_settings"]
    model = kp.load(folder / "model.kp")
    assert model.descriptor.cutoff == best["cutoff"] == content["settings"]["cutoff"]
    assert model.kernel.zeta == best["zeta"] == content["settings"]["zeta"]
    # What was given stays as given.
    trials = content["tuning"]["table"]
    assert {tuple(t["settings"][name] for name in ("n_max", "l_max", "sigma")) for t in trials} == {(4, 3, 0.6)}
    assert model.n_inducing == best["n_inducing"] <= 20
    assert len(list(csv.DictReader(table.read_text().splitlines()))) == len(trials)
    assert "best: two_body" in printed.out
    assert "tune: rung 0, two_body" in printed.err
    assert not list(folder.glob(".kernelpot-*"))


def tuned(folder, *args):
    """Fit with a search of few small settings, and return the model with what was written as JSON."""
    small = ["--n-inducing", "20", "--keys", "stress=none", "--quiet", "--json", folder / "tuned.json"]
    args = ["fit", folder / "train.xyz", "--out", folder / "tuned.kp", *small, *args]
    assert main(list(map(str, args))) == 0
    return kp.load(folder / "tuned.kp"), json.loads((folder / "tuned.json").read_text())


def many_body(model):
    return next(term for term in model.terms if not isinstance(term.descriptor, kp.TwoBody))


def test_a_budget_gives_a_calibrated_potential_that_says_what_was_picked(folder, capsys):
    args = ["--budget", "0.05", "--cutoff", "4", "--json", folder / "budget.json"]
    assert fit(folder, *args) == 0
    model = kp.load(folder / "model.kp")
    assert model.fitted_.calibration.shape
    assert "\nsettings            " in model.summary()
    assert model.summary() in capsys.readouterr().out
    content = json.loads((folder / "budget.json").read_text())["tuning"]
    assert content["table"][0]["settings"]["cutoff"] == 4.0
    assert {"coupling", "default", "best"} <= set(content)


def test_a_pool_may_hold_elements_that_training_does_not(folder):
    silver = make.copper_gold(3)
    silver.numbers[0] = 47
    write(folder / "pool.xyz", silver)
    assert fit(folder, "--tune-fits", 3, "--cutoff", "4", "--pool", folder / "pool.xyz", "--quiet") == 0
    assert kp.load(folder / "model.kp").species_ == (29, 47, 79)


def test_symmetry_functions_are_searched_and_fitted(folder):
    given = ["--descriptor", "acsf", "--n-max", "4"]
    model, content = tuned(folder, *given, "--tune-fits", 8)
    trials, best = content["tuning"]["table"], content["tuning"]["best_settings"]
    assert {t["settings"]["descriptor"] for t in trials} == {"acsf"}
    assert {t["settings"]["n_radial"] for t in trials} == {4}
    assert len({json.dumps(t["settings"]) for t in trials}) > 1
    term = many_body(model)
    wanted = kp.ACSF.spaced(best["cutoff"], n_radial=4, n_angular=best["n_angular"])
    assert term.descriptor == wanted
    assert term.kernel.length == best["gaussian"]
    assert (len(model.terms) == 2) == (best["two_body"] is not None)
    settings = content["settings"]
    assert {k: settings[k] for k in ("descriptor", "cutoff", "n_max", "n_angular", "gaussian")} == {
        "descriptor": "acsf", "cutoff": best["cutoff"], "n_max": 4, "n_angular": best["n_angular"],
        "gaussian": best["gaussian"],
    }  # fmt: skip


def test_what_is_given_of_symmetry_functions_is_held_fast(folder):
    given = ["--descriptor", "acsf", "--cutoff", "4", "--n-max", "4", "--n-angular", "1"]
    _, content = tuned(folder, *given, "--gaussian", "1.25", "--tune-fits", 6)
    trials = [t["settings"] for t in content["tuning"]["table"]]
    assert {(s["cutoff"], s["n_radial"], s["n_angular"], s["gaussian"]) for s in trials} == {(4.0, 4, 1, 1.25)}
    assert {s["two_body"] for s in trials} == {None, 5.0}
    model, content = tuned(folder, *given, "--zeta", "3", "--tune-fits", 3)
    assert not any("gaussian" in t["settings"] for t in content["tuning"]["table"])
    assert many_body(model).kernel.zeta == 3
    assert content["settings"]["zeta"] == 3


def test_a_gaussian_takes_the_place_of_powers_for_soap(folder):
    small = ["--n-max", "4", "--l-max", "2", "--sigma", "0.6"]
    model, content = tuned(folder, *small, "--gaussian", "0.5", "--tune-fits", 4)
    trials = [t["settings"] for t in content["tuning"]["table"]]
    assert {s["gaussian"] for s in trials} == {0.5}
    assert not any("zeta" in s for s in trials)
    assert isinstance(many_body(model).descriptor, kp.SOAP)
    assert many_body(model).kernel.length == 0.5
    assert content["settings"]["gaussian"] == 0.5


def test_the_same_fits_give_the_same_settings(folder, capsys):
    tables = []
    for name in ("one.json", "two.json"):
        assert fit(folder, "--tune-fits", 4, "--json", folder / name, "--quiet") == 0
        trials = json.loads((folder / name).read_text())["tuning"]["table"]
        tables.append([(t["settings"], t["rung"], t["loss"]) for t in trials])
    assert tables[0] == tables[1]
    assert "tune:" not in capsys.readouterr().err


def test_a_few_seconds_are_enough(folder):
    assert (
        fit(folder, "--tune", "0.02", "--zbl", "--quiet", "--cutoff", "4", "--zeta", "2", "--json", folder / "t.json")
        == 0
    )
    content = json.loads((folder / "t.json").read_text())
    assert {t["settings"]["cutoff"] for t in content["tuning"]["table"]} == {4.0}
    assert kp.load(folder / "model.kp").baseline == kp.ZBL()


def test_an_interrupted_search_keeps_its_table_and_goes_on(folder, monkeypatch, capsys):
    plain, made = Scorer.__call__, []

    def stops(self, settings, rung):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(rung)
        return plain(self, settings, rung)

    table, kept = folder / "part.csv", folder / "trials.jsonl"
    args = ["--tune-fits", 4, "--tune-table", table, "--tune-resume", kept, "--quiet"]
    model = folder / "model.kp"
    model.unlink(missing_ok=True)
    monkeypatch.setattr(Scorer, "__call__", stops)
    assert fit(folder, *args) == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(table.read_text().splitlines()) == 3
    assert not model.exists()
    monkeypatch.setattr(Scorer, "__call__", lambda self, s, r: made.append(r) or plain(self, s, r))
    assert fit(folder, *args) == 0
    assert len(table.read_text().splitlines()) == 1 + len(made)
    assert model.exists()


def test_the_cutoff_comes_from_the_data_where_none_is_given(folder, capsys):
    assert fit(folder, "--noise", "0.002,0.1") == 0
    train = kp.read(folder / "train.xyz", verbose=False)
    assert kp.load(folder / "model.kp").descriptor.cutoff == kp.potentials.default_cutoff(train)
    assert f"cutoff {kp.potentials.default_cutoff(train):g} Å, from the distances" in capsys.readouterr().err
    assert fit(folder, "--noise", "0.002,0.1", "--cutoff", "4.2", "--quiet") == 0
    assert kp.load(folder / "model.kp").descriptor.cutoff == 4.2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tune-table", "t.csv"], "`--tune-table` needs a search: add --budget MINUTES or --tune-fits N"),
        (["--tune-groups"], "`--tune-groups` needs a search"),
        (["--tune-resume", "t.jsonl"], "`--tune-resume` needs a search"),
        (["--tune-fits", "2", "--tune-table", "absent/t.csv"], "`--tune-table` must be in a directory that exists"),
        (["--tune-fits", "2", "--tune-groups"], "at least two groups"),
        (["--tune-fits", "2", "--noise", "evidence"], "leave --noise out"),
        (["--tune", "1", "--noise-energy", "0.1"], "leave --noise out"),
        (["--budget", "1", "--tune", "1"], "`--tune` is the former name of `--budget`"),
        (["--budget", "1", "--noise", "evidence"], "leave --noise out"),
        (["--tune", "1", "--descriptor", "acsf"], "`--l-max` belongs to SOAP; leave it out"),
        (["--tune", "1", "--n-angular", "3"], "`--n-angular` belongs to acsf"),
        (["--tune", "1", "--gaussian", "1", "--zeta", "2"], "`--zeta` is the power of the kernel that --gaussian"),
    ],
)
def test_bad_options_are_one_line(folder, args, message, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert fit(folder, "--quiet", *args) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize("value", ["-3", "soon", "0"])
def test_bad_minutes_are_refused(folder, value, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(folder, "--tune", value)
    assert stop.value.code == 2
    assert "--tune" in capsys.readouterr().err
