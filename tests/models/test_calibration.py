"""The scale of standard deviations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.models.calibration import calibrate_given, calibrate_searched
from kernelpot.models.noise_search import LeftOut


def draws(factor: float, noise: float, n: int = 40_000) -> LeftOut:
    """Squared errors of labels whose posterior std is too small by a factor, with added noise."""
    rng = np.random.default_rng(0)
    latent = rng.uniform(0.1, 2.0, n)
    errors = rng.standard_normal(n) * np.sqrt((factor * latent) ** 2 + noise**2)
    return LeftOut({"energy": float(np.sqrt(np.mean(errors**2)))}, {"energy": errors**2}, {"energy": latent**2})


@pytest.mark.parametrize("factor", [0.7, 1.0, 3.0])
def test_given_noise_leaves_the_true_factor(factor):
    calibration = calibrate_given({"energy": 0.2}, 1.0, draws(factor, 0.2))
    assert calibration.factor["energy"] == pytest.approx(factor, rel=0.02)
    assert calibration.noise["energy"] == 0.2


def test_noise_above_all_errors_shrinks_the_factor_but_not_to_zero():
    calibration = calibrate_given({"energy": 10.0}, 1.0, draws(1.0, 0.1))
    assert 0.0 < calibration.factor["energy"] < 1.0


@given(st.floats(0.1, 10.0))
def test_searched_ratios_scale_posterior_and_noise_together(scale):
    left = draws(scale, scale * 0.5, n=20_000)
    amplitude, calibration = calibrate_searched({"energy": 0.5}, left, ("energy",))
    assert amplitude * calibration.factor["energy"] == pytest.approx(scale, rel=0.03)
    assert calibration.noise["energy"] == pytest.approx(0.5 * scale, rel=0.03)


def test_errors_of_exactly_zero_leave_a_positive_scale():
    left = LeftOut({"energy": 0.0}, {"energy": np.zeros(4)}, {"energy": np.ones(4)})
    amplitude, calibration = calibrate_searched({"energy": 0.5}, left, ("energy",))
    assert amplitude > 0
    assert calibration.factor["energy"] == pytest.approx(1.0)
    assert calibrate_given({"energy": 0.5}, 1.0, left).factor["energy"] > 0
