"""Elemental modes: repeatable, stable, complete, and the U of descriptors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

import kernelpot as kp
from kernelpot.elements.modes import ElementalModes, _fitted
from kernelpot.elements.table import COLUMNS, LAST, element_table
from kernelpot.errors import ParameterError
from tests.structures import copper_gold, four_metals

SIZE = {"cutoff": 4.0, "n_max": 3, "l_max": 2}


def standardised() -> np.ndarray:
    values = element_table().values
    return (values - values.mean(axis=0)) / values.std(axis=0)


def test_pca_spans_what_scikit_learns_does():
    modes = ElementalModes(3)
    found = PCA(3).fit(standardised())
    np.testing.assert_allclose(np.abs(modes.encoder.axes @ found.components_.T), np.eye(3), atol=1e-10)
    assert modes.explained == pytest.approx(found.explained_variance_ratio_.sum(), rel=1e-10)


def test_signs_are_settled():
    for axis in ElementalModes(6).encoder.axes:
        assert axis[np.abs(axis) >= 0.5 * np.abs(axis).max()][0] > 0


@pytest.mark.parametrize("method", ["pca", "autoencoder"])
def test_modes_are_repeatable_under_a_seed_and_bounded(method):
    before = torch.random.get_rng_state()
    one = ElementalModes(2, method).vectors
    _fitted.cache_clear()
    np.testing.assert_array_equal(ElementalModes(2, method).vectors, one)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_allclose(one.min(axis=0), 0.0, atol=1e-15)
    np.testing.assert_allclose(one.max(axis=0), 1.0, rtol=1e-15)
    assert one.shape == (LAST, 2)


def test_the_seed_changes_the_autoencoder_alone():
    assert not np.allclose(*(ElementalModes(2, "autoencoder", seed=s).vectors for s in (0, 1)))
    np.testing.assert_array_equal(*(ElementalModes(2, seed=s).vectors for s in (0, 1)))


def test_the_autoencoder_keeps_more_in_as_many_modes():
    linear, network = ElementalModes(2), ElementalModes(2, "autoencoder")
    assert network.explained > linear.explained + 0.1
    assert sum(network.reconstruction.values()) < sum(linear.reconstruction.values())
    assert set(linear.reconstruction) == set(COLUMNS)


@pytest.mark.parametrize("method", ["pca", "autoencoder"])
def test_asking_for_one_element_more_changes_no_other(method):
    """The reference set is the table, not the data: channels of a larger alloy hold those of the smaller one."""
    modes = ElementalModes(2, method)
    three, four = (
        kp.SOAP(channels=modes, species=species, **SIZE).channels.array for species in ((29, 46, 79), (29, 46, 47, 79))
    )
    np.testing.assert_array_equal(np.delete(four, 2, axis=1), three)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_principal_components_barely_turn_when_the_reference_set_loses_an_element(n):
    """Each of 96 in turn; without Fr, H or He, which lie at an edge of the table, they turn most."""
    everything = ElementalModes(n)
    angles, changes = [], []
    for absent in everything.symbols:
        fewer = ElementalModes(n, elements=tuple(s for s in everything.symbols if s != absent))
        angles.append(np.degrees(subspace_angles(everything.encoder.axes.T, fewer.encoder.axes.T)).max())
        changes.append(np.abs(fewer.vectors - everything.vectors).max())
    assert np.median(angles) < 1.5
    assert max(angles) < 17.0
    assert np.median(changes) < 0.03
    assert max(changes) < 0.2


def test_elements_outside_the_reference_set_are_encoded():
    modes = ElementalModes(2, elements=("Cu", "Ag", "Au", "Pd", "Pt", "Ni"))
    assert len(modes.table()) == LAST
    assert np.isfinite(modes.vectors).all()


def test_properties_can_be_chosen():
    modes = ElementalModes(2, properties=("ionisation energy", "covalent radius"))
    assert modes.explained == pytest.approx(1.0)
    assert tuple(modes.reconstruction) == ("ionisation energy", "covalent radius")


def test_a_property_that_is_the_same_everywhere_says_nothing():
    halogens = ("F", "Cl", "Br", "I")
    names = ("group", "covalent radius", "ionisation energy")
    with_group = ElementalModes(2, elements=halogens, properties=names)
    np.testing.assert_allclose(
        with_group.vectors, ElementalModes(2, elements=halogens, properties=names[1:]).vectors, atol=1e-12
    )


@pytest.mark.parametrize(("n", "method"), [(1, "pca"), (2, "pca"), (4, "pca"), (1, "autoencoder"), (2, "autoencoder")])
def test_no_element_is_invisible_and_all_weigh_the_same(method, n):
    columns = np.array(list(ElementalModes(n, method).weights().values()))
    lengths = np.linalg.norm(columns, axis=1)
    if n == 1:
        assert lengths.min() == pytest.approx(0.5)
        assert lengths.max() == pytest.approx(1.0)
    else:
        np.testing.assert_allclose(lengths, 1.0, rtol=1e-12)
    assert (columns > 0.0).all()


def test_alike_elements_have_alike_modes():
    for modes in (ElementalModes(4), ElementalModes(2, "autoencoder")):

        def apart(a: str, b: str, modes: ElementalModes = modes) -> float:
            return float(np.linalg.norm(modes.vector(a) - modes.vector(b)))

        assert apart("La", "Ce") < apart("La", "Cl")
        assert apart("K", "Rb") < apart("K", "O")
        assert apart("Zr", "Hf") < apart("Zr", "Br")


def test_soap_takes_modes_as_they_are():
    modes = ElementalModes(2)
    soap = kp.SOAP(channels=modes, species=(29, 46, 47, 79), **SIZE)
    given = kp.SOAP(channels=kp.elements.ElementChannels.given(modes.weights()), species=(29, 46, 47, 79), **SIZE)
    assert soap.n_features == given.n_features == 6 * 7 // 2 * 3
    batch = _batch([four_metals(1)])
    np.testing.assert_array_equal(soap.values(batch), given.values(batch))
    later = kp.SOAP(channels=modes, **SIZE).with_species((29, 46, 47, 79))
    assert later == soap


def test_more_modes_than_species_give_the_same_kernel_with_one_channel_for_each():
    soap = kp.SOAP(channels=ElementalModes(4), species=(29, 79), **SIZE)
    assert soap.n_channels == 2
    u = np.array([ElementalModes(4).weights()[symbol] for symbol in ("Cu", "Au")]).T
    np.testing.assert_allclose(soap.channels.array.T @ soap.channels.array, u.T @ u, atol=1e-14)
    batch = _batch([copper_gold(0), copper_gold(1)])
    x = soap.values(batch)
    engine = kp.SOAP(species=(29, 79), channels=None, **SIZE)
    c = engine.environments(batch).coefficients
    mixed = np.einsum("ka,ilan->ilkn", u, c.reshape(len(c), 9, 2, 3)).reshape(len(c), 9, -1)
    dots = np.zeros((len(c), len(c)))
    for l in range(3):  # noqa: E741
        block = mixed[:, l * l : (l + 1) ** 2]
        power = np.einsum("imk,imq->ikq", block, block).reshape(len(c), -1)
        dots += np.pi**2 * 8.0 / (2 * l + 1) * power @ power.T
    np.testing.assert_allclose(x @ x.T, dots, rtol=1e-10)


def test_settings_keep_the_matrix():
    soap = kp.SOAP(channels=ElementalModes(4), species=(29, 79), **SIZE)
    again = kp.SOAP.from_settings(json.loads(json.dumps(soap.settings())))
    assert again == soap
    three = again.with_species((29, 47, 79))
    assert three.n_channels == 3
    assert three == kp.SOAP(channels=ElementalModes(4), species=(29, 47, 79), **SIZE)


def _batch(structures):
    from kernelpot.data.batch import Batch

    return Batch.from_structures(structures, SIZE["cutoff"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ElementalModes(0),
            r"`n` must be .* got 0; it is the number of elemental modes",
        ),
        (lambda: ElementalModes(16), "from 1 to 15, got 16"),
        (lambda: ElementalModes(True), "got True"),
        (lambda: ElementalModes(2.0), "got 2.0"),
        (lambda: ElementalModes(2, elements=("Cu", "Ag")), "from 1 to 1, got 2"),
        (lambda: ElementalModes(2, "umap"), "`method` must be one of pca, autoencoder, got 'umap'"),
        (lambda: ElementalModes(2, seed=-1), "`seed` must be .* got -1"),
        (lambda: ElementalModes(2, properties="period"), "`properties` must be a list, got 'period'"),
        (lambda: ElementalModes(2, properties=3), "`properties` must be a list, got 3"),
        (lambda: ElementalModes(1, properties=("mass", "period")), "got 'mass'"),
        (lambda: ElementalModes(1, elements=("Cu", "Cu", "Ag")), "must not name anything twice"),
        (lambda: ElementalModes(1, elements=("Cu", "Lr", "Ag")), "reach to Cm, got Lr"),
        (lambda: ElementalModes(1, elements=(29, 47)), r"`elements\[0\]` must be text, got 29"),
        (lambda: ElementalModes(2).vector("Qq"), "'Qq' is no chemical symbol"),
        (lambda: kp.SOAP(channels=ElementalModes(2), species=(29, 99)), "no row for Es"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ParameterError, match=message):
        make()
