from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.data.noise import KINDS, Noise
from kernelpot.errors import ParameterError

positive = st.floats(1e-6, 1e3)


def test_kinds_are_in_the_order_of_their_codes():
    assert KINDS == ("energy", "forces", "stress")
    assert Noise(energy=None, stress=0.01).kinds == ("forces", "stress")


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "0.1", True])
@pytest.mark.parametrize("kind", KINDS)
def test_values_must_be_positive_finite_numbers(kind, value):
    with pytest.raises(ParameterError, match=f"`{kind}` must be positive and in eV"):
        Noise(**{kind: value})


def test_one_kind_at_least_must_have_a_noise():
    with pytest.raises(ParameterError, match="at least one of energy, forces and stress"):
        Noise(energy=None, forces=None)


def test_sigma_names_the_kind_that_is_missing_or_unknown():
    with pytest.raises(ParameterError, match="`stress` must have a noise"):
        Noise().sigma("stress")
    with pytest.raises(ParameterError, match="must be one of energy, forces, stress, got 'virial'"):
        Noise().sigma("virial")


def test_numpy_numbers_become_floats():
    assert type(Noise(energy=np.float32(0.5)).energy) is float


def test_noise_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Noise().energy = 1.0


@given(energy=positive, forces=positive, virial=positive, n=st.integers(1, 500), volume=positive)
def test_from_gap_equals_gap_at_the_given_size(energy, forces, virial, n, volume):
    noise = Noise.from_gap(energy, forces, virial, n_atoms=n, volume=volume)
    assert n * noise.sigma("energy") == pytest.approx(energy * math.sqrt(n))
    assert volume * noise.sigma("stress") == pytest.approx(virial * math.sqrt(n))
    assert noise.forces == forces


def test_from_gap_needs_a_volume_for_virials():
    with pytest.raises(ParameterError, match="`volume` must be given with `virial`"):
        Noise.from_gap(0.001, 0.1, 0.05, n_atoms=64)
    with pytest.raises(ParameterError, match="`virial` must be a finite number above 0"):
        Noise.from_gap(0.001, 0.1, 0.0, n_atoms=64, volume=1000.0)


def test_prints_values_with_units():
    assert str(Noise(stress=0.005)) == "energy 0.002 eV/atom, forces 0.1 eV/Å, stress 0.005 eV/Å³"
