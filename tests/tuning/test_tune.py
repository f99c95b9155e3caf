"""The whole search on small sets of EMT labels."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.data.labels import resolve
from kernelpot.errors import DataError, LabelError, NotFittedError, ParameterError
from kernelpot.potentials.terms import composition_groups, find_coupling
from kernelpot.tuning import scoring
from kernelpot.tuning.candidates import default_model
from kernelpot.tuning.scoring import HowToFit, Parts, Scorer, telling_kinds
from tests import potentials
from tests import structures as make

SPACE = {"cutoff": [3.6, 3.0], "zeta": [2, 3], "n_max": [4], "l_max": [2], "sigma": [0.6]}
SIZES = {"n_inducing": 20, "max_inducing": 40, "n_folds": 3, "keys": {"stress": None}}


@pytest.fixture(scope="module")
def train():
    """Twelve copper-gold crystals in three groups."""
    structures = make.copper_gold_set(12)
    for k, atoms in enumerate(structures):
        atoms.info["config_type"] = "abc"[k % 3]
    return structures


@pytest.fixture(scope="module")
def result(train):
    return kp.tune(train, max_fits=7, space=SPACE, **SIZES)


def same(trial):
    """Return what of a trial does not depend on the clock."""
    return trial.settings, trial.rung, trial.n_structures, trial.n_inducing, trial.rmse, trial.loss


def test_a_number_of_fits_is_repeatable(train, result):
    again = kp.tune(train, max_fits=7, space=SPACE, **SIZES)
    assert [same(t) for t in again.table] == [same(t) for t in result.table]
    assert again.best_settings == result.best_settings
    assert len(result.table) <= 7
    assert result.table[0].settings == {"cutoff": 3.6, "zeta": 2, "n_max": 4, "l_max": 2, "sigma": 0.6}
    assert result.default_trial is result.table[0]
    # A fit was kept for more inducing environments.
    assert [t.rung for t in result.table][-2:] == [2, 3]
    assert result.table[-1].n_inducing > result.table[-2].n_inducing


def test_best_is_unfitted_and_scores_what_the_table_says(train, result):
    model = result.best
    with pytest.raises(NotFittedError):
        model.predict(train)
    best = result.best_trial
    assert best.n_structures == len(train)
    assert best.loss == min(t.loss for t in result.table if t.rung >= 2)
    settings = result.best_settings
    plain = replace(model.descriptor, channels="auto", species=None)
    assert plain == kp.SOAP(cutoff=settings["cutoff"], n_max=4, l_max=2, sigma=0.6)
    # How elements are coupled was found once, for all candidates.
    assert model.descriptor.channels == result.coupling[0].setting.channels((29, 79), 2).for_species((29, 79))
    assert replace(model.kernel, centres=None) == kp.DotProduct(settings["zeta"])
    parts = Parts.of(train, kp.SOAP(n_max=4, l_max=3), n_folds=3, seed=0)
    model.fit(train, keys={"stress": None}, folds=parts.folds(np.arange(12), 3, seed=0).tolist())
    assert model.cross_validation_ == pytest.approx(best.rmse, rel=1e-9)
    assert best.loss == pytest.approx(sum(np.log(v) for v in best.rmse.values()))


def test_the_table_can_be_kept(result, tmp_path):
    result.to_csv(tmp_path / "trials.csv")
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert len(rows) == len(result.table)
    for row, trial in zip(rows, result.table, strict=True):
        assert float(row["cutoff"]) == trial.settings["cutoff"]
        assert float(row["rmse_forces_eV_per_A"]) == trial.rmse["forces"]
        assert float(row["loss"]) == trial.loss
        assert int(row["n_inducing"]) == trial.n_inducing
        assert float(row["prediction_us_per_atom"]) > 0
    content = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert content["best_settings"] == result.best_settings
    assert len(content["table"]) == len(rows)
    text = str(result).splitlines()
    assert text[0].split()[:4] == ["rung", "structures", "M", "cutoff"]
    assert f"best: cutoff {result.best_settings['cutoff']:g}" in str(result)
    assert len([line for line in text if line.lstrip()[0].isdigit()]) == len(rows)


def test_an_interrupted_search_goes_on_to_the_same_table(train, result, tmp_path, monkeypatch):
    path, calls = tmp_path / "trials.jsonl", []
    plain = Scorer.__call__

    def stops(self, settings, rung):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(rung)
        return plain(self, settings, rung)

    monkeypatch.setattr(Scorer, "__call__", stops)
    part = kp.tune(train, max_fits=7, space=SPACE, resume=path, **SIZES)
    assert part.interrupted
    assert len(part.table) == 3
    assert [same(t) for t in part.table] == [same(t) for t in result.table[:3]]
    assert part.best.n_inducing == part.best_trial.n_inducing
    assert "interrupted" in str(part)
    calls.clear()
    monkeypatch.setattr(Scorer, "__call__", lambda self, s, r: calls.append(r) or plain(self, s, r))
    whole = kp.tune(train, max_fits=7, space=SPACE, resume=path, **SIZES)
    assert [same(t) for t in whole.table] == [same(t) for t in result.table]
    assert len(calls) == len(result.table) - 3
    with pytest.raises(ParameterError, match="differs in data"):
        kp.tune(train[:-1], max_fits=7, space=SPACE, resume=path, **SIZES)
    with pytest.raises(ParameterError, match="differs in objective"):
        kp.tune(train, max_fits=7, space=SPACE, resume=path, objective="groups", **SIZES)


def test_time_is_respected(train, monkeypatch):
    # A clock that moves by a fifth of a second at each look: a fit with its prediction, looked at six times, takes one.
    clock = iter(range(10**6))
    monkeypatch.setattr(scoring.time, "perf_counter", lambda: next(clock) / 5.0)
    found = kp.tune(train, budget_minutes=4.5 / 60, space=SPACE, **SIZES)
    assert 1 <= found.seconds <= 4.5
    assert found.seconds == pytest.approx(len(found.table))
    assert any("not tried" in note for note in found.notes)


def test_groups_are_left_out_whole(train):
    """Refit without each group, at the noises and amplitude that were found: the same left-out errors."""
    parts = Parts.of(train, kp.SOAP(n_max=4, l_max=3), n_folds=3, seed=0)
    keys = {"stress": None}
    build = lambda settings: default_model(settings)  # noqa: E731
    scorer = Scorer(train, parts, ("energy", "forces"), build, HowToFit(keys, 0, "groups", 20, 20, 3))
    members, fold = scorer.rungs[-1]
    groups = [atoms.info["config_type"] for atoms in train]
    assert [groups[k] for k in members] == ["abc"[f] for f in fold]
    settings = {"cutoff": 3.6, "zeta": 2, "n_max": 4, "l_max": 2, "sigma": 0.6}
    trial = scorer(settings, 2)

    whole = default_model({**settings, "n_inducing": 20}).fit(train, keys=keys, folds=groups)
    assert whole.cross_validation_ == pytest.approx(trial.rmse, rel=1e-9)
    (term,) = whole.terms_
    given = kp.SparseGP(term.with_amplitude(whole.amplitude_), n_inducing=20, noise=whole.noise_).prepare(train)
    squared, counts = {"energy": 0.0, "forces": 0.0}, {"energy": 0, "forces": 0}
    for group in "abc":
        kept = [atoms for atoms, name in zip(train, groups, strict=True) if name != group]
        left = [atoms for atoms, name in zip(train, groups, strict=True) if name == group]
        prediction, labels = given.fit(kept, keys=keys).predict(left, uncertainty=False), resolve(left)
        error = (prediction.energy - labels.energy) / labels.n_atoms
        squared["energy"] += np.sum(error**2)
        counts["energy"] += len(left)
        for mine, theirs in zip(prediction.forces, labels.forces, strict=True):
            squared["forces"] += np.sum((mine - theirs) ** 2)
            counts["forces"] += mine.size
    for kind, value in trial.rmse.items():
        assert np.sqrt(squared[kind] / counts[kind]) == pytest.approx(value, rel=1e-3)
    folds = default_model({**settings, "n_inducing": 20}).fit(train, keys=keys)
    assert folds.cross_validation_["forces"] != pytest.approx(trial.rmse["forces"], rel=1e-3)


def test_groups_objective_runs_and_needs_groups(train):
    found = kp.tune(train, max_fits=3, space=SPACE, objective="groups", **SIZES)
    assert found.objective == "groups"
    assert "left-out groups" in str(found)
    with pytest.raises(ParameterError, match=r"at least two groups"):
        kp.tune(make.copper_gold_set(6), max_fits=3, space=SPACE, objective="groups", **SIZES)


def test_settings_that_fail_are_listed_and_not_chosen(train):
    found = kp.tune(train, max_fits=8, space={**SPACE, "cutoff": [3.6, 0.001]}, **SIZES)
    failed = [t for t in found.table if t.failure]
    assert failed
    assert all("`cutoff` must lie" in t.failure for t in failed)
    assert found.best_settings["cutoff"] == 3.6
    assert "failed" in str(found)
    with pytest.raises(ParameterError, match=r"no settings that could be fitted; the first said: `cutoff` must lie"):
        kp.tune(train, max_fits=2, space={**SPACE, "cutoff": [0.001]}, **SIZES)


def test_other_models_can_be_searched(train):
    def build(settings):
        return potentials.model(settings["n_inducing"], noise="cv", tolerance=settings["tolerance"])

    found = kp.tune(train, max_fits=3, space={"tolerance": [1e-10, 1e-4]}, build=build, **SIZES)
    assert found.best.tolerance in (1e-10, 1e-4)


def test_symmetry_functions_can_be_searched_and_gone_on_with(train, tmp_path, monkeypatch):
    space = {
        "descriptor": ["acsf"], "cutoff": [3.6, 3.2], "n_radial": [4, 6], "n_angular": [1], "gaussian": [1.0, 2.0],
    }  # fmt: skip
    path = tmp_path / "trials.jsonl"
    found = kp.tune(train, max_fits=7, space=space, resume=path, **SIZES)
    assert not any(trial.failure for trial in found.table)
    assert {trial.settings["descriptor"] for trial in found.table} == {"acsf"}
    best = found.best_settings
    assert found.best.descriptor == kp.ACSF.spaced(best["cutoff"], n_radial=best["n_radial"], n_angular=1)
    assert found.best.kernel == kp.Gaussian(best["gaussian"])
    assert f"best: descriptor acsf, cutoff {best['cutoff']:g}, n_radial {best['n_radial']}" in str(found)
    found.to_csv(tmp_path / "trials.csv")
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [float(row["gaussian"]) for row in rows] == [t.settings["gaussian"] for t in found.table]
    monkeypatch.setattr(Scorer, "__call__", lambda *_: pytest.fail("a finished trial was made again"))
    again = kp.tune(train, max_fits=7, space=space, resume=path, **SIZES)
    assert [same(t) for t in again.table] == [same(t) for t in found.table]


def test_descriptors_compete_in_one_space(train):
    kinds = [("soap", 2, None), ("acsf", None, 1.0)]
    space = {("descriptor", "zeta", "gaussian"): kinds, "cutoff": [3.6]}
    found = kp.tune(train, max_fits=4, space=space, **SIZES)
    assert {trial.settings["descriptor"] for trial in found.table} == {"soap", "acsf"}
    assert not any(trial.failure for trial in found.table)
    best = found.best_settings["descriptor"]
    assert isinstance(found.best.descriptor, {"soap": kp.SOAP, "acsf": kp.ACSF}[best])


def test_models_may_learn_the_difference_from_a_baseline(train):
    plain = kp.tune(train, max_fits=1, space=SPACE, **SIZES)
    found = kp.tune(train, max_fits=1, space=SPACE, baseline=kp.ZBL(), **SIZES)
    assert found.best.baseline == kp.ZBL()
    assert found.best_trial.loss != plain.best_trial.loss
    with pytest.raises(ParameterError, match="let `build` give its models one"):
        kp.tune(train, max_fits=1, build=default_model, baseline=kp.ZBL(), **SIZES)


def test_forces_that_vanish_by_symmetry_do_not_score():
    from ase.build import bulk

    crystals = make.labelled([bulk("Cu", "fcc", a=a, cubic=True) for a in np.linspace(3.4, 3.9, 8)])
    assert telling_kinds(resolve(crystals)) == ("energy", "stress")
    assert telling_kinds(resolve(make.copper_gold_set(2))) == ("energy", "forces", "stress")
    found = kp.tune(crystals, max_fits=3, space=SPACE, n_inducing=20, max_inducing=20, n_folds=3)
    assert found.kinds == ("energy", "stress")
    assert found.best_trial.loss == pytest.approx(sum(np.log(found.best_trial.rmse[k]) for k in found.kinds))


def test_no_budget_is_blamed_where_every_environment_is_inducing(train):
    atoms = sum(map(len, train))
    found = kp.tune(train, max_fits=3, space=SPACE, **(SIZES | {"n_inducing": atoms, "max_inducing": 4 * atoms}))
    assert found.best_trial.n_inducing <= atoms
    assert not any("inducing" in note for note in found.notes)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"budget_minutes": 0}, ParameterError, "`budget_minutes` must be a positive number"),
        ({"budget_minutes": float("nan")}, ParameterError, "`budget_minutes` must be a positive number"),
        ({"max_fits": 0}, ParameterError, "`max_fits` must be a whole number, at least 1"),
        ({"max_fits": 2.5}, ParameterError, "`max_fits` must be a whole number, at least 1"),
        ({"folds": [0] * 12}, ParameterError, "`folds` must name at least two different folds"),
        ({"folds": [0, 1]}, ParameterError, "`folds` must name one fold for each of 12 structures"),
        ({"order": "none"}, ParameterError, "`order` must be one of even, descent"),
        ({"objective": "loo"}, ParameterError, "`objective` must be one of cv, groups, both, got 'loo'"),
        ({"n_folds": 1}, ParameterError, "`n_folds` must be a whole number, at least 2"),
        ({"n_inducing": 50}, ParameterError, "`max_inducing` must be at least `n_inducing`, 50, got 40"),
        ({"seed": -1}, ParameterError, "`seed` must be a whole number, at least 0"),
        ({"space": {"depth": [1]}}, ParameterError, "settings among cutoff"),
        ({"keys": {"energy": "absent", "forces": "absent"}}, LabelError, "absent"),
    ],
)
def test_bad_arguments_are_refused(train, given, error, message):
    with pytest.raises(error, match=message):
        kp.tune(train, **{**SIZES, "max_fits": 2, "space": SPACE, **given})


def test_bad_structures_are_refused(train, tmp_path):
    with pytest.raises(ParameterError, match="write \\[atoms\\]"):
        kp.tune(train[0])
    with pytest.raises(LabelError, match="needs energies or forces"):
        kp.tune([make.copper(1), make.copper(2)])
    with pytest.raises(ParameterError, match="at least two different structures"):
        kp.tune([train[0], train[0]], space=SPACE, **SIZES)
    (tmp_path / "bad.jsonl").write_text("nonsense")
    with pytest.raises(DataError, match="a file that tune wrote"):
        kp.tune(train, space=SPACE, resume=tmp_path / "bad.jsonl", **SIZES)


def test_folds_of_a_fit_are_checked(train):
    model = potentials.model(10)
    with pytest.raises(ParameterError, match="one fold for each of 12 structures"):
        model.fit(train, folds=[0, 1])
    with pytest.raises(ParameterError, match="at least two different folds"):
        model.fit(train, folds=["a"] * 12)


def test_an_option_that_there_is_not_is_refused_at_once(train):
    with pytest.raises(TypeError, match=r"tune\(\) got an unexpected keyword argument 'fold'"):
        kp.tune(train, max_fits=1, fold=3)


COUPLED = {"cutoff": [3.6, 3.0], "two_body": [None, 5.0], "n_max": [4], "l_max": [2], "sigma": [0.6]}


@pytest.fixture(scope="module")
def alloys():
    """Copper-gold crystals of several compositions."""
    found = []
    for k in range(16):
        atoms = make.copper_gold(k)
        atoms.numbers[:] = 29
        atoms.numbers[: 1 + k % 4] = 79
        found.append(atoms)
    return make.labelled(found, ("energy", "forces"))


def test_a_potential_is_fitted_calibrated_and_says_what_it_is(alloys, tmp_path, monkeypatch):
    found = []
    plain = find_coupling
    monkeypatch.setattr("kernelpot.tuning.search.find_coupling", lambda *a, **k: found.append(1) or plain(*a, **k))
    model = kp.potential(alloys, max_fits=8, space=COUPLED, n_inducing=20, max_inducing=20, n_folds=3)
    # How elements are coupled was asked once, and is the model's.
    assert len(found) == 1
    assert all(not term.finds_coupling for term in model.terms)
    assert model.fitted_.calibration.shape
    text = model.summary()
    lines = [line for line in text.splitlines() if line.startswith(("settings", "  not taken", "search", "coupling"))]
    assert lines[0].startswith("settings            cutoff 3")
    assert "left-out frames" in lines[0]
    assert "compositions" in lines[0]
    assert any(line.startswith("  not taken") for line in lines)
    assert lines[-1].startswith("search              ")
    model.save(tmp_path / "model.kp")
    assert kp.load(tmp_path / "model.kp").summary() == text
    again = kp.potential(alloys, max_fits=8, space=COUPLED, n_inducing=20, max_inducing=20, n_folds=3)
    np.testing.assert_array_equal(again.predict(alloys[:2]).energy, model.predict(alloys[:2]).energy)


def scored_folds(structures):
    """Return the folds that a search with three of them scores by."""
    parts = Parts.of(structures, kp.SOAP(n_max=4, l_max=3), n_folds=3, seed=0)
    return parts.folds(np.arange(len(structures)), 3, seed=0).tolist()


def test_both_is_the_mean_of_frames_and_of_compositions(alloys):
    def build(settings):
        soap = kp.SOAP(cutoff=3.6, n_max=4, l_max=2, sigma=0.6, channels=None)
        return kp.SparseGP(soap, n_inducing=settings["n_inducing"], noise="cv")

    options = {"space": {"cutoff": [3.6]}, "build": build, "n_inducing": 20, "max_inducing": 20, "n_folds": 3}
    both, frames = (kp.tune(alloys, max_fits=3, objective=o, **options).best_trial for o in ("both", "cv"))
    assert both.rmse == pytest.approx(frames.rmse, rel=1e-6)
    assert set(both.beyond) == {"energy", "forces"}
    total = sum(np.log(v) for one in (both.rmse, both.beyond) for v in one.values())
    assert both.loss == pytest.approx(total / 2)
    # A composition that is left out is harder than a frame of one that is there.
    assert both.beyond["energy"] > both.rmse["energy"]
    # Refit without each, at the same noises and with the environments of all: the same left-out errors.
    names, errors = composition_groups(alloys, (29, 79)), []
    whole = build({"n_inducing": 20}).fit(alloys, folds=scored_folds(alloys))
    term = whole.terms_[0].with_amplitude(whole.amplitude_)
    given = kp.SparseGP(term, n_inducing=20, noise=whole.noise_).prepare(alloys)
    for name in np.unique(names):
        kept = [atoms for atoms, mine in zip(alloys, names, strict=True) if mine != name]
        left = [atoms for atoms, mine in zip(alloys, names, strict=True) if mine == name]
        prediction, labels = given.fit(kept).predict(left, uncertainty=False), resolve(left)
        errors.extend((prediction.energy - labels.energy) / labels.n_atoms)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(both.beyond["energy"], rel=2e-2)


def test_frames_alone_count_where_compositions_do_not_differ():
    crystals = make.silicon_set(12)
    space = {"cutoff": [3.6], "n_max": [4], "l_max": [2], "sigma": [0.6]}
    found = kp.tune(crystals, max_fits=3, space=space, objective="both", **SIZES)
    assert all(not trial.beyond for trial in found.table)
    assert found.coupling == ()


def test_given_folds_are_those_of_the_fit(train):
    groups = [k % 2 for k in range(12)]
    found = kp.tune(train, max_fits=3, space={**SPACE, "cutoff": [3.6], "zeta": [2]}, folds=groups, **SIZES)
    model = found.best.fit(train, keys=SIZES["keys"], folds=groups)
    assert model.cross_validation_ == pytest.approx(found.best_trial.rmse, rel=1e-6)


def test_a_baseline_that_is_none_is_refused(train):
    with pytest.raises(ParameterError, match='`baseline` must be "auto", None or a baseline'):
        kp.potential(train, baseline="zbl", max_fits=1)
