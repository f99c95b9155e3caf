"""Kernels whose centres' elements are coupled: limits, positive definiteness, derivatives, devices, files, draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.errors import ParameterError
from kernelpot.features.inducing import choose_inducing
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.prior import energy_covariance, force_covariance, prior, stress_covariance
from kernelpot.features.torch import on_device
from kernelpot.kernels import centre_coupling
from tests import potentials
from tests import structures as make

KINDS = ("energy", "forces", "stress")
HALF = kp.elements.ElementChannels.given({"Cu": [1.0, 0.0], "Au": [0.5, 0.75**0.5]})
SAME = kp.elements.ElementChannels.given({"Cu": [1.0], "Au": [2.0]})
APART = kp.elements.ElementChannels.given({"Cu": [0.0, 3.0], "Au": [1.0, 0.0]})
TEST = [make.copper_gold(70), make.slab(71), make.copper(72), make.copper_gold(73).repeat((2, 1, 1))]


def model_of(centres, zeta=2, n=16, noise=None):
    kernel = kp.DotProduct(zeta, 1.5, centres=centres)
    return kp.SparseGP(
        potentials.small_soap(), kernel, n_inducing=n, noise=noise or kp.Noise(0.01, 0.1, 0.01), tolerance=1e-13
    )


@pytest.fixture(scope="module")
def train():
    return make.copper_gold_set(6)


@pytest.fixture(scope="module")
def coupled(train):
    return model_of(HALF).fit(train)


def test_elements_apart_are_what_stood_before(train):
    plain, apart = model_of(None).fit(train), model_of(APART).fit(train)
    np.testing.assert_array_equal(centre_coupling(apart.kernel, apart.species_), np.eye(2))
    one, two = plain.predict(TEST), apart.predict(TEST)
    np.testing.assert_allclose(two.energy, one.energy, atol=1e-7)
    np.testing.assert_allclose(np.concatenate(two.forces), np.concatenate(one.forces), atol=1e-7)
    np.testing.assert_allclose(two.latent.energy_std, one.latent.energy_std, rtol=1e-5)
    np.testing.assert_allclose(
        np.concatenate(two.latent.forces_std), np.concatenate(one.latent.forces_std), rtol=1e-4, atol=1e-7
    )


def test_one_species_has_nothing_to_couple():
    copper = make.labelled([make.copper(k) for k in range(3)])
    found, plain = model_of(HALF).fit(copper).predict(copper), model_of(None).fit(copper).predict(copper)
    np.testing.assert_array_equal(found.energy, plain.energy)


def test_elements_alike_are_compared_without_looking_at_the_centre(train):
    features = model_of(SAME).prepare(train).features_
    batch = Batch.from_structures(TEST, features.cutoff)
    described = features.describe(batch)
    every = np.concatenate(features.inducing)
    expected = np.add.reduceat((described.x @ every.T) ** 2, batch.offsets[:-1], axis=0)
    np.testing.assert_allclose(features.rows(described, ()).energy, expected, rtol=1e-12)


@pytest.mark.parametrize("zeta", [1, 2, 3])
def test_every_environment_inducing_is_the_dense_gaussian_process(zeta):
    train = make.copper_gold_set(6, kinds=["energy"])
    model = model_of(HALF, zeta, 24, kp.Noise(0.01, None)).fit(train)
    features, e0 = model.fitted_.features, model.fitted_.e0_std

    def covariance(left, right):
        a, b = (features.describe(Batch.from_structures(part, features.cutoff)) for part in (left, right))
        k = features.coupling[np.ix_(a.species, b.species)] * (a.x @ b.x.T) ** zeta * model.amplitude_**2
        total = np.add.reduceat(np.add.reduceat(k, a.batch.offsets[:-1], axis=0), b.batch.offsets[:-1], axis=1)
        total += e0**2 * a.batch.counts(features.species) @ b.batch.counts(features.species).T
        return total / a.batch.sizes[:, None] / b.batch.sizes

    def per_atom(structures, energies):
        batch = Batch.from_structures(structures, features.cutoff)
        return (energies - batch.counts(features.species) @ model.fitted_.e0_centre) / batch.sizes

    y = per_atom(train, np.array([atoms.get_potential_energy() for atoms in train]))
    k = covariance(train, train) + 0.01**2 * np.eye(len(train))
    cross = covariance(TEST, train)
    prediction = model.predict(TEST)
    np.testing.assert_allclose(per_atom(TEST, prediction.energy), cross @ np.linalg.solve(k, y), rtol=1e-5, atol=1e-6)
    variance = np.diag(covariance(TEST, TEST) - cross @ np.linalg.solve(k, cross.T))
    sizes = np.array([len(atoms) for atoms in TEST])
    np.testing.assert_allclose(prediction.latent.energy_std / sizes, np.sqrt(variance), rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(0, 99), st.integers(1, 4))
def test_kernels_are_positive_and_features_carry_no_more_than_them(n, seed, zeta):
    """Any channels, also those that make elements opposites: K stays positive, and so does what is left of it."""
    vectors = np.random.default_rng(seed).standard_normal((2, n))
    centres = kp.elements.ElementChannels.given({"Cu": vectors[0].tolist(), "Au": vectors[1].tolist()})
    if n > 2:
        centres = kp.elements.ElementChannels.random(2, seed)
    soap = potentials.small_soap().with_species((29, 79))
    structures = make.copper_gold_set(2)
    inducing = choose_inducing(soap, structures, 6, method="random", seed=0)
    features = KernelMap.from_inducing(soap, kp.DotProduct(zeta, centres=centres), inducing)
    described = features.describe(Batch.from_structures(structures, soap.cutoff))
    kappa = centre_coupling(features.kernel, (29, 79))
    assert np.allclose(np.diag(kappa), 1.0)
    k = kappa[np.ix_(described.species, described.species)] * (described.x @ described.x.T) ** zeta
    assert np.linalg.eigvalsh(k)[0] > -1e-9
    made = features.rows(described, KINDS)
    for kind in KINDS:
        white = features.whiten(getattr(made, kind))
        known = prior(features.kernel, described, kind, features.coupling)
        assert (np.sum(white**2, axis=1) <= known * (1 + 1e-6) + 1e-8).all()


def test_priors_of_labels_are_the_diagonals_of_their_covariances(coupled):
    features = coupled.fitted_.features
    described = features.describe(Batch.from_structures(TEST[:1], features.cutoff))
    kernel, kappa = features.kernel, features.coupling
    energy = energy_covariance(kernel, described, described, kappa)
    np.testing.assert_allclose(prior(kernel, described, "energy", kappa), np.diag(energy), rtol=1e-10)
    forces = prior(kernel, described, "forces", kappa).reshape(-1, 3)
    for atom in range(len(TEST[0])):
        own = force_covariance(kernel, described, atom, kappa)
        np.testing.assert_allclose(forces[atom], np.diag(own), rtol=1e-8, atol=1e-12)
    stress = stress_covariance(kernel, described, 0, kappa)
    np.testing.assert_allclose(prior(kernel, described, "stress", kappa), np.diag(stress), rtol=1e-8)


def test_forces_and_rows_are_slopes_of_energies(coupled):
    features = coupled.fitted_.features
    atoms = TEST[0]
    made = features.rows(features.describe(Batch.from_structures([atoms], features.cutoff)), KINDS)
    predicted = coupled.predict([atoms], uncertainty=False).forces[0]
    found, rows = {}, {}
    for step in (2e-3, 1e-3):
        ends, energies = [], []
        for sign in (-1.0, 1.0):
            moved = atoms.copy()
            moved.positions[1, 2] += sign * step
            part = features.describe(Batch.from_structures([moved], features.cutoff))
            ends.append(features.rows(part, ()).energy[0])
            energies.append(coupled.predict([moved], uncertainty=False).energy[0])
        rows[step] = -(ends[1] - ends[0]) / (2 * step)
        found[step] = -(energies[1] - energies[0]) / (2 * step)
    # Richardson's extrapolation of two steps.
    assert (4 * found[1e-3] - found[2e-3]) / 3 == pytest.approx(predicted[1, 2], abs=1e-6)
    np.testing.assert_allclose((4 * rows[1e-3] - rows[2e-3]) / 3, made.forces.reshape(-1, 3, 16)[1, 2], atol=1e-7)


@pytest.mark.parametrize("zeta", [2, 3])
def test_devices_give_the_same(train, zeta):
    model = model_of(HALF, zeta).fit(train)
    there = model.to("cpu")
    one, two = model.predict(TEST), there.predict(TEST)
    np.testing.assert_allclose(two.energy, one.energy, atol=1e-9)
    np.testing.assert_allclose(np.concatenate(two.forces), np.concatenate(one.forces), atol=1e-9)
    np.testing.assert_allclose(two.latent.energy_std, one.latent.energy_std, rtol=1e-5, atol=1e-7)
    for part in ("forces_std", "local_energy_std"):
        found, known = (np.concatenate(getattr(prediction.latent, part)) for prediction in (two, one))
        np.testing.assert_allclose(found, known, rtol=1e-5, atol=1e-7)
    features = model.fitted_.features
    batch = Batch.from_structures(TEST[:2], features.cutoff)
    on = on_device(features, "cpu")
    for kind in KINDS:
        here = getattr(features.rows(features.describe(batch), KINDS), kind)
        np.testing.assert_allclose(getattr(on.rows(on.describe(batch), KINDS), kind), here, atol=1e-9)


def test_files_hold_the_coupling(coupled, tmp_path):
    coupled.save(tmp_path / "model.kp")
    again = kp.load(tmp_path / "model.kp")
    np.testing.assert_array_equal(again.fitted_.features.coupling, coupled.fitted_.features.coupling)
    one, two = coupled.predict(TEST), again.predict(TEST)
    np.testing.assert_array_equal(two.energy, one.energy)
    np.testing.assert_array_equal(two.latent.energy_std, one.latent.energy_std)


@pytest.mark.parametrize("zeta", [1, 2])
def test_draws_of_what_is_left_out_have_its_covariance(zeta):
    class Unit:
        def __init__(self, k):
            self.k = k

        def standard_normal(self, size):
            result = np.zeros(size)
            if 0 <= self.k < result.size:
                result[np.unravel_index(self.k, size)] = 1.0
            self.k -= result.size
            return result

    structures = make.copper_gold_set(2)
    soap = kp.SOAP(cutoff=3.2, n_max=1, l_max=1, species=(29, 79), channels=None)
    inducing = choose_inducing(soap, structures, 4, method="random", seed=0)
    features = KernelMap.from_inducing(soap, kp.DotProduct(zeta, centres=HALF), inducing)
    described = features.describe(Batch.from_structures(structures, soap.cutoff))
    found = []
    for k in range(2 * soap.n_features**zeta):
        form = features.drawn_form(np.zeros(features.n_columns), Unit(k), 1.0)
        found.append(described.batch.sum_per_structure(form.local_and_pairs(described)[0]))
    white = features.whiten(features.rows(described, ()).energy)
    expected = features.energy_residual(described, described, (white, white))
    np.testing.assert_allclose(np.array(found).T @ np.array(found), expected, atol=1e-8 * np.abs(expected).max())


def test_structures_chosen_in_the_coupled_space_tell_what_the_fit_then_knows(train, monkeypatch):
    monkeypatch.setattr("kernelpot.potentials.fitting.e0_spread", lambda *_: 10.0)
    space = model_of(HALF).prepare(train)
    choice = kp.design.select(space.information(train), 3)
    fitted = space.fit([train[int(k)] for k in choice.indices])
    rows = space.information([train[int(k)] for k in choice.indices], labels="present", truncate=0.0).rows
    factor = fitted.fitted_.posterior.factor
    expected = np.eye(len(factor)) + rows.T @ rows
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(factor.T @ factor / scale, expected / scale, atol=1e-7)
    assert set(space.weights_of("Cu")) | set(space.weights_of("Au")) <= set(range(len(factor)))


def test_leaving_structures_out_and_labels_added_later_work(coupled, train):
    prediction, _ = coupled.left_out(folds=3)
    assert np.isfinite(prediction.energy).all()
    more = coupled.condition(make.copper_gold_set(8)[6:])
    again = model_of(HALF).prepare(train).fit(make.copper_gold_set(8))
    np.testing.assert_allclose(more.predict(TEST).energy, again.predict(TEST).energy, atol=1e-5)


def test_where_centres_cannot_be_coupled_it_is_refused():
    with pytest.raises(ParameterError, match="centres"):
        kp.ForceRidge(potentials.small_soap(), kp.DotProduct(2, centres=HALF))
    with pytest.raises(ParameterError, match="centres"):
        kp.StructureKernel(potentials.small_soap(), kernel=kp.DotProduct(2, centres=HALF)).check()
