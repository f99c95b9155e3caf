"""Outlying structures by brute force over distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot.design import Information
from kernelpot.design.advice.screen import FEWEST, NEIGHBOURS, distant, outliers
from kernelpot.errors import ParameterError


def cloud(n=60, f=5, seed=0):
    return np.random.default_rng(seed).standard_normal((n, f)), np.full(n, 8)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(1.05, 3.0))
def test_those_listed_are_those_beyond_the_stated_distance(seed, factor):
    means, sizes = cloud(seed=seed)
    means[:3] *= 4.0
    apart = np.sort(np.linalg.norm(means[:, None] - means, axis=2), axis=1)[:, NEIGHBOURS]
    expected = np.flatnonzero(apart > factor * np.quantile(apart, 0.9))
    assert [s for s, _ in distant(means, sizes, factor=factor)] == expected.tolist()


def test_a_few_broken_frames_that_resemble_each_other_are_found():
    means, sizes = cloud()
    means[:NEIGHBOURS] = 200.0 + 0.01 * means[:NEIGHBOURS]
    found = distant(means, sizes)
    assert [s for s, _ in found] == list(range(NEIGHBOURS))
    assert "times as far from its neighbours" in found[0][1]


def test_repeats_count_once_and_share_their_fate():
    means, _ = cloud()
    means[0] = 300.0
    twice = np.concatenate([means, means[:1], means[:1], means[:1], means[:1]])
    found = [s for s, _ in distant(twice, np.full(64, 8))]
    assert found == [0, 60, 61, 62, 63]


def test_atoms_dimers_and_small_pools_are_left_alone():
    means, sizes = cloud()
    means[0] = 300.0
    sizes[0] = 1
    assert distant(means, sizes) == []
    assert distant(means[: FEWEST - 1], sizes[: FEWEST - 1]) == []
    assert distant(np.empty((50, 0)), np.full(50, 8)) == []


def test_rows_far_larger_than_usual_are_listed():
    rng = np.random.default_rng(3)
    blocks = []
    for s in range(30):
        rows = rng.standard_normal((7, 4)) * (100.0 if s == 11 else 1.0)
        blocks.append((rows, np.array([0] + [1] * 6), np.ones(7)))
    info = Information.from_blocks(blocks, n_atoms=np.full(30, 2 + 3))
    ((s, reason),) = outliers(info)
    assert s == 11
    assert "energy rows are" in reason
    for share in (0.0, 0.3):
        assert [s for s, _ in outliers(info.truncated(share))] == [11]
    assert outliers(info.take(np.delete(np.arange(30), 11))) == []


def test_senseless_factors_are_refused():
    for factor in (1.0, 0.0, np.nan, np.inf):
        with pytest.raises(ParameterError, match="`factor` must be above 1"):
            distant(*cloud(), factor=factor)
