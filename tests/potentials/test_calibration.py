"""The scale of standard deviations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.inference.left_out import LeftOut
from kernelpot.potentials.calibration import Calibration, calibrated, common_scale, quick_factor


def draws(factor: float, noise: float, n: int = 40_000) -> LeftOut:
    """Errors of labels whose posterior std is too small by a factor, with added noise."""
    rng = np.random.default_rng(0)
    latent = rng.uniform(0.1, 2.0, n)
    return LeftOut.one_by_one(
        rng.standard_normal(n) * np.sqrt((factor * latent) ** 2 + noise**2), latent**2, noisy=False
    )


@pytest.mark.parametrize("factor", [0.7, 1.0, 3.0])
def test_known_noise_leaves_the_true_factor(factor):
    old = Calibration({"energy": 1.0, "forces": 2.0}, {"energy": 0.2, "forces": 0.1})
    calibration = calibrated(old, {"energy": draws(factor, 0.2)}, "factor")
    assert calibration.factor["energy"] == pytest.approx(factor, rel=0.02)
    assert calibration.factor["forces"] == 2.0
    assert calibration.noise == old.noise


def test_noise_above_all_errors_shrinks_the_factor_but_not_to_zero():
    assert 0.0 < quick_factor(draws(1.0, 0.1), 10.0) < 1.0


@given(st.floats(0.1, 10.0))
def test_the_common_scale_is_that_of_the_errors(scale):
    left = {"energy": draws(scale, scale * 0.5)}
    assert common_scale({"energy": 0.5}, left, ("energy",)) == pytest.approx(scale, rel=0.03)


def test_errors_of_exactly_zero_leave_a_positive_scale():
    left = LeftOut.one_by_one(np.zeros(4), np.ones(4), noisy=False)
    assert common_scale({"energy": 0.5}, {"energy": left}, ("energy",)) > 0
    assert quick_factor(left, 0.5) > 0
    assert quick_factor(left, 0.0) > 0


def test_a_kind_that_was_not_fitted_takes_the_largest_factor():
    calibration = Calibration({"energy": 3.0, "forces": 0.5}, {"energy": 0.1, "forces": 0.2})
    assert calibration.label("stress", np.array([2.0])) == pytest.approx(6.0)
    assert calibration.label("forces", np.array([2.0])) == pytest.approx(np.hypot(1.0, 0.2))
    assert Calibration({}, {}).label("stress", np.array([2.0])) == pytest.approx(2.0)
