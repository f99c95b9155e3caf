"""The choice of inducing environments."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.data.stream import chunks, species_of
from kernelpot.errors import ParameterError
from kernelpot.features import inducing
from kernelpot.features.inducing import allot, choose_inducing, lack_of, mean_vectors, share_out
from kernelpot.kernels import DotProduct
from tests import structures as make
from tests.potentials import small_soap


@settings(deadline=None, max_examples=200)
@given(n=st.integers(1, 3000), available=st.lists(st.integers(1, 2000), min_size=1, max_size=6))
def test_shares_use_the_whole_limit_and_respect_minimums(n, available):
    available = np.array(available)
    if n < len(available):
        with pytest.raises(ParameterError, match="at least one for each of"):
            share_out(n, available)
        return
    share = share_out(n, available)
    assert share.sum() == min(n, available.sum())
    assert (share >= 1).all()
    assert (share <= available).all()
    least = np.minimum(50, available)
    if n >= least.sum():
        assert (share >= least).all()


def test_shares_follow_the_number_of_environments():
    np.testing.assert_array_equal(share_out(400, np.array([3000, 1000])), [300, 100])
    np.testing.assert_array_equal(share_out(400, np.array([10_000, 60])), [350, 50])
    np.testing.assert_array_equal(share_out(400, np.array([10_000, 20])), [380, 20])
    np.testing.assert_array_equal(np.sort(share_out(7, np.array([100, 100, 100]))), [2, 2, 3])


@pytest.mark.parametrize("method", ["fps", "cur", "random", "residual"])
def test_chosen_are_environments_of_their_species(method):
    structures = [make.copper_gold(k) for k in range(6)]
    soap = small_soap().with_species(species_of(structures))
    first, again = (choose_inducing(soap, structures, 12, method=method, seed=3) for _ in range(2))
    pools = inducing.environments_of(soap, structures, soap.species, 0)
    assert sum(len(z) for z in first) == 12
    for z, same, pool in zip(first, again, pools, strict=True):
        np.testing.assert_array_equal(z, same)
        distance = np.linalg.norm(z[:, None] - pool[None], axis=2)
        assert distance.min(axis=1).max() < 1e-12
        assert len(np.unique(distance.argmin(axis=1))) == len(z)
    other = choose_inducing(soap, structures, 12, method=method, seed=4)
    assert any((z != o).any() for z, o in zip(first, other, strict=True))


def test_farthest_points_leave_equal_environments_out():
    atoms = make.tiny_cell(0).repeat(2)
    soap = small_soap().with_species((29,))
    (z,) = choose_inducing(soap, [atoms], 8, method="fps", seed=0)
    assert len(z) == 1


def test_chunks_cover_everything_once():
    structures = [make.copper(0)] * 7
    assert list(chunks(structures, 8)) == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert list(chunks(structures, 1)) == [(k, k + 1) for k in range(7)]
    assert list(chunks([], 8)) == []


def test_mean_vectors_are_means_of_unit_vectors():
    structures = [make.copper_gold(1), make.isolated("Au"), make.slab(0)]
    soap = small_soap().with_species((29, 79))
    means = mean_vectors(soap, structures)
    np.testing.assert_allclose(means[1] @ means[1], 1.0)
    single = np.concatenate([mean_vectors(soap, [atoms]) for atoms in structures])
    np.testing.assert_allclose(means, single, atol=1e-14)


def test_thinned_pools_keep_every_species(monkeypatch):
    structures = [make.copper_gold(k) for k in range(40)]
    soap = small_soap().with_species((29, 79))
    whole = inducing.environments_of(soap, structures, soap.species, 0)
    monkeypatch.setattr(inducing, "POOL_BYTES", sum(x.nbytes for x in whole) // 2)
    thin = inducing.environments_of(soap, structures, soap.species, 0)
    assert 0.2 < sum(map(len, thin)) / sum(map(len, whole)) < 0.8
    assert min(map(len, thin)) > 0


def test_more_than_a_machine_can_count_is_all_there_are():
    assert share_out(10**30, np.array([3, 4])).tolist() == [3, 4]


@settings(deadline=None, max_examples=100)
@given(
    falls=st.lists(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=5), min_size=1, max_size=3), n=st.integers(1, 15)
)
def test_an_allotment_is_the_best_of_all(falls, n):
    """Of convex residuals the sum of what is left is least among all shares of at least one each."""
    falls = [np.sort(fall)[::-1] for fall in falls]
    lacks = [fall.sum() - np.concatenate([[0.0], np.cumsum(fall)]) for fall in falls]
    if n < len(falls):
        with pytest.raises(ParameterError, match="at least one for each of"):
            allot(n, lacks)
        return
    share = allot(n, lacks)
    n = min(n, sum(map(len, falls)))
    assert share.sum() == n
    assert (share >= 1).all()
    left = lambda shares: sum(lack[m] for lack, m in zip(lacks, shares, strict=True))  # noqa: E731
    every = [m for m in product(*(range(1, len(fall) + 1) for fall in falls)) if sum(m) == n]
    assert left(share) <= min(map(left, every)) + 1e-9


def test_what_a_species_lacks_is_the_trace_of_the_residual(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6))
    x /= np.linalg.norm(x, axis=1)[:, None]
    kernel = DotProduct(2)
    lack = lack_of(x, 12, kernel, seed=1)
    order = inducing.farthest_points(x, 12, seed=1, tol=inducing.DISTINCT)
    assert lack[0] == pytest.approx(40.0)
    for m in (1, 5, 12):
        k = kernel.value(x @ x[order[:m]].T)
        seen = np.einsum("nm,nm->n", k @ np.linalg.inv(kernel.value(x[order[:m]] @ x[order[:m]].T)), k)
        assert lack[m] == pytest.approx(np.sum(1.0 - seen), abs=1e-6)
    monkeypatch.setattr(inducing, "SAMPLE", 10)
    assert lack_of(x, 12, kernel, seed=1)[0] == pytest.approx(40.0)


def test_residual_shares_go_to_the_species_that_varies_and_leave_one_species_as_it_is():
    crystals = [make.silicon(k) for k in range(3)]
    soap = small_soap().with_species((14,))
    for z, same in zip(
        *(choose_inducing(soap, crystals, 9, method=method, seed=2) for method in ("fps", "residual")), strict=True
    ):
        np.testing.assert_array_equal(z, same)
    rng = np.random.default_rng(1)
    alike = np.eye(8)[:1] + 1e-3 * rng.normal(size=(200, 8))
    varied = rng.normal(size=(200, 8))
    found = [x / np.linalg.norm(x, axis=1)[:, None] for x in (alike, varied)]
    few, many = inducing.residual_shares(found, 30, DotProduct(2), 0)
    assert few + many == 30
    assert many > 3 * few
