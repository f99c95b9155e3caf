"""Scores against NumPy, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import norm

import kernelpot as kp
from kernelpot.data.labels import resolve
from kernelpot.errors import LabelError, NotFittedError, ParameterError
from kernelpot.judgement.scores import score
from kernelpot.potentials.prediction import Prediction, Spread
from tests import potentials
from tests import structures as make


def by_hand(error, std):
    error, std = np.concatenate(error), np.concatenate(std)
    told = np.isfinite(std)
    z = np.abs(error[told]) / std[told]
    return {
        "n": len(error),
        "mae": np.abs(error).mean(),
        "rmse": np.sqrt((error**2).mean()),
        "worst": np.abs(error).max(),
        "coverage_68": np.mean(z <= 1),
        "coverage_95": np.mean(z <= norm.ppf(0.975)),
        "log_score": norm.logpdf(error[told], scale=std[told]).mean(),
    }


def check(found, expected):
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6), name


@pytest.fixture(scope="module")
def labelled():
    """Structures with unlike sets of labels, in two groups and one without a name."""
    structures = [
        *make.copper_gold_set(3, seed=5),
        *make.labelled([make.slab(3)], ["energy", "forces"]),
        *make.copper_gold_set(2, seed=6, kinds=["energy"]),
        *make.labelled([make.isolated("Cu")], ["energy", "forces"]),
    ]
    for k, atoms in enumerate(structures[:6]):
        atoms.info["config_type"] = "alloy" if k < 3 else "other"
    return structures


def expected(model, structures, members):
    prediction = model.predict(structures)
    energy, forces, stress = ([], []), ([], []), ([], [])
    for s in members:
        atoms, results = structures[s], structures[s].calc.results
        n = len(atoms)
        if "energy" in results:
            energy[0].append([(prediction.energy[s] - results["energy"]) / n])
            energy[1].append([prediction.energy_std[s] / n])
        if "forces" in results:
            forces[0].append((prediction.forces[s] - results["forces"]).ravel())
            # The force on an isolated atom is zero by symmetry: it counts among the errors, not in coverage.
            forces[1].append(prediction.forces_std[s].ravel() if n > 1 else np.full(3, np.nan))
        if "stress" in results:
            stress[0].append(prediction.stress[s] - results["stress"])
            stress[1].append(prediction.stress_std[s])
    kinds = {"energy": energy, "forces": forces, "stress": stress}
    return {kind: by_hand(*lists) for kind, lists in kinds.items() if lists[0]}


def test_scores_are_those_of_numpy(labelled):
    model = potentials.copper_gold()
    scores = kp.evaluate(model, labelled)
    assert scores.n_structures == 7
    whole = expected(model, labelled, range(7))
    assert set(scores.overall) == set(whole) == {"energy", "forces", "stress"}
    for kind, numbers in whole.items():
        check(scores.overall[kind], numbers)
    assert set(scores.groups) == {"alloy", "other"}
    for group, members in (("alloy", range(3)), ("other", range(3, 6))):
        by_kind = expected(model, labelled, members)
        assert set(scores.groups[group]) == set(by_kind)
        for kind, numbers in by_kind.items():
            check(scores.groups[group][kind], numbers)


def test_without_uncertainty_only_errors_are_scored(labelled):
    full = kp.evaluate(potentials.copper_gold(), labelled)
    quick = kp.evaluate(potentials.copper_gold(), labelled, uncertainty=False)
    for kind, numbers in full.overall.items():
        assert quick.overall[kind].rmse == numbers.rmse
        nothing = quick.overall[kind]
        assert np.isnan([nothing.coverage_68, nothing.log_score, nothing.rank, nothing.ceiling]).all()
    assert json.loads(json.dumps(quick.as_dict()))["overall"]["energy"]["log_score"] is None


def test_scores_survive_json(labelled):
    scores = kp.evaluate(potentials.copper_gold(), labelled)
    text = json.dumps(scores.as_dict(), allow_nan=False)
    again = json.loads(text)
    assert again == scores.as_dict()
    assert again["n_structures"] == 7
    assert again["overall"]["forces"]["mae"] == scores.overall["forces"].mae
    assert set(again["groups"]["alloy"]) == {"energy", "forces", "stress"}


def test_table_shows_every_group_in_milli_units(labelled):
    scores = kp.evaluate(potentials.copper_gold(), labelled)
    text = str(scores)
    assert len(text.splitlines()) == 1 + (3 + 3 + 2) + 3 + 1 + len(scores.warnings) + 2  # head, rows, worst, words
    for part in ("MAE", "meV/atom", "meV/Å", "alloy", "other", f"{1e3 * scores.overall['energy'].mae:.2f}"):
        assert part in text


def test_a_rank_correlation_of_a_few_labels_is_a_dash(labelled):
    scores = kp.evaluate(potentials.copper_gold(), labelled[:2])
    energy, forces = scores.overall["energy"], scores.overall["forces"]
    assert abs(energy.rank) == pytest.approx(1.0)
    assert forces.n >= 10
    lines = {line.split()[1]: line.split() for line in str(scores).splitlines() if line.startswith("all")}
    assert lines["energy"][-2:] == ["-", "-"]
    assert lines["forces"][-2:] == [f"{forces.rank:.2f}", f"{forces.ceiling:.2f}"]


def test_the_structure_with_the_worst_error_is_named(labelled):
    model = potentials.copper_gold()
    scores = kp.evaluate(model, labelled)
    prediction = model.predict(labelled)
    with_forces = [s for s, atoms in enumerate(labelled) if "forces" in atoms.calc.results]
    largest = max(with_forces, key=lambda s: np.abs(prediction.forces[s] - labelled[s].calc.results["forces"]).max())
    assert scores.worst_at["forces"] == f"structure {largest} (from 0)"
    assert f"worst forces: structure {largest}" in str(scores)
    labelled[largest].info["kernelpot_source"] = "set.xyz@7"
    assert kp.evaluate(model, labelled).worst_at["forces"] == "set.xyz@7"
    del labelled[largest].info["kernelpot_source"]


def test_one_group_is_not_repeated():
    structures = make.copper_gold_set(2)
    for atoms in structures:
        atoms.info["config_type"] = "all the same"
    assert kp.evaluate(potentials.copper_gold(), structures).groups == {}


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(LabelError, match="evaluate needs labels, found none"):
        kp.evaluate(potentials.copper_gold(), [make.copper_gold(1)])
    with pytest.raises(NotFittedError):
        kp.evaluate(potentials.model(), make.copper_gold_set(1))


def test_a_model_of_a_property_is_no_potential():
    ridge = kp.KernelRidge("rbf")
    for use in (
        lambda: kp.evaluate(ridge, make.copper_gold_set(1)),
        lambda: kp.reliability(ridge, make.copper_gold_set(1)),
        lambda: kp.Calculator(ridge),
    ):
        with pytest.raises(
            ParameterError, match="must be a potential, such as SparseGP or ForceRidge, got a KernelRidge"
        ):
            use()


def test_keys_name_the_labels():
    atoms = make.copper_gold_set(1)[0]
    copy = atoms.copy()
    copy.info["mine"] = atoms.get_potential_energy()
    scores = kp.evaluate(potentials.copper_gold(), [copy], keys={"energy": "mine"})
    assert scores.overall["energy"].mae == kp.evaluate(potentials.copper_gold(), [atoms]).overall["energy"].mae
    assert set(scores.overall) == {"energy"}


def test_calibrated_gaussian_errors_are_covered():
    rng = np.random.default_rng(0)
    structures = make.copper_gold_set(1) * 400
    labels = resolve(structures)
    std = rng.uniform(0.1, 2.0, size=400)
    nothing = [np.zeros((4, 3))] * 400
    spread = Spread(4 * std, [np.ones((4, 3))] * 400, np.ones((400, 6)), [])
    energy = labels.energy + 4 * std * rng.normal(size=400)
    found = score(Prediction(energy, nothing, np.zeros((400, 6)), [], spread, spread), labels, [""] * 400)
    assert found.overall["energy"].coverage_68 == pytest.approx(0.683, abs=0.07)
    assert found.overall["energy"].coverage_95 == pytest.approx(0.95, abs=0.04)
    assert found.overall["energy"].log_score == pytest.approx(-0.5 * np.log(2 * np.pi * np.e * std**2).mean(), abs=0.1)
