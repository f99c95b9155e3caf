"""Triangular factors against dense products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.linalg.factor import RowSink, stack, triangle


def rows(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.logspace(0, -3, d)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(0, 30), d=st.integers(1, 12), seed=st.integers(0, 1000))
def test_factor_keeps_the_gram_matrix_and_is_triangular(n, d, seed):
    a = rows(n, d, seed)
    r = triangle(a)
    assert r.shape == (min(n, d), d)
    assert (np.diag(r) >= 0).all()
    np.testing.assert_array_equal(r, np.triu(r))
    np.testing.assert_allclose(r.T @ r, a.T @ a, atol=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
def test_input_stays_as_it_was(order):
    a = np.array(rows(20, 6, 0), order=order)
    before = a.copy()
    triangle(a)
    triangle(a[:10])
    np.testing.assert_array_equal(a, before)


def test_zero_columns_are_allowed():
    a = rows(10, 4, 1)
    a[:, 2] = 0.0
    r = triangle(a)
    np.testing.assert_allclose(r.T @ r, a.T @ a, atol=1e-13)


def test_blocks_stack():
    blocks = [rows(n, 5, n) for n in (3, 0, 9)]
    np.testing.assert_allclose(stack(blocks), triangle(np.concatenate(blocks)), atol=1e-13)


@settings(deadline=None, max_examples=30)
@given(
    heights=st.lists(st.integers(0, 25), max_size=6),
    buffer=st.one_of(st.none(), st.integers(1, 20)),
    d=st.integers(1, 7),
)
def test_sink_equals_one_factorisation(heights, buffer, d):
    sink, blocks = RowSink(d, buffer), [rows(n, d, k) for k, n in enumerate(heights)]
    for block in blocks:
        sink.append(block)
    everything = np.concatenate([np.empty((0, d)), *blocks])
    assert sink.n_rows == len(everything)
    for _ in range(2):
        r = sink.factor()
        assert len(r) <= d
        np.testing.assert_allclose(r.T @ r, everything.T @ everything, atol=1e-12)


def test_condition_number_is_not_squared():
    # Singular values down to 1e-12: a Gram matrix would lose everything below 1e-8.
    rng = np.random.default_rng(3)
    u, _ = np.linalg.qr(rng.normal(size=(60, 6)))
    v, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    scale = np.logspace(0, -12, 6)
    r = triangle((u * scale) @ v.T)
    np.testing.assert_allclose(np.linalg.svd(r, compute_uv=False), scale, rtol=1e-3)
