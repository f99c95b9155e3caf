"""How much elements learn from each other, found from left-out labels."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

import kernelpot as kp
from kernelpot.data.labels import resolve
from kernelpot.elements import ElementChannels
from kernelpot.errors import ParameterError
from kernelpot.potentials.terms import Ranking, Setting, Term, composition_groups, find_coupling, some_of_each
from tests import structures as make
from tests.potentials import NOISE, small_soap

AUTO = kp.SOAP(cutoff=3.6, n_max=4, l_max=2, sigma=0.6)


@pytest.fixture(scope="module")
def metals():
    return make.labelled([make.four_metals(k) for k in range(18)])


@pytest.fixture(scope="module")
def found(metals):
    return kp.SparseGP(AUTO, n_inducing=60, noise="cv").fit(metals)


def test_what_is_found_leaves_out_smaller_errors_than_elements_apart(found, metals):
    apart = kp.SparseGP(small_soap(), n_inducing=60, noise="cv").fit(metals)
    for kind in ("energy", "forces"):
        assert found.cross_validation_[kind] < apart.cross_validation_[kind]
    best = found.coupling_[0]
    assert best.loss <= min(one.loss for one in found.coupling_) + 0.2
    assert best.setting == found.coupling_[0].setting
    assert "coupling            " in found.summary()


def test_the_model_carries_what_was_found(found, metals, tmp_path):
    descriptor, kernel = found.fitted_.features.descriptor, found.fitted_.features.kernel
    assert descriptor.channels.kind == "given"
    assert found.terms_[0].descriptor == descriptor
    assert found.descriptor == AUTO
    found.save(tmp_path / "model.kp")
    again = kp.load(tmp_path / "model.kp")
    assert (again.fitted_.features.descriptor, again.fitted_.features.kernel) == (descriptor, kernel)
    np.testing.assert_array_equal(again.predict(metals[:2]).energy, found.predict(metals[:2]).energy)
    taken = kp.SparseGP(found.terms_, n_inducing=60, noise="cv").fit(metals)
    assert taken.coupling_ == ()
    np.testing.assert_allclose(taken.predict(metals[:2]).energy, found.predict(metals[:2]).energy, atol=1e-8)


def test_one_element_has_nothing_to_find():
    copper = make.labelled([make.copper(k) for k in range(14)])
    one = kp.SparseGP(AUTO, n_inducing=12, noise=NOISE).fit(copper)
    plain = kp.SparseGP(small_soap(), n_inducing=12, noise=NOISE).fit(copper)
    assert one.coupling_ == ()
    assert one.fitted_.features.descriptor.channels is None
    np.testing.assert_array_equal(one.predict(copper).energy, plain.predict(copper).energy)


def test_channels_that_are_given_stay(metals):
    given = kp.SOAP(cutoff=3.6, n_max=4, l_max=2, sigma=0.6, channels=ElementChannels.modes(2))
    terms, tried = find_coupling([Term(given)], metals, resolve(metals), kinds=("energy", "forces"), seed=0)
    assert (terms, tried) == ((Term(given),), ())


def test_without_labels_elements_are_as_alike_as_their_properties(metals):
    space = kp.SparseGP(AUTO, n_inducing=40).prepare(metals)
    channels = space.features_.descriptor.channels
    expected = ElementChannels.similar(space.species_, 4)
    np.testing.assert_allclose(channels.array, expected.for_species(space.species_).array)
    assert (space.features_.coupling > 0.5).all()
    fitted = space.fit(metals)
    assert fitted.coupling_ == ()
    assert fitted.fitted_.features is space.features_


def test_too_few_structures_are_not_asked(metals):
    model = kp.SparseGP(AUTO, n_inducing=40, noise=NOISE).fit(metals[:6])
    assert model.coupling_ == ()
    assert model.fitted_.features.coupling is not None


def test_elements_that_are_not_asked_do_not_stop_the_search(monkeypatch):
    """Silver stands in a frame without labels, then in one that the small models have no room for."""
    gold = make.labelled([make.copper_gold(k) for k in range(14)])
    silver = make.copper(3)
    silver.numbers[:] = 47
    bare = kp.SparseGP(AUTO, n_inducing=40, noise=NOISE).fit([*gold, silver])
    assert bare.coupling_
    assert bare.fitted_.features.species == (29, 47, 79)
    asked = list(range(14))
    monkeypatch.setattr("kernelpot.potentials.terms.some_of_each", lambda *_: asked)
    full = kp.SparseGP(AUTO, n_inducing=40, noise=NOISE).fit([*gold, *make.labelled([silver])])
    assert full.coupling_
    assert np.isfinite(full.predict([silver]).energy).all()


def test_what_is_left_out_together_stays_together_in_the_search(metals, monkeypatch):
    seen = []
    judged = Ranking.judged
    monkeypatch.setattr(Ranking, "judged", lambda self, setting: seen.append(self) or judged(self, setting))
    names = [f"run {k % 6}" for k in range(len(metals))]
    model = kp.SparseGP(AUTO, n_inducing=40, noise=NOISE).fit(metals, folds=names)
    fold = seen[0].ways[0]
    assert model.coupling_
    assert len(np.unique(fold)) == 4
    assert all(len({int(fold[k]) for k in range(18) if names[k] == name}) == 1 for name in names)


def test_exchanged_elements_exchange_what_is_found():
    """Names of elements matter by their properties alone: with a table of its own a model does not see them."""
    pool = make.labelled([make.copper_gold(k) for k in range(6)])
    swapped = [atoms.copy() for atoms in pool]
    for atoms, other in zip(pool, swapped, strict=True):
        other.numbers = np.where(atoms.numbers == 29, 79, 29)
        other.calc = SinglePointCalculator(other, **atoms.calc.results)
    table, mirrored = {"Cu": [1.0, 0.2], "Au": [0.6, 0.9]}, {"Au": [1.0, 0.2], "Cu": [0.6, 0.9]}
    energies = []
    for structures, of in ((pool, table), (swapped, mirrored)):
        channels = ElementChannels.given(of)
        soap = kp.SOAP(cutoff=3.6, n_max=4, l_max=2, sigma=0.6, channels=channels)
        places = [(s, a) for s in range(6) for a in range(4)]
        model = kp.SparseGP(soap, kp.DotProduct(2, centres=channels), n_inducing=24, noise=NOISE)
        energies.append(model.prepare(structures, environments=places).fit(structures).predict(structures).energy)
    np.testing.assert_allclose(energies[0], energies[1], atol=1e-7)


def test_some_of_each_kind_are_asked(metals):
    for k, atoms in enumerate(metals):
        atoms.info["config_type"] = "rare" if k == 11 else "often"
    chosen = some_of_each(metals, resolve(metals), 0)
    assert 11 in chosen
    assert chosen == sorted(set(chosen))
    assert all(atoms.info.pop("config_type") for atoms in metals)


def test_compositions_that_are_left_out_leave_every_element_in():
    def alloy(symbols):
        return make.copper(0).repeat((2, 1, 1))[:4].copy().__class__(symbols, positions=np.eye(4, 3) * 3)

    sets = [alloy(s) for s in ("Cu4", "Au4", "Cu2Au2", "Cu3Au", "CuAu3", "Cu2Au2")]
    fold = composition_groups(sets, (29, 79))
    assert fold is not None
    assert fold[2] == fold[5]
    for f in np.unique(fold):
        left = {z for atoms, own in zip(sets, fold, strict=True) if own != f for z in atoms.numbers}
        assert left == {29, 79}
    assert composition_groups([alloy("Cu2Au2")] * 5, (29, 79)) is None


def test_settings_are_told_in_words():
    assert str(Setting(None)) == "neighbours apart, centres apart"
    assert str(Setting(2.5, 0.5, 6.0, 1)) == "neighbours of width 2.5 in 1 channel, hydrogen 0.5, centres of width 6"
    with pytest.raises(ParameterError, match="`width`"):
        ElementChannels.similar((1, 6), width=-1.0)
    with pytest.raises(ParameterError, match="channels"):
        kp.SOAP(channels="found")


def test_similar_elements_on_a_scale_of_their_own():
    water, more = ElementChannels.similar((1, 8)), ElementChannels.similar((1, 6, 8, 79))
    columns = [dict(one.table) for one in (water, more)]
    kappa = [np.dot(c[1], c[8]) / np.linalg.norm(c[1]) / np.linalg.norm(c[8]) for c in columns]
    assert kappa[0] == pytest.approx(kappa[1], abs=1e-6)
    assert np.linalg.norm(columns[0][1]) == pytest.approx(0.5)
    assert ElementChannels.similar((29,)).n == 1
    plain = kp.SOAP(species=(14,))
    assert plain.channels is None
    assert kp.SOAP.from_settings(kp.SOAP().settings()) == kp.SOAP()
    without = {name: value for name, value in kp.SOAP().settings().items() if name != "channels"}
    assert kp.SOAP.from_settings(without).channels is None


def test_elements_without_a_likeness_or_a_table_are_seen_all_the_same():
    """Five elements far apart in two channels, and two beyond the table: none is invisible."""
    for species in ((1, 3, 9, 26, 55), (104, 105), (1, 8, 104)):
        for width in (0.05, 1.0, 2.5):
            u = ElementChannels.similar(species, 2, width=width).for_species(species).array
            assert np.linalg.norm(u, axis=0) == pytest.approx(np.where(np.array(species) == 1, 0.5, 1.0))
    u = kp.SOAP(species=(104, 105)).channels.array
    np.testing.assert_allclose(u.T @ u, np.eye(2), atol=1e-12)
