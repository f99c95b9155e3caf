"""Models that change after the fit equal models fitted again."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

import kernelpot as kp
from kernelpot.errors import LabelError, NotFittedError, ParameterError
from kernelpot.features.kernel_map import KernelMap
from kernelpot.linalg.factor import downdated, triangle
from tests import structures as make
from tests.potentials import NOISE, small_soap

ALLOY = make.copper_gold_set(14)
MOLECULES = make.labelled([make.ethanol(k) for k in range(12)])
CASES = {
    "soap": (lambda: kp.SparseGP(small_soap(), n_inducing=14, noise=NOISE), ALLOY, make.slab(3)),
    "sum on ZBL": (
        lambda: kp.SparseGP([small_soap(), kp.TwoBody(4.0)], n_inducing=10, noise=NOISE, baseline=kp.ZBL()),
        ALLOY, make.slab(3),
    ),
    "molecules": (lambda: kp.SparseGP(small_soap(), n_inducing=20, noise=NOISE), MOLECULES, make.ethanol(40)),
    "linear": (lambda: kp.potentials.LinearModel(small_soap(), noise=NOISE), ALLOY, make.slab(3)),
}  # fmt: skip


def same(one: kp.SparseGP, two: kp.SparseGP, atoms, tolerance: float = 1e-8) -> None:
    a, b = one.predict([atoms]), two.predict([atoms])
    np.testing.assert_allclose(a.energy, b.energy, rtol=tolerance)
    np.testing.assert_allclose(a.forces[0], b.forces[0], atol=tolerance * np.abs(a.forces[0]).max())
    np.testing.assert_allclose(a.latent.energy_std, b.latent.energy_std, rtol=max(tolerance, 1e-6))
    np.testing.assert_allclose(a.latent.forces_std[0], b.latent.forces_std[0], rtol=max(tolerance, 1e-6))


@pytest.mark.parametrize("name", CASES)
def test_removal_equals_a_fit_without(name):
    make_model, train, test = CASES[name]
    prepared = make_model().prepare(train)
    features = prepared.features_
    fewer = prepared.fit(train).remove(train[-3:])
    again = make_model().prepare(train)
    again.features_ = features
    again.fit(train[:-3])
    same(fewer, again, test)
    assert fewer.fitted_.n_labels == again.fitted_.n_labels
    np.testing.assert_allclose(list(fewer.e0_.values()), list(again.e0_.values()), rtol=1e-7)
    grades = (model.predict([test]).extrapolation for model in (fewer, again))
    assert all(np.isfinite(grade[0]).all() for grade in grades)


@pytest.mark.parametrize("name", CASES)
def test_what_is_added_can_be_removed(name):
    make_model, train, test = CASES[name]
    model = make_model().prepare(train).fit(train[:-4])
    same(model.condition(train[-4:]).remove(train[-4:]), model, test)


def test_removal_is_refused_where_digits_would_be_lost():
    noise = kp.Noise(energy=1e-7, forces=1e-6, stress=1e-6)
    model = kp.SparseGP(small_soap(), n_inducing=14, noise=noise).fit(ALLOY[:3])
    with pytest.raises(ParameterError, match="cannot be removed"):
        model.remove(ALLOY[:2])


def test_strangers_are_not_removed():
    model = kp.SparseGP(small_soap(), n_inducing=14, noise=NOISE).fit(ALLOY[:6])
    with pytest.raises(ParameterError, match="cannot be removed"):
        model.remove(make.labelled([make.slab(3)]))
    with pytest.raises(LabelError, match="more labels"):
        model.remove(ALLOY[:6] + ALLOY[:3])
    with pytest.raises(NotFittedError):
        kp.SparseGP(small_soap(), n_inducing=4).remove(ALLOY)


@pytest.mark.parametrize("name", ["soap", "sum on ZBL"])
def test_more_inducing_environments_equal_a_fit_with_them(name):
    make_model, train, test = CASES[name]
    model = make_model().fit(train)
    more = model.add_inducing(train, 6)
    assert model.n_inducing_ < more.n_inducing_ <= model.n_inducing_ + 6
    again = make_model().prepare(train)
    again.features_ = more.features_
    same(more, again.fit(train), test)
    first = model.fitted_.features if name == "soap" else model.fitted_.features.terms[0]
    grown = more.fitted_.features if name == "soap" else more.fitted_.features.terms[0]
    for z, larger in zip(first.inducing, grown.inducing, strict=True):
        np.testing.assert_array_equal(z, larger[: len(z)])


def test_nothing_can_be_added_to_a_linear_model():
    model = kp.potentials.LinearModel(small_soap(), noise=NOISE).fit(ALLOY)
    with pytest.raises(ParameterError, match="no term with inducing"):
        model.add_inducing(ALLOY, 3)
    with pytest.raises(ParameterError, match="`n` must be"):
        kp.SparseGP(small_soap(), n_inducing=6, noise=NOISE).fit(ALLOY).add_inducing(ALLOY, 0)


def test_downdating_a_triangle():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 7))
    np.testing.assert_allclose(downdated(triangle(rows), rows[30:]), triangle(rows[:30]), atol=1e-12)
    with pytest.raises(np.linalg.LinAlgError, match="share"):
        downdated(triangle(rows), 2.0 * rows)


def all_electron(structures):
    """Move energies to where all-electron codes have them: -45,000 eV for Cu, -535,000 eV for Au."""
    result = []
    for atoms in structures:
        copy, values = atoms.copy(), dict(atoms.calc.results)
        values["energy"] += float(np.where(atoms.numbers == 79, -535_000.0, -45_000.0).sum())
        copy.calc = SinglePointCalculator(copy, **values)
        result.append(copy)
    return result


def test_removal_keeps_its_digits_on_the_scale_of_all_electron_energies():
    train = all_electron(ALLOY)
    prepared = kp.SparseGP(small_soap(), n_inducing=14, noise=NOISE).prepare(train)
    features = prepared.features_
    fewer = prepared.fit(train).remove([train[1], train[4]])
    again = kp.SparseGP(small_soap(), n_inducing=14, noise=NOISE)
    again.features_ = features
    again.fit([atoms for k, atoms in enumerate(train) if k not in (1, 4)])
    for z, energy in again.e0_.items():
        assert fewer.e0_[z] == pytest.approx(energy, abs=1e-8)
    test = make.copper_gold(77)
    a, b = fewer.predict([test]), again.predict([test])
    np.testing.assert_allclose(a.forces[0], b.forces[0], atol=1e-8)
    np.testing.assert_allclose(a.energy, b.energy, atol=1e-8)


def test_added_environments_are_whitened_with_the_models_own_tolerance():
    model = kp.SparseGP(small_soap(), n_inducing=12, noise=NOISE, tolerance=1e-3).fit(ALLOY)
    more = model.add_inducing(ALLOY, 4).fitted_.features
    fresh = KernelMap.from_inducing(more.descriptor, more.kernel, more.inducing, 1e-3)
    loose = KernelMap.from_inducing(more.descriptor, more.kernel, more.inducing)
    assert more.n_weights == fresh.n_weights < loose.n_weights
