"""Extrapolation grades against the dense Gaussian process that they stand for, and what they flag."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from hypothesis import given
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.errors import ExtrapolationError, NotFittedError, ParameterError
from kernelpot.potentials import extrapolation
from kernelpot.potentials.extrapolation import Seen
from tests import potentials
from tests import structures as make
from tests.datasets import dataset
from tests.features.test_sum_map import sum_model

TRAIN = [*make.copper_gold_set(8), *make.labelled([make.slab(1)])]
"""What `potentials.copper_gold` is fitted to."""


@pytest.fixture(scope="module")
def alloy():
    return potentials.copper_gold()


def graded(model, structures):
    return np.concatenate(model.predict(structures).extrapolation)


def dense_std(model, train, test):
    """k** - k*(K + s²)⁻¹k* over all environments, with the features' kernel plus the residual at equal environments."""
    state = model.fitted_
    features = state.features
    (a, b) = (features.describe(Batch.from_structures(s, features.cutoff)) for s in (train, test))
    phi, psi = (features.whiten(extrapolation.dense_local_values(features, d)) for d in (a, b))
    k, cross = phi @ phi.T, psi @ phi.T
    seen = np.linalg.solve(k + state.seen.noise**2 * np.eye(len(k)), cross.T)
    prior = features.local_prior(b)
    return np.sqrt(prior - np.einsum("im,mi->i", cross, seen))


@pytest.mark.parametrize(
    "make_model",
    [
        potentials.copper_gold,
        lambda: sum_model().fit(TRAIN),
        lambda: kp.potentials.LinearModel(potentials.small_soap(), noise=potentials.NOISE).fit(TRAIN),
        lambda: kp.potentials.LinearModel(kp.TwoBody(cutoff=4.5), noise=potentials.NOISE).fit(TRAIN),
    ],
)
def test_the_std_is_that_of_a_process_that_saw_every_environment(make_model):
    model = make_model()
    test = [make.copper_gold(70), make.slab(3), make.isolated("Au"), TRAIN[0]]
    features = model.fitted_.features
    d = features.describe(Batch.from_structures(test, features.cutoff))
    found = model.fitted_.extrapolation.std(d)
    np.testing.assert_allclose(found, dense_std(model, TRAIN, test), rtol=1e-5, atol=1e-6)


def test_the_reference_is_the_99th_percentile_of_left_out_environments(alloy):
    # By brute force: every environment left out of the process in turn.
    state, features = alloy.fitted_, alloy.fitted_.features
    d = features.describe(Batch.from_structures(TRAIN, features.cutoff))
    phi = features.whiten(extrapolation.dense_local_values(features, d))
    std = []
    for i, row in enumerate(phi):
        rest = np.delete(phi, i, axis=0)
        inner = np.linalg.inv(np.eye(len(row)) + rest.T @ rest / state.seen.noise**2)
        std.append(np.sqrt(row @ inner @ row + 1.0 - row @ row))
    expected = [np.quantile(np.array(std)[d.species == a], 0.99) for a in range(2)]
    np.testing.assert_allclose(state.seen.reference, expected, rtol=1e-4)


def test_nearly_all_training_atoms_are_below_one_and_strange_ones_far_above(alloy):
    train = graded(alloy, TRAIN)
    assert (train > 1.0).mean() <= 0.02
    dense = make.copper_gold(3)
    dense.set_cell(dense.cell.array * 0.8, scale_atoms=True)
    assert graded(alloy, [dense]).min() > 2.0
    cluster = make.copper_gold(3)
    cluster.pbc = False
    assert graded(alloy, [cluster]).max() > 1.5


def test_all_routes_to_a_grade_agree(alloy):
    test = [make.copper_gold(70), make.slab(72)]
    by_predict = alloy.predict(test).extrapolation
    batch = Batch.from_structures(test, alloy.cutoff_)
    np.testing.assert_allclose(alloy.extrapolation(batch), np.concatenate(by_predict), rtol=1e-8)
    calc = kp.Calculator(alloy)
    np.testing.assert_allclose(calc.get_property("extrapolation", test[1]), by_predict[1], rtol=1e-6)
    assert alloy.predict(test, uncertainty=False).extrapolation is None


def test_constants_that_no_label_tells_apart_do_not_hide_a_stretched_bond():
    # Of one composition, energy constants trade places: local stds are all alike, grades are not.
    model = potentials.molecules()
    stretched = make.ethanol(0)
    bond = stretched.positions[3] - stretched.positions[2]
    stretched.positions[3] += 0.5 * bond
    std, calm = (np.concatenate(model.predict([a]).latent.local_energy_std) for a in (stretched, make.ethanol(0)))
    assert (std[2:4] < 1.05 * calm[2:4]).all()
    assert graded(model, [make.ethanol(0)]).max() < 1.2
    assert graded(model, [stretched])[2] > 1.5
    assert graded(model, [stretched])[3] > 3.0


@given(seed=st.integers(0, 1000))
def test_grades_know_no_order_rotation_or_supercell(seed):
    model, atoms = potentials.copper_gold(), make.copper_gold(seed)
    grades = graded(model, [atoms])
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(atoms))
    other = make.turned(atoms[order], make.rotation(seed))
    np.testing.assert_allclose(graded(model, [other]), grades[order], rtol=1e-5)
    np.testing.assert_allclose(graded(model, [atoms.repeat((1, 2, 1))]), np.tile(grades, 2), rtol=1e-5)


def test_seeing_more_never_raises_a_grade_and_learns_what_inducing_environments_can_see():
    strange = make.copper_gold(3)
    strange.set_cell(strange.cell.array * 0.85, scale_atoms=True)
    (labelled,) = make.labelled([strange])
    spec = potentials.model(20)
    for prepared, learnt in ((spec.prepare([*TRAIN, strange]), True), (spec.prepare(TRAIN), False)):
        model = prepared.fit(TRAIN)
        more = model.condition([labelled])
        before, after = graded(model, [*TRAIN, strange]), graded(more, [*TRAIN, strange])
        assert before[-4:].max() > 1.7
        assert (after <= before * (1 + 1e-6)).all()
        assert (after[-4:].max() < 0.5 * before[-4:].max()) == learnt
        # The same by a record of all structures at once, with the reference kept.
        whole = Seen.of(model.fitted_.features, [*TRAIN, labelled], seed=0)
        found, expected = more.fitted_.seen.factor, whole.factor
        np.testing.assert_allclose(found.T @ found, expected.T @ expected, rtol=1e-7, atol=1e-6)
        np.testing.assert_array_equal(more.fitted_.seen.reference, model.fitted_.seen.reference)


def test_structures_can_be_forgotten(alloy):
    features, seen = alloy.fitted_.features, alloy.fitted_.seen
    left = seen.without_structures(features, TRAIN[5:])
    expected = Seen.of(features, TRAIN[:5], seed=0)
    np.testing.assert_allclose(left.factor, expected.factor, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(left.reference, seen.reference)
    with pytest.raises(ParameterError, match="has not seen"):
        seen.without_structures(features, [make.copper_gold(77).repeat(2)])


def test_environments_beyond_the_sample_still_count(alloy, monkeypatch):
    monkeypatch.setattr(extrapolation, "MOST", 5)
    features = alloy.fitted_.features
    few = Seen.of(features, TRAIN, seed=1)
    np.testing.assert_allclose(few.factor, alloy.fitted_.seen.factor, rtol=1e-8, atol=1e-8)
    assert not np.array_equal(few.reference, alloy.fitted_.seen.reference)
    np.testing.assert_array_equal(few.reference, Seen.of(features, TRAIN, seed=1).reference)


def test_a_species_that_was_only_prepared_for_is_far_outside():
    model = potentials.model(12).prepare([make.copper_gold(0), make.copper(1)])
    model = model.fit(make.labelled([make.copper(k) for k in range(3)]))
    grades = model.predict([make.copper_gold(0)]).extrapolation[0]
    assert np.isfinite(grades).all()
    assert grades[make.copper_gold(0).numbers == 79].min() > 3.0


def test_a_file_keeps_the_grades_and_old_files_say_that_they_have_none(alloy, tmp_path):
    alloy.save(tmp_path / "model.kp")
    again = kp.load(tmp_path / "model.kp")
    test = [make.slab(5)]
    np.testing.assert_array_equal(graded(again, test), graded(alloy, test))
    from tests.potentials.test_files import parts, rewrite

    header, arrays = parts(tmp_path / "model.kp")
    del header["fit"]["seen_noise"]
    rewrite(tmp_path / "model.kp", header, arrays)
    old = kp.load(tmp_path / "model.kp")
    assert old.predict(test).extrapolation is None
    assert old.condition(TRAIN[:1]).fitted_.seen is None
    with pytest.raises(NotFittedError, match="fit again"):
        kp.Calculator(old).get_property("extrapolation", test[0])
    header["fit"]["seen_noise"] = 0.02
    for name, value in (("seen_reference", -arrays["seen_reference"]), ("seen_factor", arrays["seen_factor"][:-1])):
        rewrite(tmp_path / "bad.kp", header, arrays | {name: value})
        with pytest.raises(kp.errors.ModelFileError, match="damaged"):
            kp.load(tmp_path / "bad.kp")


# ---- dynamics


def hot(model, speed, **settings):
    atoms = make.copper_gold(2).repeat((2, 1, 1))
    atoms.calc = kp.Calculator(model)
    atoms.set_velocities(np.random.default_rng(0).normal(scale=speed, size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, 2.0 * units.fs)
    watch = kp.potentials.StopOnExtrapolation(dynamics, **settings)
    dynamics.attach(watch, interval=2)
    return dynamics, watch


def test_dynamics_stops_with_the_structure_in_hand(alloy):
    dynamics, watch = hot(alloy, 0.3, threshold=2.0, keep=1.2)
    with pytest.raises(ExtrapolationError, match=r"step \d+: atom \d+ \((Cu|Au)\)") as caught:
        dynamics.run(500)
    stopped = caught.value
    assert stopped.grade > 2.0
    assert stopped.grade == watch.largest == stopped.atoms.arrays["extrapolation"][stopped.atom]
    np.testing.assert_array_equal(stopped.atoms.positions, dynamics.atoms.positions)
    assert stopped.atoms.calc is None
    assert graded(alloy, [stopped.atoms])[stopped.atom] == pytest.approx(stopped.grade, rel=1e-5)
    np.testing.assert_array_equal(watch.met[-1].positions, stopped.atoms.positions)
    assert all(atoms.arrays["extrapolation"].max() > 1.2 for atoms in watch.met)
    # Labelled and fitted with new inducing environments, the structure is no longer strange.
    wiser = potentials.model(24).fit([*TRAIN, *make.labelled([stopped.atoms])])
    assert graded(wiser, [stopped.atoms]).max() < 0.7 * stopped.grade


def test_calm_dynamics_and_relaxations_go_on(alloy):
    dynamics, watch = hot(alloy, 0.002, threshold=2.0)
    dynamics.run(20)
    assert 0.0 < watch.largest <= 2.0
    assert watch.met == []
    atoms = make.copper_gold(2)
    atoms.calc = kp.Calculator(alloy)
    relaxation = BFGS(atoms, logfile=None)
    relaxation.attach(kp.potentials.StopOnExtrapolation(relaxation, threshold=50.0))
    assert relaxation.run(fmax=0.5, steps=3) is not None


def test_a_grade_that_is_no_number_stops_too(alloy, monkeypatch):
    dynamics, _ = hot(alloy, 0.002)
    monkeypatch.setattr(type(alloy), "extrapolation", lambda self, batch: np.full(batch.n_atoms, np.nan))
    with pytest.raises(ExtrapolationError, match="nan"):
        dynamics.run(4)


def test_wrong_arguments_of_the_observer_are_named(alloy):
    dynamics, _ = hot(alloy, 0.0)
    for settings in ({"threshold": 0}, {"threshold": "2"}, {"keep": -1.0}):
        with pytest.raises(ParameterError, match="positive grade"):
            kp.potentials.StopOnExtrapolation(dynamics, **settings)
    dynamics.atoms.calc = kp.Calculator(alloy.sample(1)[0])
    with pytest.raises(ParameterError, match="fitted model"):
        kp.potentials.StopOnExtrapolation(dynamics)
    with pytest.raises(ParameterError, match="dynamics"):
        kp.potentials.StopOnExtrapolation(None)


@pytest.mark.slow
def test_silicon_without_surfaces_flags_surfaces():
    structures = kp.read(dataset("mlearn/Si_train.xyz.xz"))
    kinds = np.array([atoms.info["config_type"] for atoms in structures])
    train = [structures[k] for k in np.flatnonzero(np.isin(kinds, ["AIMD-NVT", "Elastic"]))[::2]]
    surfaces = [structures[k] for k in np.flatnonzero(kinds == "Surface")]
    soap = kp.SOAP(cutoff=5.0, n_max=6, l_max=4, sigma=0.5)
    model = kp.SparseGP(soap, n_inducing=150, noise=kp.Noise(energy=0.003, forces=0.1)).fit(train)
    held = [structures[k] for k in np.flatnonzero(np.isin(kinds, ["AIMD-NVT"]))[1::8]]
    assert (graded(model, held) > 1.0).mean() < 0.05
    prediction = model.predict(surfaces)
    grades = np.concatenate(prediction.extrapolation)
    # Atoms with fewer neighbours than bulk silicon's four are the surface.
    batches = [Batch.from_structures([atoms], 2.8) for atoms in surfaces]
    bonds = np.concatenate([np.bincount(batch.first, minlength=batch.n_atoms) for batch in batches])
    assert (grades[bonds <= 2] > 1.0).mean() > 0.9
    assert (grades[bonds >= 4] > 1.0).mean() < 0.35
    errors = np.linalg.norm(
        np.concatenate(prediction.forces) - np.concatenate([atoms.get_forces() for atoms in surfaces]), axis=1
    )
    assert np.sqrt(np.mean(errors[grades > 2.0] ** 2)) > 2.0 * np.sqrt(np.mean(errors[grades < 1.0] ** 2))


@pytest.mark.slow
def test_ethanol_at_500_kelvin_flags_stretched_bonds():
    frames = kp.read(dataset("rmd17/ethanol_train.xyz.xz"))
    train, held = frames[:150], frames[150:250]
    soap = kp.SOAP(cutoff=4.0, n_max=6, l_max=4, sigma=0.4)
    model = kp.SparseGP(soap, n_inducing=200, noise=kp.Noise(energy=0.003, forces=0.05)).fit(train)
    assert (graded(model, held) > 1.0).mean() < 0.06
    oxygen, hydrogen = 2, 8
    longest = max(atoms.get_distance(oxygen, hydrogen) for atoms in train)
    grades, stds = [], []
    for stretch in (1.0, 1.1, 1.2, 1.4):
        atoms = train[0].copy()
        atoms.set_distance(oxygen, hydrogen, stretch * longest, fix=0)
        prediction = model.predict([atoms])
        grades.append(prediction.extrapolation[0][[oxygen, hydrogen]].max())
        stds.append(prediction.latent.local_energy_std[0][oxygen])
    assert grades[0] < 1.3
    assert (np.diff(grades) > 0).all()
    assert grades[2] > 2.0
    assert grades[3] > 4.0
    # What the grade is for: the standard deviation of the local energy hardly moves.
    assert stds[3] / stds[0] < 1.1
