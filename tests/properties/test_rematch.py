"""REMatch: marginals, limits, DScribe's own kernel, and models that have to live with an indefinite matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import kernelpot as kp
from kernelpot.errors import ParameterError
from kernelpot.structures.rematch import _match
from tests import structures as make

SOAP = kp.SOAP(cutoff=3.5, n_max=3, l_max=2, species=(1, 6, 8))
MOLECULES = [make.ethanol(k) for k in range(5)]


@pytest.mark.parametrize("gamma", [1.0, 0.2])
def test_values_are_those_of_dscribe(gamma):
    kernels = pytest.importorskip("dscribe.kernels")
    encoded = kp.StructureKernel(SOAP).encode([*MOLECULES, make.isolated("O")])
    x = encoded.vectors / np.linalg.norm(encoded.vectors, axis=1)[:, None]
    features = np.split(x, encoded.offsets[1:-1])
    theirs = kernels.REMatchKernel(metric="linear", alpha=gamma, threshold=1e-10, normalize_kernel=True)
    ours = kp.StructureKernel(
        SOAP, kp.DotProduct(1), combine="rematch", gamma=gamma, between="all elements", normalise=True
    )
    np.testing.assert_allclose(ours.matrix(encoded), theirs.create(features), atol=1e-6)


def test_averages_are_those_of_dscribe():
    kernels = pytest.importorskip("dscribe.kernels")
    encoded = kp.StructureKernel(SOAP).encode(MOLECULES)
    features = np.split(encoded.vectors, encoded.offsets[1:-1])
    theirs = kernels.AverageKernel(metric="rbf", gamma=0.5, normalize_kernel=True).create(features)
    ours = kp.StructureKernel(
        SOAP, kp.properties.VectorKernel("rbf", length=1.0), combine="average", between="all elements", normalise=True
    )
    np.testing.assert_allclose(ours.matrix(encoded), theirs, rtol=1e-10)


def plain_sinkhorn(c, gamma):
    n, m = c.shape
    k = np.exp((c - c.max()) / gamma)
    v = np.ones(m)
    for _ in range(10_000):
        u = 1 / (n * (k @ v))
        v = 1 / (m * (k.T @ u))
    return (u[:, None] * k * v * c).sum()


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_a_plain_iteration(seed):
    rng = np.random.default_rng(seed)
    c = rng.uniform(size=(rng.integers(1, 7), rng.integers(1, 7)))
    found, converged = _match(c, 0.1)
    assert converged
    assert found == pytest.approx(plain_sinkhorn(c, 0.1), abs=1e-8)


@given(st.integers(0, 10**6), st.floats(-3.0, 1.0), st.booleans())
def test_every_plan_converges_within_its_bounds(seed, power, apart):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 12, 2)
    c = rng.uniform(size=(n, m))
    if apart:
        # Elements that do not mix, in different numbers.
        c[rng.integers(0, 2, n)[:, None] != rng.integers(0, 2, m)] = 0.0
    value, converged = _match(c, 10.0**power)
    assert converged
    assert c.mean() - 1e-7 <= value <= c.max() + 1e-7
    assert value == pytest.approx(_match(np.ascontiguousarray(c.T), 10.0**power)[0], abs=1e-6)


def test_the_limits_are_the_average_and_the_best_assignment():
    rng = np.random.default_rng(0)
    c = rng.uniform(size=(8, 8))
    assert _match(c, 1e5)[0] == pytest.approx(c.mean(), abs=1e-5)
    best = c[linear_sum_assignment(-c)].mean()
    assert _match(c, 1e-3)[0] == pytest.approx(best, abs=1e-3)


def test_different_elements_do_not_match():
    encoded = kp.StructureKernel(SOAP).encode([make.isolated("O"), make.isolated("H")])
    kernel = kp.StructureKernel(SOAP, combine="rematch")
    np.testing.assert_allclose(kernel.matrix(encoded), np.eye(2), atol=1e-12)


def test_a_plan_that_does_not_converge_is_an_error(monkeypatch):
    monkeypatch.setattr("kernelpot.structures.rematch._plans", lambda *_: False)
    with pytest.raises(ParameterError, match=r"`gamma` 0\.1 is too small"):
        kp.StructureKernel(SOAP, combine="rematch").matrix(MOLECULES)


def test_ridge_regression_shifts_what_is_negative_and_says_so():
    """A stand-in for an indefinite best match: the smallest eigenvalue is made -0.01.

    Noise and shift are 0.02 together, whatever alpha is below: a noise of 0.01 would leave an eigenvalue near zero, and
    with it weights without bound.
    """

    class Indefinite(kp.StructureKernel):
        def matrix(self, a, b=None):
            k = super().matrix(a, b)
            if b is None:
                values, vectors = np.linalg.eigh(k)
                return (vectors * np.where(np.arange(len(k)) == 0, -0.01, values)) @ vectors.T
            return k

    kernel = Indefinite(SOAP, combine="rematch", normalise=True)
    kernel._with = lambda *_: kernel
    y = np.arange(5.0)
    model = kp.KernelRidge(kernel, alpha=1e-6).fit(kernel.encode(MOLECULES), y)
    assert model.jitter_ == pytest.approx(0.02, rel=1e-3)
    for alpha in (1e-8, 0.01001, 0.015):
        again = kp.KernelRidge(kernel, alpha=alpha).fit(kernel.encode(MOLECULES), y)
        np.testing.assert_allclose(again.predict(MOLECULES), model.predict(MOLECULES), atol=1e-9)
        np.testing.assert_allclose(again.std(MOLECULES), model.std(MOLECULES), rtol=1e-9)
    assert abs(model.posterior_.dual).max() < 2.0 / 0.01
    assert kp.KernelRidge(kernel, alpha=0.1).fit(kernel.encode(MOLECULES), y).jitter_ == 0.0
    kernel.combine = "sum"
    with pytest.raises(ParameterError, match=r"must be positive semidefinite, its smallest eigenvalue is -0\.01"):
        kp.KernelRidge(kernel, alpha=1e-6).fit(kernel.encode(MOLECULES), y)


def test_ridge_regression_fits_with_a_best_match():
    y = np.array([atoms.get_distance(0, 1) for atoms in MOLECULES])
    kernel = kp.StructureKernel(SOAP, kp.Gaussian(0.3), combine="rematch", normalise=True)
    model = kp.KernelRidge(kernel, alpha=1e-8).fit(MOLECULES, y)
    np.testing.assert_allclose(model.predict(MOLECULES), y, atol=1e-5)
    inducing = kp.KernelRidge(kernel, alpha=1e-8, n_inducing=4).fit(MOLECULES, y)
    assert np.isfinite(inducing.predict(MOLECULES)).all()
