from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernelpot.data.sources import stress_of_virial, to_voigt

voigt = arrays(np.float64, 6, elements=st.floats(-1e3, 1e3))


@given(voigt)
def test_every_shape_gives_the_order_of_ase(stress):
    full = voigt_6_to_full_3x3_stress(stress)
    for shaped in (stress, full, full.ravel()):
        np.testing.assert_array_equal(to_voigt(shaped), full_3x3_to_voigt_6_stress(full))


@given(voigt, st.floats(1e-3, 1e6))
def test_virial_and_stress_are_inverse(stress, volume):
    back = stress_of_virial(-volume * stress, volume)
    np.testing.assert_allclose(back, stress, rtol=1e-14, atol=1e-300)


def test_virial_is_minus_the_derivative_of_the_energy_by_strain():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    virial = voigt_6_to_full_3x3_stress(-atoms.get_volume() * atoms.get_stress())
    step = 1e-4
    energies = []
    for sign in (1, -1):
        strained = atoms.copy()
        strain = np.zeros((3, 3))
        strain[1, 2] = strain[2, 1] = sign * step / 2
        strained.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
        strained.calc = EMT()
        energies.append(strained.get_potential_energy())
    assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(virial[1, 2], rel=1e-5, abs=1e-6)


def test_rounding_is_averaged_and_asymmetry_refused():
    full = np.eye(3)
    full[0, 1] = 1e-8
    assert to_voigt(full)[5] == 0.5e-8
    full[0, 1] = 0.1
    with pytest.raises(ValueError, match=r"must be symmetric, found a difference of 0.1"):
        to_voigt(full)


@pytest.mark.parametrize("shape", [(), (5,), (3,), (2, 3), (3, 3, 1), (6, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape must be"):
        to_voigt(np.zeros(shape))
