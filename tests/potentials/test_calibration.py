"""The scale of standard deviations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.potentials.calibration import calibrate, common_scale
from kernelpot.potentials.fitted import Calibration
from kernelpot.potentials.noise_search import LeftOut


def draws(factor: float, noise: float, n: int = 40_000) -> LeftOut:
    """Squared errors of labels whose posterior std is too small by a factor, with added noise."""
    rng = np.random.default_rng(0)
    latent = rng.uniform(0.1, 2.0, n)
    errors = rng.standard_normal(n) * np.sqrt((factor * latent) ** 2 + noise**2)
    return LeftOut({"energy": float(np.sqrt(np.mean(errors**2)))}, {"energy": errors**2}, {"energy": latent**2})


@pytest.mark.parametrize("factor", [0.7, 1.0, 3.0])
def test_known_noise_leaves_the_true_factor(factor):
    calibration = calibrate({"energy": 0.2}, {"energy": 0.2}, 1.0, draws(factor, 0.2))
    assert calibration.factor["energy"] == pytest.approx(factor, rel=0.02)
    assert calibration.noise["energy"] == 0.2


def test_noise_above_all_errors_shrinks_the_factor_but_not_to_zero():
    calibration = calibrate({"energy": 10.0}, {"energy": 10.0}, 1.0, draws(1.0, 0.1))
    assert 0.0 < calibration.factor["energy"] < 1.0


@given(st.floats(0.1, 10.0))
def test_the_common_scale_is_that_of_the_errors(scale):
    assert common_scale({"energy": 0.5}, draws(scale, scale * 0.5), ("energy",)) == pytest.approx(scale, rel=0.03)


def test_errors_of_exactly_zero_leave_a_positive_scale():
    left = LeftOut({"energy": 0.0}, {"energy": np.zeros(4)}, {"energy": np.ones(4)})
    assert common_scale({"energy": 0.5}, left, ("energy",)) > 0
    assert calibrate({"energy": 0.5}, {"energy": 0.5}, 1.0, left).factor["energy"] > 0
    assert calibrate({"energy": 0.0}, {"energy": 0.5}, 1.0, left).factor["energy"] > 0


def test_a_kind_that_was_not_fitted_takes_the_largest_factor():
    calibration = Calibration({"energy": 3.0, "forces": 0.5}, {"energy": 0.1, "forces": 0.2})
    assert calibration.label("stress", np.array([2.0])) == pytest.approx(6.0)
    assert calibration.label("forces", np.array([2.0])) == pytest.approx(np.hypot(1.0, 0.2))
    assert Calibration({}, {}).label("stress", np.array([2.0])) == pytest.approx(2.0)
