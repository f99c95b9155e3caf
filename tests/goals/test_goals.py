"""Goals against the fitted model's own predictions, finite differences and posterior covariances."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, fcc100

import kernelpot as kp
from kernelpot import goals
from kernelpot.errors import DataError, NotFittedError, ParameterError, SpeciesError
from kernelpot.features.feature_map import E0_PRIOR
from kernelpot.goals.goal import Goal, Origin
from kernelpot.units import GPA
from tests import potentials
from tests import structures as make


@pytest.fixture(scope="module")
def copper():
    return potentials.copper()


@pytest.fixture(scope="module")
def alloy():
    return potentials.copper_gold()


def crystal(symbol="Cu", a=3.65):
    return bulk(symbol, "fcc", a=a, cubic=True)


def energy_of(model, atoms):
    return float(model.predict([atoms], uncertainty=False).energy[0])


def test_rows_times_weights_are_predictions(alloy):
    structures = [make.copper_gold(3), make.slab(5), make.isolated("Au")]
    rows = alloy.linear_rows(structures)
    state, prediction = alloy.fitted_, alloy.predict(structures, uncertainty=False)
    w, n_weights = state.posterior.mean, state.features.n_weights
    constants = rows.energy[:, n_weights:] / E0_PRIOR @ state.e0_centre
    np.testing.assert_allclose(rows.energy @ w + constants, prediction.energy, rtol=1e-9)
    for block, forces in zip(rows.forces, prediction.forces, strict=True):
        np.testing.assert_allclose((block @ w).reshape(-1, 3), forces, atol=1e-8)
    np.testing.assert_allclose(rows.stress[:2] @ w, prediction.stress[:2], atol=1e-9)
    assert np.isnan(rows.stress[2, :, :n_weights]).all()


def test_only_the_kinds_asked_for_are_made(copper):
    rows = copper.linear_rows([make.copper(0)], ("energy",))
    assert rows.forces == ()
    assert rows.stress.shape == (0, 6, rows.energy.shape[1])


def test_energies_of_every_helper_equal_combinations_of_predictions(alloy):
    perfect = make.copper_gold(0).repeat((2, 1, 1))
    a, b = make.copper_gold(2), make.copper_gold(4)
    path = [make.copper_gold(2), make.copper_gold(6), make.copper_gold(4)]
    e = [energy_of(alloy, atoms) for atoms in (perfect, a, b, path[1])]
    found = [
        goals.total_energy(alloy, perfect).predict(alloy)[0],
        goals.energy_difference(alloy, a, b).predict(alloy)[0],
        goals.barrier(alloy, path).predict(alloy)[0],
        goals.energies(alloy, [a, perfect], [2.0, -1.0], names=["x"]).predict(alloy)[0],
    ]
    expected = [[e[0]], [e[2] - e[1]], [e[3] - e[1], e[2] - e[1]], [2 * e[1] - e[0]]]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=1e-8)


def test_vacancies_and_surfaces_equal_combinations_of_predictions(copper):
    cell = crystal().repeat((2, 1, 1))
    missing = cell.copy()
    del missing[3]
    slab = fcc100("Cu", (1, 1, 5), a=3.65, vacuum=6.0)
    slab.pbc = (True, True, False)
    vacancy = goals.vacancy_energy(copper, cell, site=3)
    given = goals.vacancy_energy(copper, cell, missing)
    np.testing.assert_array_equal(vacancy.rows, given.rows)
    formation = energy_of(copper, missing) - 7 / 8 * energy_of(copper, cell)
    assert vacancy.predict(copper)[0][0] == pytest.approx(formation, abs=1e-8)
    area = np.linalg.norm(np.cross(slab.cell[0], slab.cell[1]))
    gamma = (energy_of(copper, slab) - 5 / 8 * energy_of(copper, cell)) / (2 * area)
    found = goals.surface_energy(copper, slab, cell)
    assert found.predict(copper)[0][0] == pytest.approx(gamma * 16.02176634, rel=1e-8)
    assert (found.units, vacancy.units) == (("J/m²",), ("eV",))


def test_elastic_constants_equal_finite_differences_of_the_calculator(copper):
    cell = crystal()
    cell.calc = kp.Calculator(copper)
    goal = goals.elastic_constants(copper, cell, ("C11", "C12", "C44", "C46"), strain=0.004)

    def stress(j, amount):
        tensor = np.zeros((3, 3))
        a, b = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[j]
        tensor[a, b] += amount / 2
        tensor[b, a] += amount / 2
        atoms = cell.copy()
        atoms.set_cell(cell.cell.array @ (np.eye(3) + tensor), scale_atoms=True)
        atoms.calc = kp.Calculator(copper)
        return atoms.get_stress()

    slopes = {j: (stress(j, 0.004) - stress(j, -0.004)) / 0.008 / GPA for j in (0, 1, 3, 5)}
    expected = [slopes[0][0], slopes[1][0], slopes[3][3], slopes[5][3]]
    np.testing.assert_allclose(goal.predict(copper)[0], expected, atol=1e-5)


def test_the_bulk_modulus_is_the_slope_of_the_pressure_and_that_of_the_energy(copper):
    cell = crystal()
    found = goals.bulk_modulus(copper, cell, strain=0.002).predict(copper)[0][0]

    def energy(volume):
        atoms = cell.copy()
        atoms.set_cell(cell.cell.array * (volume / cell.get_volume()) ** (1 / 3), scale_atoms=True)
        return energy_of(copper, atoms)

    v, h = cell.get_volume(), 0.2
    second = (energy(v + h) - 2 * energy(v) + energy(v - h)) / h**2
    assert found == pytest.approx(v * second / GPA, rel=2e-3)


def test_a_cubic_crystal_has_the_bulk_modulus_of_its_constants(copper):
    # At zero pressure B = (C11 + 2 C12)/3; stress-strain coefficients keep it at any pressure.
    c = goals.elastic_constants(copper, crystal(), strain=0.001).predict(copper)[0]
    assert goals.bulk_modulus(copper, crystal(), strain=0.001).predict(copper)[0][0] == pytest.approx(
        (c[0] + 2 * c[1]) / 3, rel=1e-4
    )


def test_relaxed_cells_take_the_place_of_homogeneous_ones(copper):
    cell = crystal()
    pairs = goals.strained_pairs(cell, 0.01, (4,))
    for atoms in pairs[4]:
        atoms.positions[1] += 0.05
    goal = goals.elastic_constants(copper, cell, ("C44", "C11"), relaxed=pairs)
    stress = copper.predict(list(pairs[4]), uncertainty=False).stress[:, 3]
    assert goal.predict(copper)[0][0] == pytest.approx((stress[0] - stress[1]) / 0.02 / GPA, rel=1e-7)
    plain = goals.elastic_constants(copper, cell, ("C11",))
    np.testing.assert_allclose(goal.rows[1], plain.rows[0], atol=1e-9 * np.abs(plain.rows).max())
    with pytest.raises(ParameterError, match="component 4 must hold \\(plus, minus\\) cells"):
        goals.elastic_constants(copper, cell, ("C44",), relaxed={4: (pairs[4][1], pairs[4][0])})


def test_forces_of_a_region_are_those_of_its_atoms(copper):
    atoms = make.copper(3)
    forces = copper.predict([atoms], uncertainty=False).forces[0]
    goal = goals.forces_on(copper, atoms, [2, 0])
    np.testing.assert_allclose(goal.predict(copper)[0].reshape(2, 3), forces[[2, 0]], atol=1e-9)
    assert goal.names[:4] == ("F_x of Cu 2", "F_y of Cu 2", "F_z of Cu 2", "F_x of Cu 0")
    mask = goals.forces_on(copper, atoms, np.array([True, False, True, False]))
    np.testing.assert_array_equal(mask.rows.reshape(2, 3, -1), goal.rows.reshape(2, 3, -1)[::-1])


def test_standard_deviations_are_the_posterior_covariance_of_predictions(copper, monkeypatch):
    # Plans count on no energy, so that constants are unknown to 10 eV; a fit knows their least squares.
    monkeypatch.setattr("kernelpot.potentials.fitting.e0_spread", lambda *_: E0_PRIOR)
    labelled = make.labelled([make.copper(k) for k in range(6)])
    narrow, copper = copper, potentials.model(30).fit(labelled)
    goal = goals.elastic_constants(copper, crystal()) + goals.vacancy_energy(copper, crystal().repeat((2, 1, 1)))
    factor = copper.fitted_.posterior.factor
    covariance = np.linalg.inv(factor.T @ factor)
    expected = goal.rows @ covariance @ goal.rows.T
    np.testing.assert_allclose(goal.predict(copper)[1], np.sqrt(np.diag(expected)), rtol=1e-5)
    assert (goals.elastic_constants(narrow, crystal()).predict(narrow)[1] <= goal.predict(copper)[1][:3] * 1.001).all()
    info = copper.information(labelled, labels="present", truncate=0.0)
    np.testing.assert_allclose(goal.std(info), goal.predict(copper)[1], rtol=1e-6)
    np.testing.assert_allclose(goal.covariance(info), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_conditioning_on_chosen_structures_shrinks_the_spread_as_the_criterion_said(monkeypatch):
    # Plans count on no energy, so that constants are unknown to 10 eV; a fit knows their least squares.
    monkeypatch.setattr("kernelpot.potentials.fitting.e0_spread", lambda *_: E0_PRIOR)
    pool = make.labelled([make.copper(k) for k in range(12)])
    space = potentials.model(20).prepare(pool)
    goal = goals.elastic_constants(space, crystal()) + goals.vacancy_energy(space, crystal().repeat((2, 1, 1)))
    choice = kp.design.select(space.information(pool, truncate=0.0), 3, criterion=goal.criterion())
    chosen = [pool[int(k)] for k in choice.indices]
    expected = goal.expected(space, chosen)
    assert choice.curve[0] == pytest.approx(np.square(goal.std() / goal.scales).sum(), rel=1e-9)
    assert choice.curve[-1] == pytest.approx(np.square(expected / goal.scales).sum(), rel=1e-6)
    assert (np.diff(choice.curve) < 0).all()
    np.testing.assert_allclose(goal.predict(space.fit(chosen))[1], expected, rtol=1e-6)


def test_predictions_are_printed_with_names_and_units_and_unpack(copper):
    goal = goals.elastic_constants(copper, crystal()) + goals.vacancy_energy(copper, crystal().repeat((2, 1, 1)))
    found = goal.predict(copper)
    values, std = found
    np.testing.assert_array_equal(values, found.values)
    np.testing.assert_array_equal(std, found[1])
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["C11", "C12", "C44"]
    assert lines[0].endswith("GPa")
    assert lines[3].endswith("eV")
    assert "\n" not in repr(found)
    assert "\n" not in repr(goal)
    assert "C11 to 1 GPa" in repr(goal)


@pytest.mark.parametrize(
    ("value", "std", "text"),
    [(161.23, 12.4, "161 ± 12"), (0.98765, 0.0996, "0.99 ± 0.10"), (476.4, 3.04, "476.4 ± 3.0"), (1.5, 0.0, "1.5 ± 0"),
     (-5123.4, 230.0, "-5123 ± 230"), (1.25, 0.031, "1.250 ± 0.031"), (2.0, np.nan, "2 ± nan")],
)  # fmt: skip
def test_figures_are_rounded_to_their_standard_deviation(value, std, text):
    found = goals.Quantities(("C11",), np.array([value]), np.array([std]), ("GPa",))
    assert str(found) == f"C11  {text} GPa"


def test_a_choice_for_the_goal_beats_any_other_of_its_size_in_its_own_criterion():
    pool = [make.copper(k) for k in range(10)]
    space = potentials.model(15).prepare(pool)
    goal = goals.bulk_modulus(space, crystal())
    info = space.information(pool, truncate=0.0)
    assert goal.criterion().name == "c"
    first = kp.design.select(info, 1, criterion=goal.criterion()).indices[0]
    stds = [goal.std(info.take([s]))[0] for s in range(len(pool))]
    assert first == np.argmin(stds)


def test_goals_add_up_and_scales_are_the_users():
    a = Goal(("x",), ("eV",), np.ones((1, 3)), np.array([2.0]))
    both = a + Goal(("y",), ("GPa",), np.eye(3)[:1], np.array([1.0]))
    assert len(both) == 2
    assert both.criterion().name == "L"
    np.testing.assert_allclose(both.std(), [np.sqrt(3.0), 1.0])
    np.testing.assert_array_equal(both.with_scales([0.5, 4.0]).scales, [0.5, 4.0])
    np.testing.assert_array_equal(both.with_scales(3.0).scales, [3.0, 3.0])
    assert str(both).splitlines()[0].split() == ["quantity", "unit", "wanted"]
    assert both.table(after=both.std()).splitlines()[2].split() == ["y", "GPa", "1", "1"]


def test_the_prior_of_an_energy_difference_scales_with_the_amplitude():
    pool = [make.copper(k) for k in range(4)]
    stds = []
    for amplitude in (1.0, 10.0):
        space = kp.SparseGP(potentials.small_soap(), kp.DotProduct(2, amplitude), n_inducing=8, noise=potentials.NOISE)
        stds.append(goals.energy_difference(space.prepare(pool), pool[0], pool[1]).std()[0])
    assert stds[1] == pytest.approx(10 * stds[0], rel=1e-9)


def test_weights_of_another_model_are_refused(copper, alloy):
    pool = [make.copper(k) for k in range(4)]
    goal = goals.total_energy(copper, pool[0])
    other = potentials.model(5).prepare(pool)
    with pytest.raises(ParameterError, match="the goal speaks about"):
        goal.std(other.information(pool))
    with pytest.raises(ParameterError, match="inducing environments or its descriptor differ"):
        goal.expected(other, pool)
    with pytest.raises(ParameterError, match="only goals of one feature map"):
        goal + goals.total_energy(alloy, pool[0])
    with pytest.raises(NotFittedError, match="never fitted"):
        goal.predict(other)
    louder = kp.SparseGP(potentials.small_soap(), kp.DotProduct(2, 3.0), n_inducing=5).prepare(pool)
    quiet = goals.total_energy(potentials.model(5).prepare(pool), pool[0])
    with pytest.raises(ParameterError, match="amplitude is 3 eV and the goal's 1"):
        quiet.expected(louder, pool)
    with pytest.raises(ParameterError, match="made at the amplitude 1 eV, the information at 3"):
        quiet.std(louder.information(pool))
    assert Origin.of(copper) == Origin.of(copper)
    unaware = Goal(("x",), ("eV",), np.ones((1, 2)), np.ones(1))
    with pytest.raises(ParameterError, match="speaks about 2 weights"):
        unaware.expected(other, pool)


def test_a_saved_model_has_the_origin_of_the_one_it_was(copper, tmp_path):
    copper.save(tmp_path / "cu.kp")
    again = kp.load(tmp_path / "cu.kp")
    goal = goals.total_energy(copper, make.copper(1))
    np.testing.assert_allclose(goal.predict(again)[0], goal.predict(copper)[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("make_goal", "error", "message"),
    [
        (lambda m: goals.elastic_constants(m, crystal("Ag")), SpeciesError, "element Ag was never seen"),
        (lambda m: goals.elastic_constants(m, crystal(), ("C17",)), ParameterError, "got 'C17'"),
        (lambda m: goals.elastic_constants(m, crystal(), ()), ParameterError, "name at least one"),
        (lambda m: goals.elastic_constants(m, crystal(), strain=0.5), ParameterError, "`strain` must lie between"),
        (lambda m: goals.elastic_constants(m, make.isolated()), DataError, "periodic in three directions"),
        (lambda m: goals.bulk_modulus(m, make.slab()), DataError, "pbc TTF"),
        (lambda m: goals.vacancy_energy(m, crystal(), site=4), ParameterError, "got 4 of 4"),
        (lambda m: goals.vacancy_energy(m, make.isolated()), DataError, "periodic in three directions"),
        (lambda m: goals.energies(m, [crystal()], [1.0, 2.0], names=["x"]), ParameterError, "1 rows of 1 numbers"),
        (lambda m: goals.barrier(m, [crystal()]), ParameterError, "at least two images"),
        (lambda m: goals.energy_difference(m, crystal(), crystal().repeat(2)), DataError, "only for one composition"),
        (lambda m: goals.forces_on(m, crystal(), []), ParameterError, "`region`"),
        (lambda m: goals.forces_on(m, crystal(), [4]), ParameterError, "atoms 0 to 3, got 4"),
        (lambda m: goals.surface_energy(m, make.isolated(), crystal()), DataError, "two cell vectors"),
        (lambda m: goals.surface_energy(m, crystal(), crystal(), axis=3), ParameterError, "`axis`"),
        (lambda m: goals.total_energy(m, crystal(), scale=-1.0), ParameterError, "`scales` must be positive"),
        (lambda m: goals.strained(crystal(), 7, 0.1), ParameterError, "1 to 6"),
    ],
)
def test_misuse_is_refused(copper, make_goal, error, message):
    with pytest.raises(error, match=message):
        make_goal(copper)


def test_vacancies_in_compounds_need_a_balance(alloy):
    with pytest.raises(DataError, match="is no multiple of"):
        goals.vacancy_energy(alloy, make.copper_gold(1))


def test_broken_positions_are_refused(copper):
    broken = crystal()
    broken.positions[1, 0] = np.nan
    with pytest.raises(DataError, match="finite"):
        goals.total_energy(copper, broken)
    with pytest.raises(DataError, match="the row of x is not finite"):
        Goal(("x",), ("eV",), np.array([[np.nan]]), np.ones(1))
    with pytest.raises(ParameterError, match="needs at least one"):
        Goal((), (), np.empty((0, 3)), np.empty(0))


def test_an_unprepared_model_is_refused():
    with pytest.raises(NotFittedError, match="call prepare"):
        goals.total_energy(potentials.model(), crystal())


def test_sums_of_energies_have_calibrated_spreads(copper):
    cell = crystal().repeat((2, 1, 1))
    a, b = make.copper(21), make.copper(22)
    goal = goals.vacancy_energy(copper, cell, site=3) + goals.energy_difference(copper, a, b)
    missing = cell.copy()
    del missing[3]
    one = copper.energy_difference([missing, cell], [1.0, -7 / 8])
    two = copper.energy_difference([a, b], [-1.0, 1.0])
    values, std = goal.predict(copper, spread="calibrated")
    np.testing.assert_allclose(values, goal.predict(copper)[0], atol=1e-8)
    np.testing.assert_allclose(values, [one.value, two.value], atol=1e-8)
    np.testing.assert_allclose(std, [one.std, two.std], rtol=1e-6)
    assert (goal.predict(copper, spread="latent")[1] >= goal.predict(copper)[1] * (1 - 1e-9)).all()
    mixed = goal + goals.bulk_modulus(copper, crystal())
    with pytest.raises(ParameterError, match="sums of energies"):
        mixed.predict(copper, spread="label")
    with pytest.raises(ParameterError, match="spread"):
        goal.predict(copper, spread="bare")
