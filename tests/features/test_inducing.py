"""The choice of inducing environments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.data.stream import chunks, species_of
from kernelpot.errors import ParameterError
from kernelpot.features import inducing
from kernelpot.features.inducing import choose_inducing, mean_vectors, share_out
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


@pytest.mark.parametrize("method", ["fps", "cur", "random"])
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
