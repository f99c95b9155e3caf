"""Element channels: the matrix, and what mixing does to vectors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.data.batch import Batch
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.elements.channels import ElementChannels
from kernelpot.elements.table import PROPERTIES, group, period, properties, valence
from kernelpot.errors import ParameterError
from tests import structures as make

SIZE = {"cutoff": 4.0, "n_max": 4, "l_max": 3, "sigma": 0.5, "fade": 0.8}
METALS = (29, 46, 47, 79)
SYSTEMS = {"two species": make.copper_gold, "three species": make.ethanol, "four species": make.four_metals}
seeds = st.integers(0, 2**16)


def batch_of(*structures):
    return Batch.from_structures(structures, SIZE["cutoff"])


def species_of(atoms):
    return tuple(sorted(set(atoms.numbers.tolist())))


def mixed(channels, species=METALS):
    return SOAP(**SIZE, species=species, channels=channels)


def gram(soap, batch):
    vectors = soap.values(batch)
    return vectors @ vectors.T


@pytest.fixture(scope="module")
def metals():
    return batch_of(*(make.four_metals(k) for k in range(3)))


def test_identity_is_no_channels_at_all(metals):
    identity = mixed(ElementChannels.identity())
    assert identity == mixed(None)
    assert identity.settings() == mixed(None).settings()
    written_out = mixed(ElementChannels.given(dict(zip(("Cu", "Pd", "Ag", "Au"), np.eye(4), strict=True))))
    plain, same = mixed(None).environments(metals), written_out.environments(metals)
    np.testing.assert_array_equal(same.vectors, plain.vectors)
    gradient = np.random.default_rng(0).normal(size=plain.vectors.shape)
    np.testing.assert_array_equal(same.vjp(gradient), plain.vjp(gradient))
    np.testing.assert_array_equal(same.displacements(0, 5).rows, plain.displacements(0, 5).rows)


def test_coefficients_are_those_of_the_species_times_the_matrix(metals):
    channels = ElementChannels.random(3, seed=4).for_species(METALS)
    plain, found = (mixed(c).environments(metals).coefficients for c in (None, channels))
    apart = plain.reshape(*plain.shape[:2], 4, SIZE["n_max"])
    expected = np.einsum("ka,iman->imkn", channels.array, apart).reshape(*found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    "matrix",
    [np.eye(4)[[2, 0, 3, 1]], np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]],
    ids=["permutation", "rotation"],
)
def test_permuting_or_rotating_the_channels_changes_no_kernel(metals, matrix):
    table = dict(zip(("Cu", "Pd", "Ag", "Au"), matrix.T, strict=True))
    expected = gram(mixed(None), metals)
    np.testing.assert_allclose(gram(mixed(ElementChannels.given(table)), metals), expected, rtol=1e-11)


def test_as_many_random_channels_as_species_change_no_kernel(metals):
    expected = gram(mixed(None), metals)
    np.testing.assert_allclose(gram(mixed(ElementChannels.random(4, seed=3)), metals), expected, rtol=1e-11)


def test_elements_with_equal_vectors_are_indistinguishable():
    atoms = make.four_metals(2)
    swapped = atoms.copy()
    swapped.numbers = [{46: 47, 47: 46}.get(z, z) for z in atoms.numbers.tolist()]
    alike = mixed(ElementChannels.given({"Cu": [1, 0], "Pd": [0.5, 1], "Ag": [0.5, 1], "Au": [0, 1]}))
    apart = mixed(ElementChannels.given({"Cu": [1, 0], "Pd": [0.5, 1], "Ag": [0.5, -1], "Au": [0, 1]}))
    np.testing.assert_allclose(alike.values(batch_of(swapped)), alike.values(batch_of(atoms)), rtol=0, atol=1e-13)
    assert np.abs(apart.values(batch_of(swapped)) - apart.values(batch_of(atoms))).max() > 0.1


def test_one_mode_tells_the_elements_apart_by_weights_from_a_half_to_one():
    """In the order of the second of two modes, of which the first has one sign."""
    one, two = (ElementChannels.modes(n).for_species(METALS).array for n in (1, 2))
    assert (one.min(), one.max()) == (0.5, pytest.approx(1.0, abs=1e-15))
    assert (two[0] > 0).all()
    np.testing.assert_array_equal(np.argsort(one[0]), np.argsort(two[1]))
    hydrogen, carbon, oxygen = ElementChannels.modes(1).for_species((1, 6, 8)).matrix[0]
    assert hydrogen == 0.5
    assert min(carbon, oxygen) > 0.9
    assert ElementChannels.modes(1).for_species((29,)).matrix == ((1.0,),)


def test_weights_scale_the_density_of_an_element(metals):
    soap = mixed(ElementChannels.weighted({"Ag": 0.3, "Si": 5.0}))
    whole, found = (s.environments(metals).coefficients.reshape(12, -1, 4, 4) for s in (mixed(None), soap))
    np.testing.assert_allclose(found, whole * np.array([1, 1, 0.3, 1])[:, None], rtol=1e-15)
    assert soap.n_features == mixed(None).n_features


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS.keys())
@given(seed=seeds, sign=st.sampled_from((1, -1)), kind=st.sampled_from((ElementChannels.modes, ElementChannels.random)))
def test_rotation_translation_and_permutation_change_nothing(system, seed, sign, kind):
    atoms = system(seed)
    soap = mixed(kind(2), species_of(atoms))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(atoms))
    other = make.turned(atoms, sign * make.rotation(seed))[order]
    other.positions += rng.normal(size=3)
    expected = soap.values(batch_of(atoms))
    np.testing.assert_allclose(
        soap.values(batch_of(other)), expected[order], rtol=1e-9, atol=1e-10 * np.abs(expected).max()
    )


@given(seed=seeds, n=st.integers(1, 4))
def test_random_rows_are_orthonormal_and_repeatable(seed, n):
    u = ElementChannels.random(n, seed).for_species(METALS).array
    np.testing.assert_allclose(u @ u.T, np.eye(n), atol=1e-13)
    np.testing.assert_array_equal(ElementChannels.random(n, seed).for_species(METALS).array, u)


def test_all_modes_together_are_the_similarity_of_the_elements():
    """UᵀU = κ, from property distances written out."""
    rows = properties(METALS)
    square = np.array([[np.sum((a - b) ** 2) for b in rows] for a in rows])
    kappa = np.exp(-0.5 * square / (0.7**2 * square[np.triu_indices(4, 1)].mean()))
    u = ElementChannels.modes(4, width=0.7).for_species(METALS).array
    np.testing.assert_allclose(u.T @ u, kappa, atol=1e-12)


def test_modes_of_a_table_do_not_depend_on_its_units():
    table = {"Cu": [1.9, 8.9, 3.0], "Pd": [2.2, 12.0, 3.0], "Ag": [1.93, 10.5, 3.0], "Au": [2.54, 19.3, 3.0]}
    scaled = {symbol: np.array([10.0, 0.1, 7.0]) * row - 3.0 for symbol, row in table.items()}
    u, again = (ElementChannels.modes(3, t).for_species(METALS).array for t in (table, scaled))
    np.testing.assert_allclose(again, u, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(u, axis=0), 1.0, rtol=1e-12)


def test_alike_elements_have_alike_modes():
    """Of Sc … Zn, two modes order the series: the farther apart two metals are in it, the more they differ."""
    u = ElementChannels.modes(2).for_species(tuple(range(21, 31))).array
    angle = np.arctan2(u[1], u[0])
    assert (np.diff(angle) < 0).all() or (np.diff(angle) > 0).all()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, (1, 1, (1, 0, 0, 0))),
        (2, (1, 18, (2, 0, 0, 0))),
        (8, (2, 16, (2, 4, 0, 0))),
        (28, (4, 10, (2, 0, 8, 0))),
        (50, (5, 14, (2, 2, 0, 0))),
        (60, (6, 3, (2, 0, 0, 4))),
        (79, (6, 11, (2, 0, 9, 0))),
        (82, (6, 14, (2, 2, 0, 0))),
    ],
)
def test_places_in_the_periodic_table(number, expected):
    assert (period(number), group(number), valence(number)) == expected


def test_unknown_properties_are_left_out():
    assert properties((29, 79)).shape == (2, len(PROPERTIES))
    assert properties((29, 86)).shape == (2, len(PROPERTIES) - 1)


@pytest.mark.parametrize(
    "channels",
    [
        ElementChannels.modes(2),
        ElementChannels.modes(2, {"Cu": [1.9, 3], "Pd": [2.2, 1], "Ag": [1.9, 2], "Au": [2.5, 4]}, width=0.5),
        ElementChannels.random(3, seed=7),
        ElementChannels.weighted({"Cu": 0.4}),
        ElementChannels.given({"Cu": [1, 0], "Pd": [0.1, 1 / 3], "Ag": [0.5, 1], "Au": [0, 1]}),
    ],
)
def test_settings_make_the_same_descriptor_with_the_stored_matrix(channels, metals):
    for soap in (mixed(channels), SOAP(channels=channels, **SIZE)):
        again = SOAP.from_settings(json.loads(json.dumps(soap.settings())))
        assert again == soap
    settings = json.loads(json.dumps(mixed(channels).settings()))
    np.testing.assert_array_equal(SOAP.from_settings(settings).values(metals), mixed(channels).values(metals))
    # The matrix counts, not the recipe: tables and generators may change, a model file may not.
    settings["channels"]["matrix"][0][0] += 0.25
    changed = SOAP.from_settings(settings)
    assert changed.channels.array[0, 0] == mixed(channels).channels.array[0, 0] + 0.25
    assert changed.with_species(METALS).channels == changed.channels


def test_channels_follow_the_species():
    soap = SOAP(channels=ElementChannels.modes(2), **SIZE)
    two, four = soap.with_species((29, 79)), soap.with_species(METALS)
    assert two.n_features == four.n_features == 8 * 9 // 2 * 4
    assert two.channels.array.shape == (2, 2)
    assert two.with_species(METALS) == four


@pytest.mark.parametrize(
    ("make_channels", "message"),
    [
        (
            lambda: ElementChannels.modes(0),
            "`n` must be .* got 0; it is the number of element channels",
        ),
        (lambda: ElementChannels.random(2.0), "`n` must be .* got 2.0; it is the number of element channels"),
        (lambda: ElementChannels.random(2, -1), "`seed` must be a whole number, at least 0, got -1"),
        (lambda: ElementChannels.modes(2, width=0.0), "`width` must be positive, got 0.0"),
        (lambda: ElementChannels.given({}), "must map symbols to vectors"),
        (lambda: ElementChannels.given([1, 2]), "must map symbols to vectors"),
        (lambda: ElementChannels.given({"Xy": [1.0]}), "'Xy' is no chemical symbol"),
        (lambda: ElementChannels.given({"Cu": [1.0, np.nan]}), "finite numbers for Cu"),
        (lambda: ElementChannels.given({"Cu": [[1.0], [2.0]]}), "finite numbers for Cu"),
        (lambda: ElementChannels.given({"Cu": [1.0], "Au": [1.0, 2.0]}), r"one length, got \[1, 2\]"),
        (lambda: ElementChannels.given({"Cu": [1.0, 0.0], "Au": [0.0, 0.0]}), "vector of Au is all zero"),
        (lambda: ElementChannels.weighted({"Cu": 0.0}), "the weight of Cu must be a number above 0, got 0.0"),
        (lambda: ElementChannels.weighted({"Cu": [1, 2]}), r"the weight of Cu must be a number above 0, got \[1, 2\]"),
        (lambda: mixed(2), '`channels` must be "auto", ElementChannels, ElementalModes or None, got 2'),
        (lambda: mixed(ElementChannels.modes(3), (29, 79)), r"3 element channels for 2 species \(Cu, Au\)"),
        (lambda: mixed(ElementChannels.given({"Cu": [1.0], "Au": [2.0]})), r"no row for Pd, Ag \(it has Cu, Au\)"),
        (
            lambda: mixed(ElementChannels.given({"Cu": [1.0, 2.0], "Au": [2.0, 4.0]}), (29, 79)),
            "the 2 element channels of Cu, Au are linear combinations of 1; use 1",
        ),
        (
            lambda: mixed(ElementChannels.modes(2, {"Cu": [1.0], "Au": [1.0]}), (29, 79)),
            "linear combinations of 1; use 1, or a table that tells the elements apart",
        ),
        (lambda: mixed(ElementChannels.modes(2), (29, 104)), "properties reach to Lr, got Rf; give a table"),
        (lambda: ElementChannels.modes(2).array, "no matrix yet"),
    ],
)
def test_what_cannot_be_is_refused(make_channels, message):
    with pytest.raises(ParameterError, match=message):
        make_channels()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "learned"}, "one of auto, identity, weighted, given, modes, elemental, random, got 'learned'"),
        ({"matrix": [[1.0, 0.0]]}, "must be finite with 1 rows and a column for each of Cu, Pd, Ag, Au, got shape"),
        ({"matrix": [[1.0, 0.0, float("inf"), 1.0]]}, r"`matrix\[0\]\[2\]` must be a finite number"),
        ({"matrix": [[1.0, 0.5, 0.0, 1.0]]}, "Ag has no weight in any channel"),
    ],
)
def test_damaged_settings_are_refused(change, message):
    settings = ElementChannels.random(1).for_species(METALS).settings()
    with pytest.raises(ParameterError, match=message):
        ElementChannels.from_settings(settings | change)
