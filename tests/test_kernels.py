"""Kernels of unit vectors and their derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.errors import ParameterError


@settings(deadline=None, max_examples=40)
@given(zeta=st.integers(1, 16), s=st.floats(-1.0, 1.0))
def test_value_slope_and_curvature_are_those_of_a_power(zeta, s):
    kernel, power = kp.DotProduct(zeta), np.polynomial.Polynomial([0.0] * zeta + [1.0])
    x = np.array([s])
    np.testing.assert_allclose(kernel.value(x), power(x), rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(kernel.slope(x), power.deriv()(x), rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(kernel.curvature(x), power.deriv(2)(x), rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("zeta", [1, 2, 3, 7])
def test_gram_matrix_is_positive_semidefinite(zeta):
    x = np.random.default_rng(0).normal(size=(30, 5))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert np.linalg.eigvalsh(kp.DotProduct(zeta).value(x @ x.T)).min() > -1e-12


@pytest.mark.parametrize("zeta", [0, -1, 17, 1.5, 2.0, True, "2", None])
def test_zeta_is_checked(zeta):
    with pytest.raises(ParameterError, match="`zeta` must be a whole number from 1 to 16"):
        kp.DotProduct(zeta)


@pytest.mark.parametrize("amplitude", [0.0, -1.0, np.nan, np.inf])
def test_amplitude_is_checked(amplitude):
    with pytest.raises(ParameterError, match="`amplitude` must be positive and in eV"):
        kp.DotProduct(2, amplitude=amplitude)


@settings(deadline=None, max_examples=40)
@given(length=st.floats(0.1, 5.0), seed=st.integers(0, 2**16))
def test_gaussian_is_the_squared_exponential_of_unit_vectors(length, seed):
    x = np.random.default_rng(seed).normal(size=(6, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    square = ((x[:, None] - x[None]) ** 2).sum(-1)
    kernel = kp.Gaussian(length)
    found = kernel.value(x @ x.T)
    np.testing.assert_allclose(found, np.exp(-square / (2 * length**2)), rtol=1e-11)
    assert np.linalg.eigvalsh(found).min() > -1e-12
    s, h = np.linspace(-0.9, 0.9, 7), 1e-4
    slope = (kernel.value(s + h) - kernel.value(s - h)) / (2 * h)
    curvature = (kernel.slope(s + h) - kernel.slope(s - h)) / (2 * h)
    np.testing.assert_allclose(kernel.slope(s), slope, rtol=1e-3)
    np.testing.assert_allclose(kernel.curvature(s), curvature, rtol=1e-3)


@pytest.mark.parametrize("length", [0.0, -1.0, np.nan, np.inf, True, "1", None])
def test_length_is_checked(length):
    with pytest.raises(ParameterError, match=r"`length` must .*; it is a distance of unit vectors"):
        kp.Gaussian(length)


def test_only_low_powers_have_a_form_of_their_own():
    assert [kp.DotProduct(zeta).form for zeta in (1, 2, 3)] == [1, 2, None]
    assert kp.Gaussian().form is None


def test_settings_are_json_values():
    gaussian = kp.Gaussian(np.float64(0.5), 2)
    assert gaussian.settings() == {"name": "Gaussian", "length": 0.5, "amplitude": 2.0}
    assert kp.Gaussian.from_settings(gaussian.settings()) == gaussian

    assert kp.DotProduct(np.int64(3), 0.5).settings() == {"name": "DotProduct", "zeta": 3, "amplitude": 0.5}
