"""Processes given labels, whichever way: what they know of labels that they did not see, and of all together."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import kernelpot as kp
from kernelpot.inference.exact import Exact, Factor, KernelPrior
from kernelpot.inference.regressors import Regressors

RNG = np.random.default_rng(0)
X, NEW = RNG.normal(size=(30, 2)), RNG.normal(size=(6, 2))
Y = np.sin(X) + 0.1 * RNG.normal(size=(30, 2))
NOISE = RNG.uniform(0.01, 0.03, 30)
KERNEL = kp.properties.VectorKernel("rbf", length=1.5)


def exact(rows=slice(None)):
    prior = KernelPrior(KERNEL, X[rows])
    return Exact(prior, Factor.steadied(prior.matrix(), NOISE[rows]), labels=Y[rows])


def inducing(rows=slice(None)):
    return Regressors(KernelPrior(KERNEL, X[:8]), X[rows]).condition(Y[rows], NOISE[rows])


def test_folds_are_left_out_with_the_variances_of_refits():
    folds = np.arange(30) % 4
    left = exact().left_out(folds)
    assert left.witness.tolist() == folds.tolist()
    for fold in range(4):
        mine = folds == fold
        part = exact(~mine)
        np.testing.assert_allclose(left.error[mine], Y[mine] - part.mean(X[mine]), atol=1e-10)
        np.testing.assert_allclose(left.variance[mine], part.variance(X[mine]) + NOISE[mine], rtol=1e-9)


def test_folds_of_one_item_are_single_items():
    one, folds = exact().left_out(), exact().left_out(np.arange(30))
    np.testing.assert_allclose(folds.error, one.error, rtol=1e-9)
    np.testing.assert_allclose(folds.variance, one.variance, rtol=1e-9)


@pytest.mark.parametrize("way", [exact, inducing])
def test_variances_are_the_diagonal_of_the_covariance(way):
    found = way()
    np.testing.assert_allclose(np.diag(found.covariance(NEW)), found.variance(NEW), rtol=1e-9)


@pytest.mark.parametrize("way", [exact, inducing])
def test_the_evidence_is_the_density_of_the_labels(way):
    cross = KERNEL.matrix(X, X[:8])
    seen = KERNEL.matrix(X) if way is exact else cross @ np.linalg.solve(KERNEL.matrix(X[:8]), cross.T)
    expected = sum(multivariate_normal(np.zeros(30), seen + np.diag(NOISE)).logpdf(y) for y in Y.T)
    assert way().log_evidence() == pytest.approx(expected, rel=1e-8)


def test_a_dual_is_as_good_as_labels():
    known = exact()
    again = Exact(known.prior, known.system, dual=known.dual)
    assert again.log_evidence() == pytest.approx(known.log_evidence(), rel=1e-10)
    np.testing.assert_array_equal(again.mean(NEW), known.mean(NEW))
