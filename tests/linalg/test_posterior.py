"""The weight-space posterior against closed forms."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from kernelpot.linalg.factor import Posterior, triangle


def problem(n, d, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=n)


def block(b, y):
    return np.column_stack([b, y])


@settings(deadline=None, max_examples=30)
@given(n=st.integers(0, 20), d=st.integers(1, 8), seed=st.integers(0, 1000))
def test_mean_and_variance_are_those_of_ridge_regression(n, d, seed):
    b, y = problem(n, d, seed)
    posterior = Posterior.prior(d).condition([block(b, y)])
    precision = np.eye(d) + b.T @ b
    mean = np.linalg.solve(precision, b.T @ y)
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-11)
    probe = np.random.default_rng(seed + 1).normal(size=(3, d))
    covariance = probe @ np.linalg.solve(precision, probe.T)
    projected = posterior.project(probe)
    np.testing.assert_allclose(projected @ projected.T, covariance, atol=1e-11)
    np.testing.assert_allclose(posterior.variance(probe), np.diag(covariance), atol=1e-11)
    assert posterior.log_determinant == pytest.approx(np.linalg.slogdet(precision)[1], abs=1e-10)
    assert posterior.misfit**2 == pytest.approx(np.sum((y - b @ mean) ** 2) + mean @ mean, abs=1e-10)


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 15), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_conditioning_in_steps_equals_all_at_once(cuts, seed):
    b, y = problem(15, 4, seed)
    whole = Posterior.prior(4).condition([block(b, y)])
    steps = Posterior.prior(4)
    for part in np.split(block(b, y), sorted(cuts)):
        steps = steps.condition([part])
    np.testing.assert_allclose(steps.factor, whole.factor, atol=1e-12)
    np.testing.assert_allclose(steps.mean, whole.mean, atol=1e-12)
    assert steps.misfit == pytest.approx(whole.misfit, abs=1e-11)
    by_factor = Posterior.prior(4).condition([triangle(block(b, y))])
    np.testing.assert_allclose(by_factor.mean, whole.mean, atol=1e-12)


def test_conditioning_returns_a_new_posterior():
    prior = Posterior.prior(3)
    b, y = problem(5, 3, 0)
    prior.condition([block(b, y)])
    np.testing.assert_array_equal(prior.factor, np.eye(3))
    np.testing.assert_array_equal(prior.mean, 0.0)
    assert prior.condition([]).log_determinant == pytest.approx(0.0, abs=1e-15)


def test_log_evidence_is_the_density_of_the_labels():
    b, y = problem(12, 4, 2)
    sigma = np.linspace(0.3, 2.0, 12)
    posterior = Posterior.prior(4).condition([block(b / sigma[:, None], y / sigma)])
    density = multivariate_normal(np.zeros(12), b @ b.T + np.diag(sigma**2)).logpdf(y)
    assert posterior.log_evidence(float(np.log(sigma).sum()), 12) == pytest.approx(density, rel=1e-12)


def test_rows_of_very_different_size_stay_exact():
    # Columns from 1 to 1e6 and noise of 1e-3 make a precision of condition 1e18; QR only meets its square root.
    rng = np.random.default_rng(5)
    b = rng.normal(size=(40, 5)) * np.logspace(0, 6, 5) * 1e3
    y = b @ (rng.normal(size=5) / np.logspace(0, 6, 5)) + rng.normal(size=40)
    posterior = Posterior.prior(5).condition([block(b, y)])
    with mpmath.workdps(60):
        exact_b, exact_y = mpmath.matrix(b.tolist()), mpmath.matrix(y.tolist())
        precision = exact_b.T * exact_b + mpmath.eye(5)
        mean = mpmath.lu_solve(precision, exact_b.T * exact_y)
        variance = mpmath.inverse(precision)
        exact_mean = np.array([float(v) for v in mean])
        exact_variance = np.array([float(variance[k, k]) for k in range(5)])
    np.testing.assert_allclose(posterior.mean, exact_mean, rtol=1e-8)
    np.testing.assert_allclose(posterior.variance(np.eye(5)), exact_variance, rtol=1e-8)


def test_recentring_the_prior_equals_conditioning_on_shifted_targets():
    b, y = problem(9, 4, 7)
    shift = np.array([0.0, 3.0, -20.0, 0.5])
    moved = Posterior.prior(4).condition([block(b, y)]).recentred(shift)
    expected = Posterior.prior(4).condition([block(b, y - b @ shift)])
    np.testing.assert_allclose(moved.mean, expected.mean, atol=1e-12)
    np.testing.assert_array_equal(moved.factor, Posterior.prior(4).condition([block(b, y)]).factor)
    assert moved.misfit == pytest.approx(expected.misfit, rel=1e-10)
