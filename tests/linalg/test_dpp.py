"""Determinantal point processes against enumeration."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from kernelpot.errors import ParameterError
from kernelpot.linalg.volumes import dpp_greedy, dpp_sample, log_elementary, off_span

seeds = st.integers(0, 10_000)


@given(st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=7))
def test_elementary_symmetric_polynomials_are_sums_over_subsets(values):
    E = log_elementary(np.log(values), len(values))
    for j in range(len(values) + 1):
        for k in range(j + 1):
            plain = sum(np.prod(chosen) for chosen in combinations(values[:j], k))
            assert E[k, j] == pytest.approx(np.log(plain), rel=1e-9, abs=1e-9)
        assert (E[j + 1 :, j] == -np.inf).all()


def test_polynomials_of_many_eigenvalues_stay_finite():
    # e_k of n ones is the number of subsets; 10^300 to the power of k would overflow.
    from scipy.special import gammaln

    E = log_elementary(np.full(2000, 300.0), 100)
    count = gammaln(2001) - gammaln(101) - gammaln(1901)
    assert E[100, 2000] == pytest.approx(100 * 300.0 + count)


@pytest.mark.parametrize("shape", [(7, 4), (6, 9)])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_subsets_are_drawn_with_their_exact_probabilities(shape, k):
    X = np.random.default_rng(1).standard_normal(shape) * np.linspace(1.0, 0.3, shape[1])
    L = X @ X.T
    subsets = list(combinations(range(shape[0]), k))
    weights = np.array([np.linalg.det(L[np.ix_(s, s)]) for s in subsets])
    rng = np.random.default_rng(0)
    n = 4000
    place = {s: t for t, s in enumerate(subsets)}
    found = np.bincount([place[tuple(sorted(dpp_sample(X, k, rng)))] for _ in range(n)], minlength=len(subsets))
    expected = n * weights / weights.sum()
    # Rare subsets together, as the test needs at least five of each.
    rare = expected < 5
    groups = [(found[~rare], expected[~rare])]
    if expected[rare].sum() >= 5:
        groups.append(([found[rare].sum()], [expected[rare].sum()]))
    a, b = (np.concatenate(parts) for parts in zip(*groups, strict=True))
    assert chisquare(a, b * a.sum() / b.sum()).pvalue > 1e-3


def test_conditioning_is_the_projection_off_the_span():
    # P(A ∪ E) / P(E) is in proportion to det of L off the span of E.
    rng = np.random.default_rng(0)
    X, E = rng.standard_normal((6, 5)), rng.standard_normal((2, 5))
    rest = off_span(X, E)
    for s in combinations(range(6), 2):
        both = np.concatenate([E, X[list(s)]])
        ratio = np.linalg.det(both @ both.T) / np.linalg.det(E @ E.T)
        assert ratio == pytest.approx(np.linalg.det(rest[list(s)] @ rest[list(s)].T), rel=1e-9)


def test_a_sample_spans_no_more_than_there_are_directions():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 3)) @ rng.standard_normal((3, 8))
    drawn = dpp_sample(X, 10, rng)
    assert len(drawn) == len(set(drawn.tolist())) == 3
    assert len(dpp_greedy(X, 10)) == 3
    assert len(dpp_sample(np.zeros((4, 2)), 2, rng)) == len(dpp_greedy(np.zeros((4, 2)), 2)) == 0


@given(seeds, st.sampled_from([(20, 12), (9, 30)]))
def test_greedy_maximises_the_log_determinant_step_by_step(seed, shape):
    X = np.random.default_rng(seed).standard_normal(shape)
    L = X @ X.T
    chosen = []
    for _ in range(8):
        free = [i for i in range(len(X)) if i not in chosen]
        values = [np.linalg.slogdet(L[np.ix_([*chosen, i], [*chosen, i])])[1] for i in free]
        chosen.append(free[int(np.argmax(values))])
    np.testing.assert_array_equal(dpp_greedy(X, 8), chosen)


def test_too_many_are_refused():
    for draw in (lambda X, k: dpp_greedy(X, k), lambda X, k: dpp_sample(X, k, np.random.default_rng(0))):
        with pytest.raises(ParameterError, match="`k` must be between 1"):
            draw(np.ones((3, 2)), 4)
