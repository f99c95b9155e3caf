"""Potentials drawn from the posterior: their spread is the posterior's, and they run as calculators."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.verlet import VelocityVerlet
from scipy import stats

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.errors import NotFittedError, ParameterError, SpeciesError
from kernelpot.features.feature_map import E0_PRIOR
from tests import potentials
from tests import structures as make
from tests.features.test_sum_map import sum_model

TEST = [make.copper_gold(70), make.copper(71), make.slab(72)]


@pytest.fixture(scope="module")
def alloy():
    return potentials.copper_gold()


def seen(model, structures):
    """The part of the energies' covariance that weights carry."""
    rows = model.linear_rows(structures, ("energy",)).energy
    factor = model.fitted_.posterior.factor
    return rows @ np.linalg.solve(factor.T @ factor, rows.T)


def test_the_spread_of_draws_is_the_covariance_of_the_weights(alloy):
    n = 3000
    rows = alloy.linear_rows(TEST, ("energy",)).energy
    draws = alloy.sample(n, seed=3, scale=1.0, residual=False)
    mean = alloy.fitted_.posterior.mean
    energies = np.array([rows @ (draw.state.posterior.mean - mean) for draw in draws])
    whitened = np.linalg.solve(np.linalg.cholesky(seen(alloy, TEST)), energies.T)
    # Squared Mahalanobis distances add up to χ² of 3n degrees of freedom; coordinates are standard normal.
    total = np.sum(whitened**2)
    assert stats.chi2(3 * n).sf(total) > 1e-3
    assert stats.chi2(3 * n).cdf(total) > 1e-3
    np.testing.assert_allclose(whitened @ whitened.T / n, np.eye(3), atol=4.5 * np.sqrt(2 / n))
    np.testing.assert_allclose(whitened.mean(axis=1), 0.0, atol=4.5 / np.sqrt(n))


def test_a_draw_is_linear_in_its_random_numbers(alloy):
    # One draw for each unit vector in place of ξ gives R⁻¹ column by column, and with it the exact covariance.
    d = len(alloy.fitted_.posterior.target)
    rows = alloy.linear_rows(TEST, ("energy",)).energy
    units_ = []
    for k in range(d):

        class Unit:
            @staticmethod
            def standard_normal(size, k=k):
                return np.eye(size)[k] if size else np.empty(0)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kernelpot.potentials.joint.np.random.default_rng", lambda entropy, unit=Unit: unit)
            (draw,) = alloy.sample(1, scale=1.0)
        units_.append(rows @ (draw.state.posterior.mean - alloy.fitted_.posterior.mean))
    found = np.array(units_).T @ np.array(units_)
    np.testing.assert_allclose(found, seen(alloy, TEST), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("make_model", [potentials.copper_gold, lambda: sum_model().fit(make.copper_gold_set(6))])
def test_predictions_of_a_draw_are_its_rows_times_its_weights(make_model):
    model = make_model()
    draw = model.sample(2, seed=5, residual=False)[1]
    rows = model.linear_rows(TEST)
    w, n_weights = draw.state.posterior.mean, model.fitted_.features.n_weights
    constants = rows.energy[:, n_weights:] / E0_PRIOR @ model.fitted_.e0_centre
    prediction = draw.predict(TEST)
    np.testing.assert_allclose(prediction.energy, rows.energy @ w + constants, rtol=1e-8)
    for found, block in zip(prediction.forces, rows.forces, strict=True):
        np.testing.assert_allclose(found.ravel(), block @ w, atol=1e-6)
    np.testing.assert_allclose(prediction.stress[:2], rows.stress[:2] @ w, atol=1e-7)
    assert not np.allclose(prediction.energy, model.predict(TEST, uncertainty=False).energy)


class Fixed:
    """Gives a fixed vector in place of random numbers."""

    def __init__(self, vector):
        self.vector = vector

    def standard_normal(self, size):
        result = np.zeros(size)
        result[: len(self.vector)] = self.vector
        return result


@pytest.mark.parametrize("zeta", [1, 2])
def test_a_draw_of_the_residual_has_the_covariance_that_features_leave_out(zeta):
    # Linear in its random numbers: one unit vector after the other gives the covariance 1ᵀ(K - Q)1 without chance.
    model = potentials.model(8, zeta).fit(make.labelled([make.copper(k) for k in range(4)]))
    features, structures = model.fitted_.features, [make.copper(9), make.tiny_cell(3), make.copper(10)]
    f = features.inducing[0].shape[1]
    described = features.describe(Batch.from_structures(structures, features.cutoff))
    found = []
    for k in range(f**zeta):
        unit = np.zeros(f**zeta)
        unit[k] = 1.0
        form = features.drawn_form(np.zeros(features.n_columns), Fixed(unit), 0.7)
        found.append(described.batch.sum_per_structure(form.local_and_pairs(described)[0]))
    white = features.whiten(features.rows(described, ()).energy)
    expected = features.energy_residual(described, described, (white, white))
    np.testing.assert_allclose(np.array(found).T @ np.array(found), 0.49 * expected, rtol=1e-8, atol=1e-10)


def test_a_kernel_without_a_finite_form_leaves_the_residual_out():
    model = potentials.copper_gold(3)
    one, two = (model.sample(1, residual=r)[0].predict(TEST).energy for r in (True, False))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("make_model", [potentials.copper_gold, lambda: two_terms().fit(make.copper_gold_set(6))])
def test_draws_spread_as_the_whole_posterior_says(make_model):
    model, n = make_model(), 400
    draws = model.sample(n, seed=11, scale=1.0)
    batch = Batch.from_structures(TEST, model.cutoff_)
    described = model.fitted_.features.describe(batch)
    mean = model.fitted_.mean_described(described)
    drawn = [draw.state.mean_described(described) for draw in draws]
    off = np.array([d.energy for d in drawn]) - mean.energy
    root = np.linalg.cholesky(model.energy_covariance(TEST, spread="latent"))
    total = np.sum(np.linalg.solve(root, off.T) ** 2)
    assert 1e-3 < stats.chi2(off.size).sf(total) < 1 - 1e-3
    # Force components, one by one; neighbours are correlated, so that only each is judged.
    squares = np.mean((np.array([d.forces for d in drawn]) - mean.forces) ** 2, axis=0)
    expected = np.concatenate(model.predict(TEST).latent.forces_std) ** 2
    np.testing.assert_allclose(squares / expected, 1.0, atol=5 * np.sqrt(2 / n))
    assert np.mean(squares) == pytest.approx(np.mean(expected), rel=0.15)


def two_terms():
    """Two SOAP terms of zeta 2 and 1, and pairs."""
    terms = [
        kp.Term(potentials.small_soap(), kp.DotProduct(2, 0.5)),
        kp.TwoBody(cutoff=4.5, length=0.8, amplitude=0.7),
        kp.Term(potentials.small_soap(2.9), kp.DotProduct(1, 0.5)),
    ]
    return kp.SparseGP(terms, n_inducing=16, noise=potentials.NOISE)


def test_forces_of_a_draw_are_derivatives_of_its_energy(alloy):
    (draw,) = alloy.sample(1, seed=8)
    atoms = make.slab(4)
    forces = draw.predict([atoms]).forces[0]
    for atom, axis in ((0, 0), (3, 2), (5, 1)):
        slopes = []
        for h in (1e-2, 1e-3):
            plus, minus = atoms.copy(), atoms.copy()
            plus.positions[atom, axis] += h
            minus.positions[atom, axis] -= h
            e = draw.predict([plus, minus]).energy
            slopes.append(-(e[0] - e[1]) / (2 * h))
        scale = np.abs(forces).max()
        assert abs(slopes[1] - forces[atom, axis]) < 1e-4 * scale
        assert abs(slopes[1] - forces[atom, axis]) <= abs(slopes[0] - forces[atom, axis]) + 1e-6 * scale


def test_draws_are_repeatable_and_do_not_depend_on_their_number(alloy):
    three, five = alloy.sample(3, seed=2), alloy.sample(5, seed=2)
    other = alloy.sample(3, seed=4)
    for k in range(3):
        one, two = three[k].predict(TEST).energy, five[k].predict(TEST).energy
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, other[k].predict(TEST).energy)
    assert "number=1" in repr(three[1])


def test_the_scale_widens_draws(alloy):
    mean = alloy.predict(TEST, uncertainty=False).energy
    off = {
        s: alloy.sample(1, seed=1, scale=s)[0].predict(TEST).energy - mean for s in (0, 1.0, 2.0, "forces", "energy")
    }
    np.testing.assert_allclose(off[0], 0.0, atol=1e-9)
    np.testing.assert_allclose(off[2.0], 2 * off[1.0], rtol=1e-6, atol=1e-9)
    for kind in ("forces", "energy"):
        np.testing.assert_allclose(off[kind], alloy.calibration_[kind] * off[1.0], rtol=1e-6, atol=1e-9)


def test_a_draw_runs_molecular_dynamics_and_keeps_its_energy(alloy):
    atoms = make.copper_gold(5).repeat((2, 1, 1))
    atoms.calc = kp.Calculator(alloy.sample(1, seed=6)[0])
    assert atoms.get_potential_energy() == pytest.approx(alloy.sample(1, seed=6)[0].predict([atoms]).energy[0])
    atoms.set_velocities(np.random.default_rng(0).normal(scale=0.005, size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
    before = atoms.get_total_energy()
    dynamics.run(20)
    assert atoms.get_total_energy() == pytest.approx(before, abs=2e-3 * len(atoms))


def test_a_draw_has_no_standard_deviations(alloy):
    (draw,) = alloy.sample(1)
    with pytest.raises(ParameterError, match="no standard deviations"):
        draw.predict(TEST, uncertainty=True)
    calc = kp.Calculator(draw)
    for name in ("energy_std", "energies_std", "forces_std", "extrapolation"):
        with pytest.raises(PropertyNotImplementedError, match="drawn from"):
            calc.get_property(name, TEST[0])
    with pytest.raises(SpeciesError, match="Si"):
        draw.predict([make.silicon(0)])


def test_wrong_arguments_are_named(alloy):
    with pytest.raises(NotFittedError, match="never fitted"):
        potentials.model().sample(1)
    for settings in ({"n": 0}, {"n": 1.5}, {"n": True}, {"n": 1, "seed": -1}, {"n": 1, "scale": "charge"},
                     {"n": 1, "scale": -1.0}, {"n": 1, "scale": np.inf}, {"n": 1, "scale": None}):  # fmt: skip
        with pytest.raises(ParameterError, match=r"`n`|`seed`|`scale`"):
            alloy.sample(**settings)
