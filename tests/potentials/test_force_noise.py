"""Noises of kernel fits to energies and forces, chosen by left-out errors."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from hypothesis import given
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.data.labels import resolve
from kernelpot.errors import ParameterError
from kernelpot.features.force_kernel import DerivativeMap
from kernelpot.potentials.force import force_ridge
from kernelpot.potentials.force.force_ridge import descend
from kernelpot.potentials.force.force_system import LabelSystem
from kernelpot.run import one_blas
from tests.structures import copper_gold_set, ethanol, labelled

SOAP = kp.SOAP(cutoff=3.5, n_max=3, l_max=2, sigma=0.5)


def molecules(n=8, kinds=("energy", "forces")):
    return labelled([ethanol(k) for k in range(n)], kinds, EMT())


def system_of(structures, kinds=("energy", "forces")):
    labels = resolve(structures)
    species = tuple(sorted({int(z) for atoms in structures for z in atoms.numbers}))
    term = DerivativeMap.from_structures(SOAP.with_species(species), kp.Gaussian(0.5), structures, 1e-5)
    return LabelSystem.of([term], structures, labels, kinds)


def mixed():
    """Structures of two sizes, of which some lack a kind of label."""
    structures = copper_gold_set(5, kinds=("energy", "forces"))
    structures[1].calc.results.pop("forces")
    structures[3].calc.results.pop("energy")
    return structures


@pytest.mark.parametrize("structures", [molecules(4), mixed()], ids=["molecules", "labels missing"])
@one_blas()
def test_left_out_errors_are_those_of_conditioning_on_all_others(structures):
    found = system_of(structures)
    noise = kp.Noise(energy=2e-3, forces=3e-2)
    errors = found.left_out(noise)
    covariance = found.prior + np.diag(found.variance(noise))
    error, variance = np.empty(len(covariance)), np.empty(len(covariance))
    for s in np.unique(found.structure):
        own, rest = np.flatnonzero(found.structure == s), np.flatnonzero(found.structure != s)
        weights = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[np.ix_(rest, own)])
        error[own] = found.targets[own] - found.targets[rest] @ weights
        variance[own] = np.diag(covariance)[own] - np.sum(covariance[np.ix_(rest, own)] * weights, axis=0)
    n = found.layout.n_energies
    atoms = np.array([len(structures[s]) for s in found.structure[:n]])
    np.testing.assert_allclose(errors["energy"].error, error[:n] / atoms, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(errors["forces"].error, error[n:], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(errors["energy"].variance, variance[:n] / atoms**2, rtol=1e-5)
    np.testing.assert_allclose(errors["forces"].variance, variance[n:], rtol=1e-5)
    assert errors["forces"].noisy


@one_blas()
def test_the_choice_is_as_good_as_any_near_it():
    structures = molecules()
    model = kp.ForceRidge(SOAP, kp.Gaussian(0.5), noise="cv").fit(structures)
    found = system_of(structures)

    def score(noise):
        return sum(np.log(left.rmse) for left in found.left_out(noise).values())

    chosen = model.noise_
    assert chosen.stress is None
    for e in (0.3, 1.0, 3.0):
        for f in (0.3, 1.0, 3.0):
            near = kp.Noise(energy=e * chosen.energy, forces=f * chosen.forces)
            assert score(chosen) <= score(near) + force_ridge.TIE + 0.05
    assert score(chosen) < score(kp.Noise(energy=0.1, forces=1.0))


def test_the_fit_is_that_with_the_noise_chosen(tmp_path):
    structures, new = molecules(), [ethanol(99)]
    model = kp.ForceRidge(SOAP, kp.Gaussian(0.5), noise="cv", keep_factor=True).fit(structures)
    plain = kp.ForceRidge(SOAP, kp.Gaussian(0.5), noise=model.noise_, keep_factor=True).fit(structures)
    np.testing.assert_array_equal(model.predict(new).forces[0], plain.predict(new).forces[0])
    np.testing.assert_array_equal(model.predict(new).energy_std, plain.predict(new).energy_std)
    assert "noise='cv'" in repr(model)
    model.save(tmp_path / "m.kp")
    again = kp.load(tmp_path / "m.kp")
    assert again.noise == "cv"
    assert again.noise_ == model.noise_
    np.testing.assert_allclose(again.predict(new).energy, model.predict(new).energy, rtol=1e-12)


@pytest.mark.parametrize("kind", ["energy", "forces"])
def test_one_kind_alone(kind):
    model = kp.ForceRidge(SOAP, kp.Gaussian(0.5), noise="cv").fit(molecules(kinds=(kind,)))
    assert model.noise_.kinds == (kind,)


def test_a_part_of_the_structures_decides(monkeypatch):
    structures = molecules(12)
    whole = kp.ForceRidge(SOAP, kp.Gaussian(0.5), noise="cv").fit(structures)
    sizes = []
    plain = LabelSystem.left_out
    monkeypatch.setattr(
        LabelSystem, "left_out", lambda self, noise: sizes.append(len(self.structures)) or plain(self, noise)
    )
    monkeypatch.setattr(force_ridge, "MOST_LABELS", 150)
    part = kp.ForceRidge(SOAP, kp.Gaussian(0.5), noise="cv").fit(structures)
    assert set(sizes) == {5}
    assert sum(part.fitted_.n_labels.values()) == sum(whole.fitted_.n_labels.values())


def test_a_fit_that_needs_more_memory_is_refused_before_noises_are_compared(monkeypatch):
    monkeypatch.setattr(LabelSystem, "left_out", lambda *_: pytest.fail("noises were compared"))
    with pytest.raises(ParameterError, match=r"the fit takes 0\.00\d+ GB \(140 labels: .*`memory_gb` = 1e-05"):
        kp.ForceRidge(SOAP, noise="cv", memory_gb=1e-5).fit(molecules(5))


def test_fewer_labels_decide_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(force_ridge, "count", lambda: 2)
    assert force_ridge.most_labels(16.0) == force_ridge.MOST_LABELS
    n = force_ridge.most_labels(0.1)
    assert 3 * 8 * n**2 <= 1e8 < 3 * 8 * (n + 1) ** 2


def test_too_few_structures_are_refused():
    with pytest.raises(ParameterError, match="at least 4 structures with labels, found 3"):
        kp.ForceRidge(SOAP, noise="cv").fit(molecules(3))


@given(st.floats(-1.5, 3.0), st.floats(-1.5, 3.0))
def test_the_walk_ends_at_the_lowest_point_of_a_bowl(a, b):
    place, value, n = descend(lambda p: (p[0] - a) ** 2 + 3.0 * (p[1] - b) ** 2, (0.0, 1.5))
    assert abs(place[0] - a) <= 0.25 + 1e-9
    assert abs(place[1] - b) <= 0.25 + 1e-9
    assert value == (place[0] - a) ** 2 + 3.0 * (place[1] - b) ** 2
    assert n >= 9


def test_of_places_that_are_alike_the_largest_is_taken():
    assert descend(lambda p: 0.001 * abs(p[0]), (1.0,))[0] == (0.0,)
    assert descend(lambda p: 0.001 * abs(p[0]), (1.0,), 0.01)[0] == (1.5,)
    assert descend(lambda p: abs(p[0]), (1.0,), 0.01)[0] == (0.0,)


def test_the_walk_leaves_what_is_singular_by_larger_noises():
    assert descend(lambda p: np.inf if min(p) < 2.0 else sum(p), (0.0, 0.0))[0] == (2.0, 2.0)
    place, value, _ = descend(lambda p: np.inf, (0.0,))
    assert place == (force_ridge.LIMITS[1],)
    assert value == np.inf
