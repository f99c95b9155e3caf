"""Linear models: Bayesian regression on descriptor vectors, against scikit-learn and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.errors import ParameterError
from kernelpot.features.linear_map import LinearMap
from tests import structures as make
from tests.potentials import NOISE, small_soap


@pytest.fixture(scope="module", params=[False, True], ids=["vectors", "unit"])
def model(request) -> kp.potentials.LinearModel:
    return kp.potentials.LinearModel(small_soap(), normalise=request.param, noise=NOISE).fit(make.copper_gold_set(8))


def test_energies_alone_are_ridge_regression():
    train = make.labelled([make.copper(k) for k in range(10)], kinds=("energy",))
    test = [make.copper(k) for k in range(40, 44)]
    noise = kp.Noise(energy=0.01, forces=None, stress=None)
    model = kp.potentials.LinearModel(small_soap(), amplitude=0.5, noise=noise).fit(train)
    features = model.fitted_.features

    def design(structures):
        batch = Batch.from_structures(structures, features.cutoff)
        x = features.descriptor.environments(batch).vectors / features.lengths[0]
        sums = np.add.reduceat(x, batch.offsets[:-1], axis=0)
        # Prior standard deviations 0.5 and 10 eV, noise 0.01 eV/atom.
        return np.column_stack([0.5 * sums, 10.0 * batch.sizes]) / batch.sizes[:, None] / 0.01

    e = np.array([a.get_potential_energy() / len(a) for a in train])
    e0 = model.fitted_.e0_centre[0]
    ridge = Ridge(alpha=1.0, fit_intercept=False, solver="svd").fit(design(train), (e - e0) / 0.01)
    expected = 0.01 * ridge.predict(design(test)) + e0
    found = model.predict(test, uncertainty=False).energy / [len(a) for a in test]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("step", [1e-2, 3e-3])
def test_forces_are_derivatives(model, step):
    atoms = make.copper_gold(21)
    forces = model.predict([atoms], uncertainty=False).forces[0]

    def energy(h: float) -> float:
        moved = atoms.copy()
        moved.positions[2, 1] += h
        return float(model.predict([moved], uncertainty=False).energy[0])

    slope = (8 * (energy(step / 2) - energy(-step / 2)) - (energy(step) - energy(-step))) / (6 * step)
    assert -slope == pytest.approx(forces[2, 1], abs=2e-5)


def test_rows_are_the_derivatives_of_the_form(model):
    features = model.fitted_.features
    batch = Batch.from_structures([make.copper_gold(3), make.slab(1)], features.cutoff)
    described = features.describe(batch)
    rows = features.rows(described, ("forces", "stress"))
    w = np.random.default_rng(0).normal(size=features.n_columns)
    local, pairs = features.form(w).local_and_pairs(described)
    np.testing.assert_allclose(rows.energy @ w, batch.sum_per_structure(local), rtol=1e-9)
    forces = np.zeros((batch.n_atoms, 3))
    np.add.at(forces, batch.first, pairs)
    np.subtract.at(forces, batch.second, pairs)
    np.testing.assert_allclose(rows.forces @ w, forces.ravel(), atol=1e-9 * np.abs(forces).max())
    virial = np.zeros((len(batch), 3, 3))
    np.add.at(virial, batch.structure[batch.first], batch.vectors[:, :, None] * pairs[:, None, :])
    virial = 0.5 * (virial + virial.transpose(0, 2, 1)) / batch.volumes[:, None, None]
    voigt = virial[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    np.testing.assert_allclose(rows.stress @ w, voigt.ravel(), atol=1e-9 * np.abs(voigt).max())


def test_a_linear_term_needs_no_inducing_environments_and_adds_to_a_kernel():
    train = make.copper_gold_set(8)
    terms = [kp.Term(small_soap(), kp.potentials.Linear(0.5)), kp.TwoBody(cutoff=4.0), small_soap()]
    model = kp.SparseGP(terms, n_inducing=9, noise=NOISE).fit(train)
    assert isinstance(model.fitted_.features.terms[0], LinearMap)
    assert model.n_inducing_ == 9
    alone = kp.SparseGP(small_soap(), n_inducing=9, noise=NOISE).fit(train)
    test = make.labelled([make.copper_gold(k) for k in range(60, 66)])
    assert kp.evaluate(model, test).overall["forces"].rmse < kp.evaluate(alone, test).overall["forces"].rmse


def test_a_linear_model_survives_its_file(model, tmp_path):
    model.save(tmp_path / "linear.kp")
    again = kp.load(tmp_path / "linear.kp")
    atoms = make.slab(5)
    one, two = model.predict([atoms]), again.predict([atoms])
    np.testing.assert_array_equal(one.forces[0], two.forces[0])
    np.testing.assert_array_equal(one.energy_std, two.energy_std)


def test_an_isolated_atom_and_a_crystal_far_away_look_strange(model):
    near = model.predict([make.copper_gold(2)]).latent.energy_std[0]
    squeezed = make.copper_gold(2)
    squeezed.set_cell(0.8 * squeezed.cell.array, scale_atoms=True)
    assert model.predict([squeezed]).latent.energy_std[0] > near


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: kp.potentials.Linear(-1.0), "`amplitude`"),
        (lambda: kp.potentials.Linear(normalise="yes"), "`normalise`"),
        (lambda: kp.Term(small_soap(), kp.potentials.Linear(), n_inducing=3), "takes no inducing"),
        (lambda: kp.potentials.LinearModel([]), "empty list"),
    ],
)
def test_bad_input(make_it, message):
    with pytest.raises(ParameterError, match=message):
        make_it()
