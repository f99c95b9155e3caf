"""Calibration of a model by folds and by held-out structures, against refits."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from ase.io import write
from ase.neighborlist import neighbor_list

import kernelpot as kp
from kernelpot.data.labels import resolve
from kernelpot.errors import LabelError, NotFittedError, ParameterError
from kernelpot.linalg.subsets import folds
from kernelpot.potentials.prediction import residuals_of
from kernelpot.potentials.resampling import predict_left_out
from kernelpot.potentials.training import TrainingSet
from tests import potentials
from tests import structures as make


@cache
def training():
    return [*make.copper_gold_set(12), *make.labelled([make.slab(1)], ["energy", "forces"])]


@cache
def fitted():
    """Inducing environments are fixed beforehand, so that refits have the same."""
    return potentials.model(20).prepare(training()).fit(training())


@cache
def calibrated():
    return fitted().calibrate(folds=4)


ZBL = kp.ZBL(pairs={("Cu", "Cu"): (1.0, 3.0), ("Cu", "Au"): (1.0, 3.2), ("Au", "Au"): (1.0, 3.4)})
"""A baseline that reaches ordinary structures."""


@pytest.mark.parametrize(("n_folds", "baseline"), [(2, ZBL), (5, None)])
def test_left_out_predictions_are_those_of_refits_without_the_fold(n_folds, baseline):
    train = training()
    labels = resolve(train)
    fold = folds(np.arange(len(train)), n_folds, seed=1)
    # On every structure some environments, so that each fold takes some with it.
    places = [(s, i) for s in range(len(train)) for i in range(0, len(train[s]), 2)]
    spec = potentials.model(20, baseline=baseline)
    state = spec.prepare(train, environments=places).fit(train).fitted_
    found = predict_left_out(state, TrainingSet(tuple(train), labels), fold)
    for f in range(n_folds):
        members = np.flatnonzero(fold == f)
        kept = [place for place in places if fold[place[0]] != f]
        refit = spec.prepare(train, environments=kept).fit([train[k] for k in np.flatnonzero(fold != f)])
        exact = refit.predict([train[k] for k in members])
        for j, k in enumerate(members):
            assert found.energy[k] == pytest.approx(exact.energy[j], abs=1e-7)
            assert found.forces[k] == pytest.approx(exact.forces[j], abs=1e-7)
            assert found.stress[k] == pytest.approx(exact.stress[j], abs=1e-8, nan_ok=True)
            assert found.latent.energy_std[k] == pytest.approx(exact.latent.energy_std[j], rel=1e-5)
            assert found.latent.forces_std[k] == pytest.approx(exact.latent.forces_std[j], rel=1e-4, abs=1e-6)
            assert found.around[k].scarcity == pytest.approx(exact.around[j].scarcity, rel=1e-5)
            assert found.around[k].strangeness == pytest.approx(exact.around[j].strangeness, rel=1e-5)


def test_predictions_stay_and_only_their_spread_changes():
    test = make.copper_gold_set(3, seed=9)
    before, after = fitted().predict(test), calibrated().predict(test)
    assert after.energy == pytest.approx(before.energy, abs=0)
    assert np.array_equal(after.latent.energy_std, before.latent.energy_std)
    assert not np.allclose(after.energy_std, before.energy_std)
    assert fitted().calibration_ != calibrated().calibration_  # a new model; the first is as it was


def test_intervals_hold_the_left_out_labels_they_were_made_from():
    prediction, train = calibrated().left_out(folds=4)
    for kind, r in residuals_of(prediction, train.labels).items():
        z = np.abs(r.error[~r.silent]) / r.std[~r.silent]
        shape = prediction.shape[kind]
        # Beyond the level itself by the one structure more, and by the step of a quantile of few labels.
        for level in (0.5, 0.6827):
            assert level <= np.mean(z <= shape.quantile(level) * (1 + 1e-9)) <= level * 14 / 13 + 1.5 / len(z) + 1e-9


def test_intervals_lie_about_the_prediction_in_its_own_form():
    test = [make.copper_gold(50), make.slab(2)]
    prediction = calibrated().predict(test)
    lower, upper = prediction.interval("forces", 0.95)
    q = prediction.shape["forces"].quantile(0.95)
    for low, high, force, std in zip(lower, upper, prediction.forces, prediction.forces_std, strict=True):
        assert low.shape == force.shape
        assert 0.5 * (low + high) == pytest.approx(force)
        assert high - low == pytest.approx(2 * q * std)
    low, high = prediction.interval("energy", 0.6827)
    assert high - low == pytest.approx(2 * prediction.energy_std, rel=1e-3)
    low, high = prediction.interval("stress")
    assert low.shape == (2, 6)
    plain = fitted().predict(test)
    low, high = plain.interval("energy", 0.95)
    assert high - low == pytest.approx(2 * 1.959964 * plain.energy_std)


def test_held_out_structures_calibrate_too():
    held_out = make.copper_gold_set(30, seed=4)
    model = fitted().calibrate(held_out)
    found = kp.reliability(model, held_out)
    for kind in ("energy", "forces", "stress"):
        assert found.overall[kind].coverage_68.value == pytest.approx(0.6827 * 31 / 30, abs=0.03)
    again = fitted().calibrate(held_out, method="floor")
    assert again.predict(held_out[:1]).shape["forces"].quantiles == ()


def test_a_factor_too_many_is_found():
    """Labels that are twice as far off are given twice the standard deviation."""
    held_out = make.copper_gold_set(20, seed=4)
    once, twice = [], []
    prediction = fitted().predict(held_out)
    for s, atoms in enumerate(held_out):
        for scale, into in ((1.0, once), (2.0, twice)):
            copy = atoms.copy()
            copy.info["e"] = prediction.energy[s] + scale * (atoms.get_potential_energy() - prediction.energy[s])
            copy.arrays["f"] = prediction.forces[s] + scale * (atoms.get_forces() - prediction.forces[s])
            into.append(copy)
    keys = {"energy": "e", "forces": "f", "stress": None}
    a, b = (fitted().calibrate(x, keys=keys).predict(held_out[:4]) for x in (once, twice))
    assert b.energy_std == pytest.approx(2 * a.energy_std, rel=1e-2)
    assert np.concatenate(b.forces_std) == pytest.approx(2 * np.concatenate(a.forces_std), rel=2e-2)


def test_save_and_condition_keep_the_calibration(tmp_path):
    test = make.copper_gold_set(2, seed=9)
    path = tmp_path / "model.kp"
    calibrated().save(path)
    loaded = kp.load(path)
    assert loaded.fitted_.calibration == calibrated().fitted_.calibration
    assert np.array_equal(loaded.predict(test).energy_std, calibrated().predict(test).energy_std)
    assert loaded.predict(test).interval("energy", 0.9)[0] == pytest.approx(
        calibrated().predict(test).interval("energy", 0.9)[0], abs=0
    )
    more = calibrated().condition(make.copper_gold_set(2, seed=8))
    assert more.fitted_.calibration == calibrated().fitted_.calibration
    with pytest.raises(NotFittedError, match="give them as training="):
        more.calibrate()
    again = more.calibrate(training=[*training(), *make.copper_gold_set(2, seed=8)], folds=4)
    assert again.fitted_.calibration != more.fitted_.calibration


def test_a_loaded_model_calibrates_with_its_training_structures(tmp_path):
    path = tmp_path / "model.kp"
    fitted().save(path)
    loaded = kp.load(path)
    with pytest.raises(NotFittedError, match=r"give them as training="):
        loaded.calibrate()
    with pytest.raises(ParameterError, match=r"whose labels are .*'energy': 13"):
        loaded.calibrate(training=training()[:5])
    assert loaded.calibrate(training=training(), folds=4).fitted_.calibration == calibrated().fitted_.calibration


def test_groups_are_left_out_whole():
    train = [atoms.copy() for atoms in training()]
    for k, (copy, atoms) in enumerate(zip(train, training(), strict=True)):
        copy.calc = atoms.calc
        copy.info["config_type"] = "slab" if k == 12 else "bulk"
    model = potentials.model(20).fit(train)
    by_group = model.calibrate(groups=True)
    slab = train[12:]
    assert by_group.predict(slab).energy_std[0] > model.calibrate(folds=4).predict(slab).energy_std[0]
    with pytest.raises(ParameterError, match="at least two groups"):
        fitted().calibrate(groups=True)


def test_duplicates_are_one_witness():
    """Repeats of every structure change neither folds nor quantiles: they are no new evidence."""
    train = make.copper_gold_set(6, kinds=["energy", "forces"])
    turned = []
    for atoms in train:
        copy = make.labelled([make.turned(atoms, make.rotation(1))], ["energy", "forces"])[0]
        turned.append(copy)
    model = potentials.model(12).fit(train + turned)
    prediction, known = model.left_out(folds=6)
    error = residuals_of(prediction, known.labels)["energy"].error
    assert error[:6] == pytest.approx(error[6:], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folds": 1}, "`folds` must be a whole number, at least 2"),
        ({"folds": 2.5}, "`folds` must be a whole number"),
        ({"method": "isotonic"}, "`method` must be one of conformal, floor, scale, got 'isotonic'"),
        ({"held_out": []}, "at least one structure"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ParameterError, match=message):
        fitted().calibrate(**arguments)


def test_training_structures_are_no_held_out_ones():
    with pytest.raises(ParameterError, match=r"structure 1 \(from 0\) is one that it was fitted to \(1 in all\)"):
        fitted().calibrate([make.copper_gold_set(1, seed=5)[0], training()[3]])


def test_labels_and_a_fit_are_needed():
    with pytest.raises(NotFittedError):
        potentials.model().calibrate()
    with pytest.raises(LabelError, match="calibrate needs labels"):
        fitted().calibrate([make.copper_gold(1)])
    with pytest.raises(ParameterError, match="two different training structures"):
        potentials.model(4).fit(make.copper_gold_set(1)).calibrate()
    with pytest.raises(ParameterError, match=r"`kind` must be one of"):
        fitted().predict([make.copper_gold(1)]).interval("force")
    with pytest.raises(NotFittedError, match="uncertainty=False"):
        fitted().predict([make.copper_gold(1)], uncertainty=False).interval("forces")


def test_scarcity_is_the_mean_over_neighbours_and_strangeness_that_of_the_energy():
    atoms = make.slab(2)
    prediction = fitted().predict([make.copper_gold(3), atoms])
    local, around = prediction.latent.local_energy_std[1], prediction.around[1]
    cutoff = fitted().cutoff_
    first, second = neighbor_list("ij", atoms, cutoff)
    for i in range(len(atoms)):
        with_neighbours = np.append(local[second[first == i]], local[i])
        assert around.scarcity[i] == pytest.approx(np.sqrt(np.mean(with_neighbours**2)))
    assert around.strangeness == pytest.approx(prediction.latent.energy_std[1] / np.sqrt(len(atoms)))
    assert around.mean_scarcity == pytest.approx(np.sqrt(np.mean(around.scarcity**2)))
    assert around.element.tolist() == atoms.numbers.tolist()


def test_stds_of_a_crystal_and_its_supercell_agree():
    """Energies per atom, forces and scarcities of equal atoms do not depend on the cell they are written in."""
    atoms = make.copper_gold(7)
    one, eight = (calibrated().predict([a]) for a in (atoms, atoms.repeat(2)))
    assert eight.energy_std / 32 == pytest.approx(one.energy_std / 4, rel=1e-6)
    assert eight.around[0].scarcity[:4] == pytest.approx(one.around[0].scarcity, rel=1e-6)


def test_a_model_on_a_device_calibrates_as_one_that_is_not():
    pytest.importorskip("torch")
    there = fitted().to("cpu").calibrate(training=training(), folds=4).fitted_.calibration
    here = calibrated().fitted_.calibration
    assert there.factor == pytest.approx(here.factor, rel=1e-3)
    assert there.shape["forces"].quantiles == pytest.approx(here.shape["forces"].quantiles, rel=1e-3)


def test_a_stream_of_structures_stays_one(tmp_path):
    train = make.copper_gold_set(8)
    write(tmp_path / "train.xyz", train)
    model = potentials.model(12).fit(kp.pools.stream(tmp_path / "train.xyz"))
    assert isinstance(model.training_.structures, kp.data.stream.Stream)
    whole = potentials.model(12).fit(train).calibrate(folds=3).fitted_.calibration
    assert model.calibrate(folds=3).fitted_.calibration.factor == pytest.approx(whole.factor, rel=1e-2)
