"""Models that learn the difference from a baseline: consistency, equality with doing it by hand, misuse."""

from __future__ import annotations

import itertools
from copy import copy

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

import kernelpot as kp
from kernelpot import goals
from kernelpot.data.batch import Batch
from kernelpot.errors import DataError, LabelError, ParameterError
from kernelpot.potentials.baselines.given import evaluated
from kernelpot.potentials.prediction import Mean
from tests import potentials
from tests import structures as make
from tests.features.test_rows import moved, strained

PAIRS = {("Cu", "Cu"): (1.0, 3.0), ("Cu", "Au"): (1.0, 3.2), ("Au", "Au"): (1.0, 3.4)}
"""Radii that ordinary structures reach, so that the baseline has something to say about them."""

TRAIN = [*make.copper_gold_set(8), *make.labelled([make.slab(1)])]
TEST = [make.copper_gold(61), make.slab(62), make.isolated("Cu"), make.copper(63)]


def lennard_jones() -> LennardJones:
    # Smoothed, so that its energy has the derivatives that finite differences need.
    return LennardJones(sigma=2.3, epsilon=0.4, rc=4.5, smooth=True)


BASELINES = {"ZBL": kp.ZBL(pairs=PAIRS), "LJ": kp.potentials.CalculatorBaseline(lennard_jones())}


@pytest.fixture(scope="module", params=BASELINES)
def pair(request):
    """A baseline, and a model on top of it."""
    baseline = BASELINES[request.param]
    return baseline, potentials.model(20, baseline=baseline).fit(TRAIN)


def said_by(baseline, structures) -> Mean:
    return evaluated(baseline, structures)


def less(baseline, structures) -> list[Atoms]:
    """Take the baseline off labels by hand, one structure at a time."""
    result = []
    for atoms in structures:
        part = said_by(baseline, [atoms])
        values = {"energy": atoms.get_potential_energy() - part.energy[0], "forces": atoms.get_forces() - part.forces}
        if "stress" in atoms.calc.results:
            values["stress"] = atoms.get_stress() - part.stress[0]
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **values)
        result.append(copy)
    return result


# ---- the model on top


def test_predictions_equal_those_of_a_fit_to_the_difference_by_hand(pair):
    baseline, model = pair
    bare = potentials.model(20).fit(less(baseline, TRAIN))
    part, found, by_hand = said_by(baseline, TEST), model.predict(TEST), bare.predict(TEST)
    np.testing.assert_allclose(found.energy, by_hand.energy + part.energy, atol=1e-9)
    np.testing.assert_allclose(np.concatenate(found.forces), np.concatenate(by_hand.forces) + part.forces, atol=1e-9)
    np.testing.assert_allclose(found.stress, by_hand.stress + part.stress, atol=1e-9)
    np.testing.assert_allclose(
        np.concatenate(found.local_energy), np.concatenate(by_hand.local_energy) + part.local_energy, atol=1e-9
    )
    for name in ("energy_std", "stress_std"):
        np.testing.assert_allclose(getattr(found, name), getattr(by_hand, name), rtol=1e-9)
    np.testing.assert_allclose(np.concatenate(found.forces_std), np.concatenate(by_hand.forces_std), rtol=1e-9)
    assert model.e0_ == pytest.approx(bare.e0_, abs=1e-9)
    for kind, value in model.cross_validation_.items():
        assert value == pytest.approx(bare.cross_validation_[kind], rel=1e-9)


def test_the_baseline_matters(pair):
    baseline, model = pair
    plain = potentials.model(20).fit(TRAIN)
    assert np.abs(said_by(baseline, TEST).forces).max() > 0.1
    assert np.abs(model.predict(TEST).energy - plain.predict(TEST).energy).max() > 1e-3


@pytest.mark.parametrize("atoms", [make.copper_gold(5), make.slab(7)], ids=["crystal", "slab"])
def test_forces_and_stress_are_derivatives_of_the_energy(pair, atoms):
    _, model = pair
    prediction = model.predict([atoms], uncertainty=False)
    n = len(atoms)
    moves = [lambda h, i=i, x=x: moved(atoms, i, x, h) for i in (0, n - 1) for x in range(3)]
    strains = [lambda h, v=v: strained(atoms, v, h) for v in range(6)]
    for analytic, changes, size in (
        (-prediction.forces[0][[0, n - 1]].ravel(), moves, 1.0),
        (prediction.stress[0], strains, atoms.get_volume()),
    ):
        errors = []
        for h in (0.02, 0.01, 0.005, 1e-3):
            structures = [change(sign * h) for change in changes for sign in (1, -1)]
            energy = model.predict(structures, uncertainty=False).energy.reshape(-1, 2)
            errors.append(float(np.abs((energy[:, 0] - energy[:, 1]) / (2 * h) / size - analytic).max()))
        scale = float(np.abs(analytic).max())
        for coarse, fine in itertools.pairwise(errors[:3]):
            assert fine < 0.35 * coarse + 1e-9 * scale
        assert errors[-1] < 1e-3 * scale


@pytest.mark.parametrize("calculator", [EMT, lennard_jones])
def test_nothing_is_left_to_learn_where_the_baseline_made_the_labels(calculator):
    train = make.labelled([make.copper_gold(k) for k in range(6)], calculator=calculator())
    model = potentials.model(20, baseline=kp.potentials.CalculatorBaseline(calculator())).fit(train)
    truth = make.labelled([make.copper_gold(k) for k in (50, 51)], calculator=calculator())
    found = model.predict(truth, uncertainty=False)
    np.testing.assert_allclose(found.energy, [a.get_potential_energy() for a in truth], atol=1e-9)
    np.testing.assert_allclose(np.concatenate(found.forces), np.concatenate([a.get_forces() for a in truth]), atol=1e-9)
    np.testing.assert_allclose(found.stress, [a.get_stress() for a in truth], atol=1e-10)
    assert list(model.e0_.values()) == pytest.approx([0.0, 0.0], abs=1e-9)
    local = np.concatenate(found.local_energy)
    if "energies" in calculator().implemented_properties:
        np.testing.assert_allclose(local, np.concatenate([energies_of(calculator(), a) for a in truth]), atol=1e-9)


def energies_of(calculator, atoms):
    copy = atoms.copy()
    copy.calc = calculator
    return copy.get_potential_energies()


def test_conditioning_equals_refitting(pair):
    baseline, _ = pair
    prepared = potentials.model(20, baseline=baseline).prepare(TRAIN)
    first, second = TRAIN[:5], TRAIN[5:]
    # The calibration and the folds are those of the first fit; means and posterior those of all.
    grown = prepared.fit(first).condition(second)
    whole = copy(prepared).fit(TRAIN)
    one, two = grown.predict(TEST), whole.predict(TEST)
    np.testing.assert_allclose(one.energy, two.energy, atol=1e-8)
    np.testing.assert_allclose(np.concatenate(one.forces), np.concatenate(two.forces), atol=1e-8)
    np.testing.assert_allclose(one.stress, two.stress, atol=1e-9)
    np.testing.assert_allclose(one.latent.energy_std, two.latent.energy_std, atol=1e-8)


def test_design_does_not_see_the_baseline(pair):
    baseline, model = pair
    pool = make.copper_gold_set(3, seed=4)
    with_it = potentials.model(20, baseline=baseline).prepare(pool).information(pool)
    without = potentials.model(20).prepare(pool).information(pool)
    np.testing.assert_array_equal(with_it.rows, without.rows)
    np.testing.assert_array_equal(model.local_energy_std(batch_of(model, TEST)), model_std(model))


def batch_of(model, structures):
    return Batch.from_structures(structures, model.cutoff_)


def model_std(model):
    return np.concatenate(model.predict(TEST).local_energy_std)


def test_the_calculator_gives_what_the_model_predicts(pair):
    _, model = pair
    atoms = make.copper_gold(9)
    atoms.calc = kp.Calculator(model, skin=0.4)
    for _ in range(2):
        expected = model.predict([atoms], uncertainty=False)
        assert atoms.get_potential_energy() == pytest.approx(expected.energy[0], abs=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), expected.forces[0], atol=1e-9)
        np.testing.assert_allclose(atoms.get_stress(), expected.stress[0], atol=1e-10)
        # The second round goes through the list of pairs that was kept.
        atoms.positions[0] += 0.1


@pytest.mark.parametrize("pairs", [False, True], ids=["SOAP", "TwoBody and SOAP"])
def test_a_dimer_stays_repulsive_where_labels_end(pairs):
    # Neither crystals nor dimers at ordinary distances say anything about 0.3 Å.
    train = make.labelled([make.copper(k) for k in range(6)])
    squeezed = [Atoms("Cu2", [[0, 0, 0], [0, 0, r]]) for r in np.arange(0.3, 1.2, 0.1)]
    terms = [kp.TwoBody(cutoff=3.6)] * pairs + [potentials.small_soap()]
    plain, zbl = (
        kp.SparseGP(terms, n_inducing=12, noise=potentials.NOISE, baseline=b).fit(train) for b in (None, kp.ZBL())
    )
    pushes = [np.array([f[1, 2] for f in m.predict(squeezed, uncertainty=False).forces]) for m in (plain, zbl)]
    assert (pushes[0] < 0).all()
    assert (pushes[1] > 100).all()
    assert pushes[1][0] > 40_000
    assert (np.diff(pushes[1]) < 0).all()


def test_pairs_beyond_the_descriptor_are_found():
    far = kp.ZBL(2.0, 5.0)
    model = potentials.model(12, baseline=far).fit(make.labelled([make.copper(k) for k in range(4)]))
    assert model.cutoff_ == 5.0 > model.descriptor.cutoff
    bare = potentials.model(12).fit(less(far, make.labelled([make.copper(k) for k in range(4)])))
    assert bare.cutoff_ == bare.descriptor.cutoff
    atoms = make.copper(30)
    assert model.predict([atoms]).energy[0] == pytest.approx(
        bare.predict([atoms]).energy[0] + said_by(far, [atoms]).energy[0], abs=1e-9
    )
    with pytest.raises(ParameterError, match="as far as the ZBL baseline"):
        model.mean(Batch.from_structures([atoms], model.descriptor.cutoff))


def test_noises_found_by_cross_validation_are_those_of_the_difference():
    baseline = BASELINES["LJ"]
    found = potentials.model(20, noise="cv", baseline=baseline).fit(TRAIN)
    by_hand = potentials.model(20, noise="cv").fit(less(baseline, TRAIN))
    assert found.amplitude_ == pytest.approx(by_hand.amplitude_, rel=1e-6)
    for kind in found.noise_.kinds:
        assert found.noise_.sigma(kind) == pytest.approx(by_hand.noise_.sigma(kind), rel=1e-6)


@pytest.mark.parametrize(
    "make_model",
    [
        lambda baseline: kp.potentials.LinearModel(potentials.small_soap(), noise=potentials.NOISE, baseline=baseline),
        lambda baseline: kp.SparseGP(
            [kp.TwoBody(cutoff=4.5), potentials.small_soap()],
            n_inducing=20,
            noise=potentials.NOISE,
            baseline=baseline,
        ),
        lambda baseline: kp.potentials.Bootstrap(potentials.model(20, baseline=baseline), n_members=4),
    ],
    ids=["linear", "sum", "bootstrap"],
)
def test_every_kind_of_model_stands_on_a_baseline(make_model):
    far = kp.ZBL(2.0, 5.2)
    found = make_model(far).fit(TRAIN).predict(TEST)
    by_hand = make_model(None).fit(less(far, TRAIN)).predict(TEST)
    part = said_by(far, TEST)
    np.testing.assert_allclose(found.energy, by_hand.energy + part.energy, atol=1e-8)
    np.testing.assert_allclose(np.concatenate(found.forces), np.concatenate(by_hand.forces) + part.forces, atol=1e-8)
    np.testing.assert_allclose(found.energy_std, by_hand.energy_std, rtol=1e-8)
    np.testing.assert_allclose(np.concatenate(found.forces_std), np.concatenate(by_hand.forces_std), rtol=1e-8)


def test_goals_and_forecasts_count_the_baseline(pair):
    _, model = pair
    crystal = make.copper_gold(4)
    goal = (
        goals.energies(model, [crystal, make.slab(5)], [1.0, -0.5], names=["mix"])
        + goals.forces_on(model, crystal, [1])
        + goals.bulk_modulus(model, crystal)
        + goals.elastic_constants(model, crystal, ("C11", "C45"))
    )
    values = goal.predict(model).values
    prediction = model.predict([crystal, make.slab(5)], uncertainty=False)
    assert values[0] == pytest.approx(prediction.energy[0] - 0.5 * prediction.energy[1], abs=1e-8)
    np.testing.assert_allclose(values[1:4], prediction.forces[0][1], atol=1e-8)
    cells = [crystal.copy(), crystal.copy()]
    for cell, strain in zip(cells, (0.005, -0.005), strict=True):
        cell.set_cell(cell.cell.array * (1 + strain), scale_atoms=True)
    pressure = -model.predict(cells, uncertainty=False).stress[:, :3].mean(axis=1)
    volume = [cell.get_volume() for cell in cells]
    modulus = -(pressure[0] - pressure[1]) / np.log(volume[0] / volume[1]) * 160.2176634
    assert values[4] == pytest.approx(modulus, rel=1e-6)
    for k, (i, j) in ((5, (0, 0)), (6, (3, 4))):
        plus, minus = (strained(crystal, j, sign * 0.01) for sign in (1, -1))
        stress = model.predict([plus, minus], uncertainty=False).stress[:, i]
        assert values[k] == pytest.approx((stress[0] - stress[1]) / 0.02 * 160.2176634, rel=1e-6, abs=1e-6)
    with pytest.raises(ParameterError, match="its baseline"):
        goal.predict(potentials.copper_gold())


def test_a_forecast_is_that_of_the_difference():
    baseline, pool = BASELINES["LJ"], [make.copper_gold(k) for k in range(20, 30)]
    spec, by_hand = (potentials.model(20, baseline=b).prepare(pool) for b in (baseline, None))
    one = kp.forecast(spec, TRAIN, pool=pool, n=[9, 12])
    two = kp.forecast(by_hand, less(baseline, TRAIN), pool=pool, n=[9, 12])
    for kind in two.errors:
        np.testing.assert_allclose(one.errors[kind], two.errors[kind], rtol=1e-6)


# ---- calculators


class Toy(Calculator):
    """A harmonic well of the distances to the origin, with whatever quirk a test wants."""

    implemented_properties = ("energy", "forces")

    def __init__(self, quirk=None):
        super().__init__()
        self.quirk, self.calls = quirk, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.quirk == "fails":
            raise RuntimeError("the SCF did not converge")
        self.results = {"energy": float((atoms.positions**2).sum()), "forces": -2 * atoms.positions}
        if self.quirk in ("energy", "forces"):
            self.results[self.quirk] = self.results[self.quirk] * np.nan


def test_atoms_share_an_energy_that_has_no_parts():
    baseline = kp.potentials.CalculatorBaseline(Toy())
    atoms = make.copper_gold(3)
    part = said_by(baseline, [atoms, make.isolated("Cu")])
    np.testing.assert_allclose(part.local_energy[:4], (atoms.positions**2).sum() / 4)
    assert np.isnan(part.stress).all()


def test_constraints_are_not_passed_on():
    atoms = make.labelled([make.copper_gold(3)])[0]
    free = said_by(BASELINES["LJ"], [atoms]).forces
    atoms.set_constraint(FixAtoms([0, 1]))
    np.testing.assert_array_equal(said_by(BASELINES["LJ"], [atoms]).forces, free)
    assert np.abs(free[0]).max() > 0.01


def test_a_baseline_without_stress_needs_labels_without():
    model = potentials.model(20, baseline=Toy())
    with pytest.raises(LabelError, match=r"CalculatorBaseline\(Toy\) has no stress .* keys={'stress': None}"):
        model.fit(TRAIN)
    model.fit(TRAIN, keys={"stress": None})
    quiet = potentials.model(20, noise=kp.Noise(0.002, 0.05), baseline=Toy()).fit(TRAIN)
    prediction = quiet.predict(TEST)
    assert np.isfinite(prediction.energy).all()
    assert np.isnan(prediction.stress).all()
    atoms = make.copper_gold(3)
    atoms.calc = kp.Calculator(quiet)
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    assert np.isfinite(goals.total_energy(quiet, atoms).predict(quiet).values).all()
    with pytest.raises(DataError, match="says nothing of C11, C44: it has no stress"):
        goals.elastic_constants(quiet, make.copper_gold(3), ("C11", "C44")).predict(quiet)


def test_a_calculator_that_fails_is_named_with_the_structure():
    with pytest.raises(DataError, match=r"structure 0 .*: the baseline Toy failed .*SCF did not converge"):
        potentials.model(20, baseline=Toy("fails")).fit(TRAIN)
    for quirk in ("energy", "forces"):
        with pytest.raises(DataError, match="the baseline Toy gave an energy or forces that are not finite"):
            potentials.model(20, baseline=Toy(quirk)).fit(TRAIN)
    silicon = make.silicon_set(3)
    with pytest.raises(DataError, match=r"the baseline EMT failed \(NotImplementedError"):
        potentials.model(20, baseline=EMT()).fit(silicon)
    model = potentials.model(20, noise=kp.Noise(0.002, 0.05), baseline=Toy()).fit(TRAIN)
    model.baseline.calculator.quirk = "fails"
    with pytest.raises(DataError, match="the baseline Toy failed"):
        model.predict([make.copper_gold(77)])


@pytest.mark.parametrize("wrong", [3, "ZBL", kp.ZBL, EMT, object(), [EMT()]])
def test_what_is_no_baseline_is_refused(wrong):
    with pytest.raises(ParameterError, match=r"`baseline` must be None, a ZBL\(\), a CalculatorBaseline"):
        potentials.model(20, baseline=wrong)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((EMT,), "must be an ASE calculator"),
        ((None,), "must be an ASE calculator"),
        ((EMT(), 3), "`name` must be a word"),
    ],
)
def test_what_is_no_calculator_is_refused(arguments, match):
    with pytest.raises(ParameterError, match=match):
        kp.potentials.CalculatorBaseline(*arguments)


def test_a_calculator_without_forces_is_refused():
    toy = Toy()
    toy.implemented_properties = ["energy"]
    with pytest.raises(ParameterError, match="Toy has no forces"):
        kp.potentials.CalculatorBaseline(toy)


def test_models_can_stand_on_models():
    coarse = potentials.model(6).fit(TRAIN)
    fine = potentials.model(30, baseline=kp.potentials.CalculatorBaseline(kp.Calculator(coarse), "coarse")).fit(TRAIN)
    part, difference = coarse.predict(TEST, uncertainty=False), potentials.model(30)
    by_hand = []
    for atoms, energy, forces, stress in zip(
        TRAIN, *(getattr(coarse.predict(TRAIN), k) for k in ("energy", "forces", "stress")), strict=True
    ):
        values = {"energy": atoms.get_potential_energy() - energy, "forces": atoms.get_forces() - forces}
        if "stress" in atoms.calc.results:
            values["stress"] = atoms.get_stress() - stress
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **values)
        by_hand.append(copy)
    rest = difference.fit(by_hand).predict(TEST, uncertainty=False)
    np.testing.assert_allclose(fine.predict(TEST).energy, part.energy + rest.energy, atol=1e-8)
