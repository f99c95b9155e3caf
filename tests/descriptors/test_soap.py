from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms

from kernelpot.data.batch import Batch
from kernelpot.descriptors.protocol import species_places
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.errors import ParameterError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cutoff": -5.0}, "`cutoff` must be positive and in Å, got -5.0; 4 to 6 is usual"),
        ({"cutoff": np.nan}, "`cutoff` must be positive"),
        ({"sigma": 0.0}, "`sigma` must be positive"),
        ({"n_max": 0}, "`n_max` must be a whole number from 1 to 32, got 0"),
        ({"n_max": 4.0}, "`n_max` must be a whole number from 1 to 32, got 4.0"),
        ({"l_max": -1}, "`l_max` must be a whole number from 0 to 16, got -1"),
        ({"l_max": 17}, "`l_max` must be a whole number from 0 to 16, got 17"),
        ({"fade": 6.0}, r"`fade` must lie between 0 and the cutoff \(5.0 Å\), got 6.0"),
        ({"fade": np.nan}, "`fade` must be a finite number, got nan; None takes 0.4 of the cutoff"),
        ({"scaling": 2.0}, r"`scaling` must be a pair \(r0 in Å, m\), got 2.0"),
        ({"scaling": (0.0, 4.0)}, r"`scaling`: r0 must lie between cutoff/1000 and .*, got 0.0"),
        ({"scaling": (2.0, 1.0)}, "`scaling`: m must lie between 2 and 32, got 1.0"),
        ({"scaling": (2.0, np.nan)}, "`scaling`: m must lie between 2 and 32, got nan"),
    ],
)
def test_parameters_out_of_their_range_are_refused(wrong, message):
    with pytest.raises(ParameterError, match=message):
        SOAP(**wrong)


def test_settings_of_numpy_numbers_are_json():
    soap = SOAP(np.float32(4.0), np.int64(4), np.int32(3), np.float64(0.5), fade=np.float32(0.5))
    assert SOAP.from_settings(json.loads(json.dumps(soap.settings()))) == soap


def test_fade_is_four_tenths_of_the_cutoff_by_default():
    assert SOAP(cutoff=5.0).fade_width == pytest.approx(2.0)
    assert SOAP(cutoff=5.0).settings()["fade"] is None


def test_species_are_sorted():
    assert SOAP().with_species((79, 29)).species == (29, 79)


def test_dot_products_equal_those_of_the_full_spectrum():
    """√2 on the off-diagonal half: p·p' = Σ_l f_l² Σ_kk' C_kk' C'_kk' over the full square."""
    atoms = Atoms("CuAuCu", positions=[[0, 0, 0], [2.2, 0.3, 0], [0.4, 2.4, 0.5]])
    soap = SOAP(cutoff=4.0, n_max=4, l_max=3, species=(29, 79))
    found = soap.environments(Batch.from_structures([atoms], 4.0))
    full = []
    for l in range(4):  # noqa: E741
        block = found.coefficients[:, l * l : (l + 1) ** 2]
        full.append(np.pi * np.sqrt(8 / (2 * l + 1)) * np.einsum("imk,imq->ikq", block, block).reshape(3, -1))
    full = np.concatenate(full, axis=1)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, full @ full.T, rtol=1e-12)


def test_species_are_kept_in_rising_order():
    assert SOAP(species=(79, 29, 29)).species == (29, 79)
    assert species_places((29, 79), np.array([29, 79]), "SOAP").tolist() == [0, 1]


def test_scaling_weighs_a_neighbour_by_its_distance_and_leaves_the_centre():
    """c - c(isolated) of a dimer is u(r) = 1/(1 + (r/r0)^m) times what it is without scaling."""
    dimer = Batch.from_structures([Atoms("Cu2", positions=[[0, 0, 0], [1.2, -0.8, 1.9]])], 4.0)
    alone = Batch.from_structures([Atoms("Cu")], 4.0)
    plain, scaled = (SOAP(4.0, 4, 3, species=(29,), scaling=scaling) for scaling in (None, (1.7, 5.0)))
    part, whole = (
        soap.environments(dimer).coefficients[0] - soap.environments(alone).coefficients[0] for soap in (scaled, plain)
    )
    u = 1 / (1 + (np.sqrt(1.2**2 + 0.8**2 + 1.9**2) / 1.7) ** 5)
    np.testing.assert_allclose(part, u * whole, atol=1e-9 * np.abs(whole).max())
    np.testing.assert_array_equal(scaled.values(alone), plain.values(alone))


def test_settings_without_scaling_are_those_of_files_written_before_it():
    settings = SOAP().settings()
    assert "scaling" not in settings
    assert SOAP.from_settings(settings) == SOAP()
    assert SOAP(scaling=(2, 4)).settings()["scaling"] == [2.0, 4.0]
