"""Which settings are tried, in which order."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.errors import ParameterError
from kernelpot.tuning.candidates import candidates, default_model, default_space, potential_space, shortest
from kernelpot.tuning.halving import key_of
from tests import structures as make

SPACE = {"cutoff": [4.0, 3.5, 4.5], ("n_max", "l_max"): [(4, 3), (6, 4)], "zeta": np.array([2, 3, 4])}


def test_every_combination_stands_once_and_the_default_first():
    found = candidates(SPACE, seed=3)
    assert found[0] == {"cutoff": 4.0, "n_max": 4, "l_max": 3, "zeta": 2}
    wanted = [
        {"cutoff": c, "n_max": n, "l_max": lm, "zeta": z}
        for c, (n, lm), z in itertools.product([4.0, 3.5, 4.5], [(4, 3), (6, 4)], [2, 3, 4])
    ]
    assert Counter(map(key_of, found)) == Counter(map(key_of, wanted))
    assert found == candidates(SPACE, seed=3)
    assert found != candidates(SPACE, seed=4)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_candidates_cover_every_value_evenly(seed):
    space = default_space([make.silicon()])
    found = candidates(space, seed=seed)
    assert len(found) == 450
    first = found[1:91]
    for name in ("cutoff", "sigma", "zeta", "n_max"):
        counts = Counter(settings[name] for settings in first)
        assert set(counts) == {settings[name] for settings in found}
        assert max(counts.values()) <= 1.7 * min(counts.values())


def test_the_default_space_stands_about_the_distances_of_the_data():
    crystals = [make.silicon(k) for k in range(3)]
    space = default_space(crystals)
    assert space["cutoff"][0] == kp.potentials.default_cutoff(crystals)
    assert min(space["cutoff"]) < 0.85 * space["cutoff"][0]
    assert max(space["cutoff"]) > 1.15 * space["cutoff"][0]
    default = default_model({**candidates(space, seed=0)[0], "n_inducing": 70})
    assert repr(default.descriptor) == repr(kp.SOAP(cutoff=space["cutoff"][0]))
    assert default.kernel == kp.DotProduct(2)
    assert (default.noise, default.n_inducing) == ("cv", 70)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "at least one setting"),
        ({"cutoff": []}, "at least one value of cutoff"),
        ({"cutoff": 5.0}, "at least one value of cutoff"),
        ({"basis": "GTO"}, "at least one value of basis"),
        ({"basis": [kp.SOAP()]}, "plain numbers, names or tuples of them for basis"),
        ({("n_max", "l_max"): [(8, 6), (4,)]}, r"set n_max and l_max together, got \(4,\)"),
        ({("n_max", "l_max"): [(8, 6)], "l_max": [2]}, "name every setting once"),
    ],
)
def test_bad_spaces_are_refused(space, message):
    with pytest.raises(ParameterError, match=message):
        candidates(space, seed=0)


def test_unknown_settings_are_named():
    with pytest.raises(ParameterError, match=r"settings among cutoff, .*got depth, width; give `build`"):
        default_model({"width": 1, "depth": 2, "n_inducing": 10})


def test_settings_reach_the_terms():
    settings = {"cutoff": 4.5, "scaling": (2.0, 4.0), "fade": 1.0, "zeta": 3, "two_body": 6.5, "n_inducing": 30}
    pairs, soap = default_model(settings, seed=5).terms
    assert pairs.descriptor == kp.TwoBody(cutoff=6.5)
    assert soap.descriptor == kp.SOAP(cutoff=4.5, scaling=(2.0, 4.0), fade=1.0)
    assert soap.kernel == kp.DotProduct(3)
    assert len(default_model({**settings, "two_body": None}).terms) == 1


def test_the_space_of_symmetry_functions_begins_with_their_defaults():
    crystals = [make.silicon(k) for k in range(3)]
    space = default_space(crystals, descriptor="acsf")
    found = candidates(space, seed=0)
    assert len(found) == 360
    default = default_model({**found[0], "n_inducing": 70})
    assert default.descriptor == kp.ACSF.spaced(kp.potentials.default_cutoff(crystals))
    assert default.kernel == kp.Gaussian(1.0)
    assert (default.noise, default.n_inducing) == ("cv", 70)
    assert {settings["two_body"] for settings in found} == {None, 5.0}


def test_settings_reach_symmetry_functions():
    settings = {"descriptor": "acsf", "cutoff": 4.5, "n_radial": 5, "n_angular": 3, "cutoff_function": "cosine"}
    pairs, acsf = default_model({**settings, "zeta": 3, "two_body": 6.0, "n_inducing": 30}, seed=5).terms
    assert pairs.descriptor == kp.TwoBody(cutoff=6.0)
    assert acsf.descriptor == kp.ACSF.spaced(4.5, n_radial=5, n_angular=3, cutoff_function="cosine")
    assert acsf.kernel == kp.DotProduct(3)


def test_soap_takes_a_gaussian_too():
    model = default_model({"descriptor": "soap", "gaussian": 0.5, "zeta": None, "n_inducing": 30})
    assert model.descriptor == kp.SOAP()
    assert model.kernel == kp.Gaussian(0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"descriptor": "lode"}, '`descriptor` must be "soap" or "acsf", got \'lode\'; give `build`'),
        ({"descriptor": ["acsf"]}, '`descriptor` must be "soap" or "acsf"'),
        ({"descriptor": "acsf", "sigma": 0.5}, "among cutoff, n_radial, .* for the descriptor 'acsf', got sigma"),
        ({"n_radial": 4}, "among cutoff, n_max, .* for the descriptor 'soap', got n_radial"),
        ({"zeta": 2, "gaussian": 1.0}, "set zeta or gaussian, got zeta 2 with gaussian 1.0; set one"),
        ({"descriptor": "acsf", "n_angular": 0}, "`n_angular` must be a whole number from 1 to 64, got 0"),
        ({"gaussian": -1.0}, "`length` must lie between 0.001 and 1000, got -1.0"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings, message):
    with pytest.raises(ParameterError, match=message):
        default_model({**settings, "n_inducing": 10})


def test_the_space_of_an_unknown_descriptor_is_refused():
    with pytest.raises(ParameterError, match='`descriptor` must be "soap" or "acsf", got \'ACSF\''):
        default_space([make.silicon()], descriptor="ACSF")


def test_values_that_are_set_together_keep_their_types():
    space = {("descriptor", "n_angular", "gaussian"): [("acsf", 2, 1.5), ("acsf", np.int64(3), None)]}
    found = candidates(space, seed=0)
    assert found == [
        {"descriptor": "acsf", "n_angular": 2, "gaussian": 1.5},
        {"descriptor": "acsf", "n_angular": 3, "gaussian": None},
    ]
    assert [type(settings["n_angular"]) for settings in found] == [int, int]


def test_tuples_and_none_are_values():
    found = candidates({"scaling": [None, (2.0, 4)], "two_body": [None, 6.0]}, seed=0)
    assert found[0] == {"scaling": None, "two_body": None}
    assert {"scaling": (2.0, 4), "two_body": 6.0} in found


def test_the_space_of_a_potential_tries_terms_and_repulsion_where_atoms_come_near():
    metals = [make.copper_gold(k) for k in range(3)]
    space = potential_space(metals)
    middle = kp.potentials.default_cutoff(metals)
    assert space["cutoff"][0] == middle
    assert space["two_body"][1] >= 1.25 * middle
    assert "zbl" not in space
    assert shortest(metals) > 0.9
    near = metals[0].copy()
    near.positions[1] = near.positions[0] + [1.2, 0.0, 0.0]
    assert shortest([near]) == pytest.approx(1.2 / (1.32 + 1.36), rel=0.05)
    assert potential_space([*metals, near])["zbl"] == (False, True)


def test_a_model_of_two_reaches_pairs_and_repulsion():
    model = default_model(
        {"cutoff": 4.0, "n_max": 4, "l_max": 2, "near": 0.5, "far": 1.5, "two_body": 6.0, "zeta": 3, "zbl": True,
         "inducing": "residual", "n_inducing": 40}
    )  # fmt: skip
    pair, near, far = model.terms
    assert pair.descriptor == kp.TwoBody(cutoff=6.0)
    assert near.descriptor == kp.SOAP(cutoff=4.0, n_max=4, l_max=2, scaling=(2.0, 4.0))
    assert far.descriptor == kp.SOAP(cutoff=6.0, n_max=6, l_max=2, scaling=(2.4, 6.0))
    assert near.kernel == far.kernel == kp.DotProduct(3)
    assert (model.baseline, model.inducing) == (kp.ZBL(), "residual")
