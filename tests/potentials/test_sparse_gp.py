"""What users of the model may count on."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.errors import DataError, LabelError, NotFittedError, ParameterError, SpeciesError
from tests import potentials
from tests import structures as make

TEST = [make.copper_gold(61), make.slab(62), make.isolated("Cu"), make.copper(63)]


def flat(prediction):
    """Everything a prediction holds, in one array."""
    spread = prediction.label
    parts = [prediction.energy, *prediction.forces, prediction.stress, *prediction.local_energy]
    if spread is not None:
        parts += [spread.energy_std, *spread.forces_std, spread.stress_std, *spread.local_energy_std]
    return np.concatenate([np.ravel(part) for part in parts])


# ---- prepare, fit, condition


def test_given_environments_are_the_inducing_ones():
    pool = [make.copper_gold(k) for k in range(3)]
    gold = int(np.flatnonzero(pool[2].numbers == 79)[0])
    copper = int(np.flatnonzero(pool[1].numbers == 29)[0])
    prepared = potentials.model(10).prepare(pool, environments=[(2, gold), (1, copper)])
    features = prepared.features_
    for structure, atom, z in ((1, copper, features.inducing[0]), (2, gold, features.inducing[1])):
        batch = Batch.from_structures([pool[structure]], features.descriptor.cutoff)
        np.testing.assert_allclose(z, features.describe(batch).x[atom : atom + 1], atol=1e-14)


@pytest.mark.parametrize(
    ("environments", "match"),
    [
        ([(3, 0)], "does not exist"),
        ([(0, 99)], "does not exist"),
        ([(0, 0), (0, 0)], "twice"),
        ([(0, 0)], "each species needs one"),
    ],
)
def test_environments_that_cannot_be_are_refused(environments, match):
    with pytest.raises(ParameterError, match=match):
        potentials.model(10).prepare([make.copper_gold(k) for k in range(3)], environments=environments)


def test_cheap_local_std_is_that_of_the_prediction():
    model = potentials.copper_gold()
    atoms = make.copper_gold(61)
    batch = Batch.from_structures([atoms], model.descriptor.cutoff)
    np.testing.assert_array_equal(model.local_energy_std(batch), model.predict([atoms]).local_energy_std[0])


def test_prepare_fixes_the_set_without_labels_and_makes_a_new_model():
    spec = potentials.model(10)
    pool = [make.copper_gold(k) for k in range(6)]
    prepared = spec.prepare(pool)
    assert spec.features_ is None
    assert prepared.fitted_ is None
    labelled = spec.prepare(make.labelled(pool))
    for a, b in zip(prepared.features_.inducing, labelled.features_.inducing, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fit_keeps_a_prepared_set_and_starts_from_the_prior():
    pool, first, second = (make.copper_gold_set(5, seed=s) for s in range(3))
    model = potentials.model(10).prepare(pool)
    inducing = model.features_.inducing
    model.fit(first)
    assert model.fit(second) is model
    assert model.fitted_.features.inducing is inducing
    fresh = potentials.model(10).prepare(pool).fit(second)
    np.testing.assert_array_equal(flat(model.predict(TEST)), flat(fresh.predict(TEST)))


def test_a_model_that_was_not_prepared_chooses_anew_at_every_fit():
    first, second = make.copper_gold_set(5, seed=1), make.copper_gold_set(5, seed=2)
    again = potentials.model(10).fit(first).fit(second)
    np.testing.assert_array_equal(flat(again.predict(TEST)), flat(potentials.model(10).fit(second).predict(TEST)))


def test_fits_are_repeatable_and_leave_structures_alone():
    train = make.copper_gold_set(5)
    before = [(a.positions.copy(), dict(a.calc.results), set(a.info), set(a.arrays)) for a in train]
    one, two = (potentials.model(10, seed=3).fit(train) for _ in range(2))
    np.testing.assert_array_equal(flat(one.predict(TEST)), flat(two.predict(TEST)))
    for atoms, (positions, results, info, arrays) in zip(train, before, strict=True):
        np.testing.assert_array_equal(atoms.positions, positions)
        assert set(atoms.calc.results) == set(results)
        assert (set(atoms.info), set(atoms.arrays)) == (info, arrays)


def test_condition_equals_refit():
    first, second = make.copper_gold_set(8, seed=1), [*make.copper_gold_set(4, seed=2), *make.labelled([make.slab(0)])]
    prepared = potentials.model(20).prepare([*first, *second])
    base = prepared.fit(first)
    conditioned = base.condition(second[:2]).condition(second[2:])
    before = flat(base.predict(TEST))
    refit = potentials.model(20).prepare([*first, *second]).fit([*first, *second])
    a, b = conditioned.predict(TEST), refit.predict(TEST)
    np.testing.assert_allclose(a.energy, b.energy, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(np.concatenate(a.forces), np.concatenate(b.forces), atol=1e-8)
    np.testing.assert_allclose(a.stress, b.stress, atol=1e-8)
    np.testing.assert_allclose(a.latent.energy_std, b.latent.energy_std, rtol=1e-6)
    np.testing.assert_allclose(
        np.concatenate(a.latent.forces_std), np.concatenate(b.latent.forces_std), rtol=1e-6, atol=1e-10
    )
    # The model that was asked stays as it was; noise, amplitude and calibration are kept.
    np.testing.assert_array_equal(flat(base.predict(TEST)), before)
    assert (conditioned.noise_, conditioned.amplitude_) == (base.noise_, base.amplitude_)
    assert conditioned.calibration_ == base.calibration_


def test_condition_needs_a_fitted_model_and_known_species():
    with pytest.raises(NotFittedError, match="never fitted; call fit"):
        potentials.model().condition(make.copper_gold_set(1))
    with pytest.raises(SpeciesError, match="Ag"):
        potentials.copper_gold().condition(make.labelled([make.four_metals(0)]))


def test_conditioning_on_structures_without_labels_is_refused():
    with pytest.raises(LabelError, match="condition found no label of the kinds that have a noise"):
        potentials.copper_gold().condition([make.copper_gold(3)])


# ---- predict


def test_predict_ignores_labels():
    plain = [make.copper_gold(51), make.slab(52)]
    wrong = [atoms.copy() for atoms in plain]
    for atoms in wrong:
        atoms.calc = SinglePointCalculator(atoms, energy=1e6, forces=np.full((len(atoms), 3), np.nan))
        atoms.info["dft_energy"] = "nonsense"
    model = potentials.copper_gold()
    np.testing.assert_array_equal(flat(model.predict(wrong)), flat(model.predict(plain)))


def test_prediction_shapes_and_sums():
    prediction = potentials.copper_gold().predict(TEST)
    sizes = [len(atoms) for atoms in TEST]
    assert len(prediction) == 4
    assert prediction.energy.shape == prediction.energy_std.shape == (4,)
    assert prediction.stress.shape == prediction.stress_std.shape == (4, 6)
    for lists in (prediction.forces, prediction.forces_std):
        assert [f.shape for f in lists] == [(n, 3) for n in sizes]
    for lists in (prediction.local_energy, prediction.local_energy_std):
        assert [e.shape for e in lists] == [(n,) for n in sizes]
    sums = [e.sum() for e in prediction.local_energy]
    np.testing.assert_allclose(sums, prediction.energy, atol=1e-10)


def test_stress_is_nan_exactly_where_there_is_no_cell():
    prediction = potentials.copper_gold().predict(TEST)
    np.testing.assert_array_equal(np.isnan(prediction.stress).all(axis=1), [False, False, True, False])
    np.testing.assert_array_equal(np.isnan(prediction.stress_std).all(axis=1), [False, False, True, False])
    assert np.isfinite(prediction.stress[[0, 1, 3]]).all()
    assert np.isfinite(prediction.energy_std).all()


def test_label_std_is_the_calibrated_posterior_with_noise():
    model = potentials.copper_gold()
    prediction = model.predict(TEST)
    n = np.array([len(atoms) for atoms in TEST])
    factor, noise = model.calibration_, model.noise_
    expected = np.sqrt((factor["energy"] * prediction.latent.energy_std) ** 2 + (n * noise.energy) ** 2)
    np.testing.assert_allclose(prediction.energy_std, expected)
    for label, latent in zip(prediction.forces_std, prediction.latent.forces_std, strict=True):
        np.testing.assert_allclose(label, np.hypot(factor["forces"] * latent, noise.forces))
    for label, latent in zip(prediction.local_energy_std, prediction.latent.local_energy_std, strict=True):
        np.testing.assert_allclose(label, factor["energy"] * latent)


def test_without_uncertainty_the_means_are_the_same_and_stds_say_why_they_are_absent():
    model = potentials.copper_gold()
    quick = model.predict(TEST, uncertainty=False)
    np.testing.assert_array_equal(quick.energy, model.predict(TEST).energy)
    assert quick.label is quick.latent is None
    with pytest.raises(NotFittedError, match="uncertainty=False"):
        _ = quick.forces_std


def test_many_structures_in_batches_equal_one_by_one():
    structures = [make.copper_gold(k).repeat(2) for k in range(18)]
    model = potentials.copper_gold()
    together = model.predict(structures)
    np.testing.assert_allclose(
        together.energy, [model.predict([atoms]).energy[0] for atoms in structures], rtol=1e-12, atol=1e-10
    )
    np.testing.assert_allclose(together.forces_std[17], model.predict(structures[17:]).forces_std[0], rtol=1e-8)


def test_mean_of_a_batch_equals_predict():
    model = potentials.copper_gold()
    mean, prediction = model.mean(Batch.from_structures(TEST, 3.6)), model.predict(TEST, uncertainty=False)
    np.testing.assert_array_equal(mean.energy, prediction.energy)
    np.testing.assert_array_equal(mean.forces, np.concatenate(prediction.forces))
    np.testing.assert_array_equal(mean.stress, prediction.stress)


def test_training_labels_are_reproduced_and_std_is_smaller_there():
    train = make.copper_gold_set(8)
    model = potentials.model(32).fit(train)
    prediction = model.predict(train)
    energies = np.array([atoms.get_potential_energy() for atoms in train])
    assert np.abs(prediction.energy - energies).max() / 4 < 0.02
    assert prediction.latent.energy_std.max() < model.predict([make.copper(99)]).latent.energy_std[0]


def test_energies_come_back_on_the_labels_own_scale():
    train = make.copper_gold_set(6)
    for atoms in train:
        gold = np.count_nonzero(atoms.numbers == 79)
        results = dict(atoms.calc.results)
        results["energy"] += -3000.0 * gold - 1000.0 * (len(atoms) - gold)
        atoms.calc = SinglePointCalculator(atoms, **results)
    model = potentials.model(16).fit(train)
    errors = model.predict(train).energy - [atoms.get_potential_energy() for atoms in train]
    assert np.abs(errors).max() / 4 < 0.05
    # Baselines follow the labels' own constants: only what binds is left to the kernel.
    assert model.e0_["Au"] == pytest.approx(-3000, abs=20)
    assert model.e0_["Cu"] == pytest.approx(-1000, abs=20)


def test_the_old_name_of_e0_still_works():
    model = potentials.copper_gold()
    with pytest.warns(DeprecationWarning, match="`baseline_` is now `e0_`"):
        old = model.baseline_
    assert old == {29: model.e0_["Cu"], 79: model.e0_["Au"]}


# ---- labels that are there in part


def test_forces_missing_in_some_structures_are_left_out():
    whole = make.copper_gold_set(6)
    partly = [*whole[:3], *make.labelled(whole[3:5], ["energy"]), *make.labelled(whole[5:], ["forces"])]
    model = potentials.model(12).fit(partly)
    assert model.fitted_.n_labels == {"energy": 5, "forces": 48, "stress": 18}


def test_stress_only_in_some_structures():
    partly = [*make.copper_gold_set(3), *make.copper_gold_set(3, seed=1, kinds=["energy", "forces"])]
    model = potentials.model(12).fit(partly)
    assert model.fitted_.n_labels["stress"] == 18
    assert np.isfinite(model.predict(TEST[:1]).stress_std).all()


def test_kinds_without_labels_are_predicted_all_the_same():
    model = potentials.model(12).fit(make.copper_gold_set(4, kinds=["energy"]))
    assert model.fitted_.n_labels == {"energy": 4}
    prediction = model.predict(TEST[:2])
    assert np.isfinite(np.concatenate(prediction.forces_std)).all()
    assert np.isfinite(prediction.stress_std).all()
    assert "energy" in model.summary()
    assert "forces" not in model.summary()


def test_forces_alone_are_enough():
    model = potentials.model(16).fit(make.copper_gold_set(6, kinds=["forces"]))
    assert model.e0_ == {"Cu": 0.0, "Au": 0.0}
    assert np.isfinite(flat(model.predict(TEST[:1]))).all()


@pytest.mark.parametrize("noise", [potentials.NOISE, "cv"])
def test_structures_without_labels_are_refused(noise):
    with pytest.raises(LabelError, match="fit needs energies or forces, found neither"):
        potentials.model(noise=noise).fit([make.copper_gold(k) for k in range(3)])


def test_labels_without_a_noise_are_refused():
    with pytest.raises(LabelError, match=r"no label of the kinds that have a noise \(forces\)"):
        potentials.model(noise=kp.Noise(energy=None, forces=0.1)).fit(make.copper_gold_set(3, kinds=["energy"]))


def test_a_calculator_that_has_results_counts_as_labels():
    atoms = make.copper_gold(1)
    atoms.calc = EMT()
    atoms.get_forces()
    assert potentials.model(4).fit([atoms]).fitted_.n_labels["forces"] == 12


def test_keys_name_labels():
    structures = []
    for k, atoms in enumerate(make.copper_gold_set(4)):
        copy = atoms.copy()
        copy.info["mine"], copy.arrays["pull"] = atoms.get_potential_energy(), atoms.get_forces()
        structures.append(copy)
        assert k < 4
    model = potentials.model(8).fit(structures, keys={"energy": "mine", "forces": "pull"})
    assert set(model.fitted_.n_labels) == {"energy", "forces"}


# ---- small and odd sets


def test_a_single_structure():
    model = potentials.model(10).fit(make.copper_gold_set(1))
    assert model.calibration_ == {"energy": 1.0, "forces": 1.0, "stress": 1.0}
    assert model.cross_validation_ == {}
    assert np.isfinite(flat(model.predict(TEST[:1]))).all()
    assert "left-out" not in model.summary()


def test_a_single_isolated_atom():
    atoms = make.labelled([make.isolated("Cu")], ["energy", "forces"])
    model = potentials.model(5).fit(atoms)
    assert model.n_inducing_ == 1
    assert model.predict(atoms).energy[0] == pytest.approx(atoms[0].get_potential_energy(), abs=0.01)


def test_repeated_structures_are_one_fold():
    atoms = make.copper_gold_set(1)[0]
    model = potentials.model(8).fit([atoms] * 5)
    assert model.cross_validation_ == {}
    with pytest.raises(LabelError, match="at least two different structures"):
        potentials.model(8, noise="cv").fit([atoms] * 5)


def test_inducing_environments_are_an_upper_limit():
    model = potentials.model(10_000).fit(make.copper_gold_set(2))
    assert model.n_inducing_ <= 8
    assert len(model.fitted_.posterior.mean) <= 8 + 2
    with pytest.raises(ParameterError, match="`n_inducing` must be at least one for each of 2 species, got 1"):
        potentials.model(1).fit(make.copper_gold_set(2))


@pytest.mark.parametrize("method", ["fps", "cur", "random"])
def test_ways_of_choosing_inducing_environments(method):
    model = potentials.model(12, inducing=method).fit(make.copper_gold_set(6))
    assert model.n_inducing_ == 12
    assert np.isfinite(flat(model.predict(TEST[:2]))).all()


def test_summary_names_what_the_fit_found():
    text = potentials.copper_gold().summary()
    for part in (
        "Cu Au",
        "20 (Cu ",
        "amplitude           1 eV",
        "noise 2 meV/atom",
        "left-out RMSE",
        "energy constants",
    ):
        assert part in text


def test_summary_has_the_amplitude_of_every_term_and_says_what_was_calibrated():
    train = make.copper_gold_set(12)
    model = kp.SparseGP([kp.TwoBody(cutoff=4.5), potentials.small_soap()], n_inducing=12, noise="cv").fit(train)
    amplitudes = ", ".join(f"{value:.4g} eV" for value in model.amplitudes_)
    assert len(model.amplitudes_) == 2
    assert f"amplitude           {amplitudes}\n" in model.summary()
    assert "calibrated" not in model.summary()
    text = model.calibrate().summary()
    assert "calibrated: floor of the std" in text
    assert "misfit of fitted labels" not in text


# ---- misuse


def test_unfitted_models_say_so():
    model = potentials.model()
    for ask in (lambda: model.predict(TEST), lambda: model.summary(), lambda: model.noise_, lambda: model.species_):
        with pytest.raises(NotFittedError):
            ask()
    with pytest.raises(NotFittedError):
        model.prepare(TEST).predict(TEST)


def test_unseen_species_is_named():
    with pytest.raises(SpeciesError, match=r"element C, H, O was never seen|element H, C, O was never seen"):
        potentials.copper_gold().predict([make.ethanol()])
    with pytest.raises(SpeciesError, match="Au"):
        potentials.model(8).prepare([make.copper(k) for k in range(3)]).fit(make.copper_gold_set(3))


@pytest.mark.parametrize("method", ["fit", "prepare", "predict", "information", "condition"])
def test_a_bare_structure_or_an_empty_list_is_refused(method):
    ask = getattr(potentials.copper_gold(), method)
    if method == "fit":
        ask = potentials.model().fit
    with pytest.raises(ParameterError, match=r"must be a list of ase.Atoms, got a single one; write \[atoms\]"):
        ask(make.copper_gold_set(1)[0])
    with pytest.raises(ParameterError, match="must hold at least one structure"):
        ask([])


def test_evaluate_refuses_a_bare_structure_too():
    with pytest.raises(ParameterError, match=r"write \[atoms\]"):
        kp.evaluate(potentials.copper_gold(), make.copper_gold_set(1)[0])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n_inducing": 0}, "`n_inducing` must be a whole number, at least 1, got 0"),
        ({"n_inducing": 2.5}, "`n_inducing` must be a whole number, at least 1"),
        ({"n_inducing": True}, "`n_inducing` must be a whole number, at least 1"),
        ({"noise": "loocv"}, '`noise` must be a Noise, "cv", "evidence" or "tempered", got \'loocv\''),
        ({"noise": 0.002}, '`noise` must be a Noise, "cv", "evidence" or "tempered", got 0.002'),
        ({"inducing": "best"}, "`inducing` must be one of fps, cur, random"),
        ({"tolerance": 0.0}, "`tolerance` must lie between 0 and 1"),
    ],
)
def test_settings_are_checked(settings, match):
    with pytest.raises(ParameterError, match=match):
        kp.SparseGP(potentials.small_soap(), **{"n_inducing": 10, **settings})


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("Cu2", positions=[[0, 0, 0], [np.nan, 0, 0]]),
        Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0.01]]),
        Atoms("Cu", pbc=True),
        Atoms(),
    ],
)
def test_unusable_structures_are_named(atoms):
    with pytest.raises(DataError, match="structure 1"):
        potentials.copper_gold().predict([make.copper(0), atoms])


def test_representation_is_a_call():
    model = potentials.model(7, zeta=1, seed=5)
    namespace = {name: getattr(kp, name) for name in ("SparseGP", "SOAP", "DotProduct", "Noise")}
    from kernelpot.descriptors import radial

    namespace |= {name: getattr(radial, name) for name in ("GTO", "PowerGaussian", "SphericalBessel")}
    again = eval(repr(model), namespace)
    assert repr(again) == repr(model)


def test_representation_says_what_was_prepared_and_fitted():
    pool = make.copper_gold_set(4)
    model = potentials.model(8)
    assert "inducing environments" not in repr(model)
    space = model.prepare(pool)
    assert repr(space) == repr(model)[:-1] + ", prepared with 8 inducing environments)"
    assert repr(space.fit(pool)) == repr(model)[:-1] + ", prepared and fitted with 8 inducing environments)"
    assert repr(model.fit(pool)).endswith(", fitted with 8 inducing environments)")


def test_an_unseen_element_and_a_broken_structure_are_named_by_their_place():
    from kernelpot.demo import label, structures

    model = kp.SparseGP(kp.SOAP(cutoff=4.0, n_max=3, l_max=2), n_inducing=20).fit(label(structures(8, seed=1)))
    many = structures(60, seed=2)
    with pytest.raises(SpeciesError, match=r"structure 60 .*Fe"):
        model.predict([*many, Atoms("Fe")])
    with pytest.raises(DataError, match=r"structure 60 .*finite"):
        model.predict([*many, Atoms("Cu", positions=[[np.nan, 0, 0]])])


def test_a_negative_seed_is_named():
    with pytest.raises(ParameterError, match="seed"):
        kp.SparseGP(kp.SOAP(), n_inducing=5, seed=-1)
