"""Kernels of vectors against those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn.gaussian_process.kernels import RBF, Matern
from sklearn.metrics import pairwise

from kernelpot.errors import DataError, ParameterError
from kernelpot.properties import VectorKernel
from kernelpot.structures.vector_kernel import KINDS

RNG = np.random.default_rng(0)
X, Z = RNG.normal(size=(700, 3)), RNG.normal(size=(5, 3))
LENGTHS = np.array([0.5, 1.0, 3.0])
REFERENCES = {
    "rbf": lambda a, b: RBF(1.0)(a, b),
    "laplacian": lambda a, b: pairwise.laplacian_kernel(a, b, gamma=1.0),
    "exponential": lambda a, b: Matern(1.0, nu=0.5)(a, b),
    "matern32": lambda a, b: Matern(1.0, nu=1.5)(a, b),
    "matern52": lambda a, b: Matern(1.0, nu=2.5)(a, b),
    "linear": lambda a, b: pairwise.linear_kernel(a, b),
    "polynomial": lambda a, b: pairwise.polynomial_kernel(a, b, degree=3, gamma=1.0, coef0=1.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [0.7, LENGTHS])
def test_values_are_those_of_scikit_learn(kind, length):
    kernel = VectorKernel(kind, length=length)
    expected = REFERENCES[kind](X / length, Z / length)
    np.testing.assert_allclose(kernel.matrix(X, Z), expected, rtol=1e-9, atol=1e-12)
    whole = kernel.matrix(X)
    # The root of a rounded square: distances below 1e-7 are lost to round-off.
    np.testing.assert_allclose(whole, REFERENCES[kind](X / length, X / length), rtol=1e-9, atol=1e-6)
    np.testing.assert_array_equal(whole, whole.T)
    np.testing.assert_allclose(kernel.diagonal(X), np.diag(whole), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_diagonal_of_one_is_exact(kind):
    kernel = VectorKernel(kind, length=0.5)
    if kernel.stationary:
        np.testing.assert_array_equal(np.diag(kernel.matrix(X)), 1.0)


def test_lengths_by_default_are_medians_of_distinct_rows():
    few = X[:50]
    assert VectorKernel().prepared(few).length == pytest.approx(np.median(pdist(few)))
    assert VectorKernel("laplacian").prepared(few).length == pytest.approx(np.median(pdist(few, "cityblock")))
    assert VectorKernel("linear").prepared(few).length == pytest.approx(np.sqrt((few**2).sum(1).mean()))
    again = np.concatenate([few, few[:20]])
    assert VectorKernel().prepared(again).length == pytest.approx(VectorKernel().prepared(few).length)
    assert VectorKernel().prepared(np.ones((3, 2))).length == 1.0


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.floats(0.05, 20.0))
def test_positive_semidefinite(seed, kind, length):
    x = np.random.default_rng(seed).normal(size=(12, 4))
    x[3] = x[2]
    eigenvalues = np.linalg.eigvalsh(VectorKernel(kind, length=length).matrix(x))
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


@pytest.mark.parametrize(
    ("kernel", "x", "message"),
    [
        (VectorKernel("cubic"), X, "`kind` must be one of"),
        (VectorKernel(length=0.0), X, "`length`"),
        (VectorKernel(length=True), X, "`length`"),
        (VectorKernel(length=[1.0, -1.0, 1.0]), X, "`length` must hold one length from"),
        (VectorKernel(length=[1.0, 1.0]), X, "`length` must hold one for each of 3 features, got 2"),
        (VectorKernel("polynomial", degree=0), X, "`degree`"),
        (VectorKernel(), X[0], r"`X` must have the shape \(structures, features\)"),
        (VectorKernel(), np.empty((0, 3)), "`X` must have the shape"),
        (VectorKernel(), [["a"]], "`X` must hold real numbers"),
        (VectorKernel(), [[np.nan]], "found NaN or infinity"),
    ],
)
def test_bad_input_is_named(kernel, x, message):
    with pytest.raises(ParameterError if x is X else DataError, match=message):
        kernel.matrix(x)


def test_sets_of_other_features_are_refused():
    with pytest.raises(DataError, match="the same features, got 3 and 2"):
        VectorKernel(length=1.0).matrix(X, X[:, :2])
