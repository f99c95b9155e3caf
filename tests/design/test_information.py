from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.design import Information, compress
from kernelpot.errors import DataError, ParameterError
from tests.design.pools import matrix, pool

seeds = st.integers(0, 10_000)


def test_representation_is_one_line_with_the_true_numbers_of_labels():
    info = pool(5).truncated(0.3)
    text = repr(replace(info, description={"energy": 0.002}))
    assert str(info) == repr(info)
    assert "\n" not in text
    assert len(text) < 200
    true = info.counts.sum(axis=0)
    assert f"Information(5 structures, {info.d} weights, {true.sum()} rows: {true[0]} energy, {true[1]} forces" in text
    assert f"{len(info.rows)} after compression" in text
    assert text.endswith("; energy 0.002)")


def test_arrays_are_read_only():
    info = pool()
    with pytest.raises(ValueError, match="read-only"):
        info.rows[0, 0] = 1.0


@given(seeds)
def test_append_adds_information_and_take_divides_it(seed):
    one, two = pool(4, seed=seed), pool(5, seed=seed + 1)
    both = one.append(two)
    assert len(both) == 9
    np.testing.assert_allclose(matrix(both), matrix(one) + matrix(two) - np.eye(6))
    back = both.take(range(4, 9))
    np.testing.assert_array_equal(back.rows, two.rows)
    np.testing.assert_array_equal(back.counts, two.counts)
    mixed = both.take([6, -1, 2])
    for k, s in enumerate([6, 8, 2]):
        np.testing.assert_array_equal(mixed.block(k), both.block(s))
        assert mixed.groups[k] == both.groups[s]


@given(seeds)
def test_only_keeps_the_rows_of_the_named_kinds(seed):
    info = pool(seed=seed).truncated(0.01)
    forces = info.only("forces")
    assert len(forces) == len(info)
    assert (forces.kinds == 1).all()
    assert not forces.counts[:, 0].any()
    assert not forces.discarded[:, 0].any()
    for s in range(len(info)):
        own = info.kinds[info.offsets[s] : info.offsets[s + 1]]
        np.testing.assert_array_equal(forces.block(s), info.block(s)[own == 1])
    both = matrix(forces) + matrix(info.only("energy")) - np.eye(info.d)
    np.testing.assert_allclose(both, matrix(info))


def test_target_is_the_sum_over_kinds_of_means_over_true_rows():
    info = pool(heights=(9, 20))
    energy, forces = info.rows[info.kinds == 0], info.rows[info.kinds == 1]
    expected = energy.T @ energy / 8 + 0.5 * forces.T @ forces / (info.counts[:, 1].sum())
    np.testing.assert_allclose(info.target({"forces": 0.5}), expected, atol=1e-14)
    # Compression to triangular factors changes the number of rows, not the mean.
    np.testing.assert_allclose(info.truncated(0.0).target({"forces": 0.5}), expected, atol=1e-12)


@given(seeds, st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 0.5]))
def test_truncation_loses_at_most_the_share_of_each_kind_and_records_it(seed, share):
    full = pool(seed=seed)
    short = full.truncated(share)
    np.testing.assert_array_equal(short.counts, full.counts)
    assert np.diff(short.offsets).max(initial=0) <= 2 * full.d
    for s in range(len(full)):
        for kind, name in enumerate(("energy", "forces")):
            before, after = full.only(name).block(s), short.only(name).block(s)
            trace = np.square(before).sum()
            lost = before.T @ before - after.T @ after
            assert np.linalg.eigvalsh(lost)[0] >= -1e-12 * max(trace, 1.0)
            assert short.discarded[s, kind] == pytest.approx(np.trace(lost), abs=1e-12 * max(trace, 1.0))
            assert short.discarded[s, kind] <= share * trace
    # log det changes by less than the trace of what was lost, as the prior is I.
    change = np.linalg.slogdet(matrix(full))[1] - np.linalg.slogdet(matrix(short))[1]
    assert -1e-9 <= change <= short.discarded.sum() + 1e-9


def test_truncating_again_adds_to_what_was_discarded():
    once = pool(heights=(20,)).truncated(0.05)
    twice = once.truncated(0.3)
    assert (twice.discarded >= once.discarded).all()
    assert twice.discarded.sum() > once.discarded.sum()


def test_compress_survives_rows_of_wildly_different_size():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30, 40)) * np.logspace(5, -3, 40)
    short, lost = compress(rows, 1e-4)
    assert len(short) < 12
    assert 0 < lost <= 1e-4 * np.square(rows).sum()
    assert compress(np.zeros((3, 4)), 0.1)[1] == 0.0


def test_from_rows_puts_the_prior_into_the_units():
    X = np.random.default_rng(0).standard_normal((20, 3))
    info = Information.from_rows(X, sigma=0.5, prior=1e-2)
    plain = 1e-2 * np.eye(3) + X.T @ X / 0.25
    np.testing.assert_allclose(matrix(info) * 1e-2, plain)


def test_rows_that_are_not_finite_name_their_structure():
    info = pool(heights=(3,))
    rows = info.rows.copy()
    rows[7, 2] = np.nan
    with pytest.raises(DataError, match="structure 2 has rows that are not finite"):
        replace(info, rows=rows)
    means = info.means.copy()
    means[5, 0] = np.inf
    with pytest.raises(DataError, match="structure 5 has a mean descriptor that is not finite"):
        replace(info, means=means)
    with pytest.raises(DataError, match="not finite"):
        compress(np.array([[np.nan]]), 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": np.full(24, 3)}, "`kinds` must be positions"),
        ({"kinds": np.zeros(3)}, "`kinds` must have the shape"),
        ({"sigma": np.zeros(24)}, "`sigma` must be positive"),
        ({"n_atoms": np.zeros(8)}, "`n_atoms` must be at least 1"),
        ({"counts": np.zeros((8, 3))}, "`counts` says structure 0 has 0 energy rows"),
        ({"discarded": -np.ones((8, 3))}, "`discarded` must be finite"),
        ({"groups": ("a",)}, "`groups` must name"),
        ({"offsets": np.arange(9)}, "`offsets` must rise"),
        ({"rows": np.zeros(4)}, "`rows` must have the shape"),
        ({"means": np.zeros((2, 2))}, "`means` must have the shape"),
    ],
)
def test_arrays_that_do_not_agree_are_refused(change, message):
    with pytest.raises(ParameterError, match=message):
        replace(pool(heights=(3,)), **change)


def test_wrong_arguments_are_refused():
    info = pool()
    with pytest.raises(ParameterError, match="unknown label kind 'virial'"):
        info.only("virial")
    with pytest.raises(ParameterError, match=r"`weights\['energy'\]`"):
        info.target({"energy": -1.0})
    with pytest.raises(ParameterError, match="`share` must be a finite number"):
        info.truncated(1.0)
    with pytest.raises(ParameterError, match="`indices` must lie"):
        info.take([8])
    with pytest.raises(ParameterError, match="structure 9 asked for"):
        info.block(9)
    with pytest.raises(ParameterError, match="one feature map"):
        info.append(pool(d=5))
    with pytest.raises(ParameterError, match="at least one structure"):
        Information.from_blocks([], n_atoms=[])
    with pytest.raises(ParameterError, match="`prior` must be a finite number above 0"):
        Information.from_rows(np.ones((2, 2)), prior=0.0)


def test_target_root_is_a_factor_of_the_target():
    info = pool()
    L = info.target_root({"forces": 2.0})
    np.testing.assert_allclose(L @ L.T, info.target({"forces": 2.0}), atol=1e-13)
    assert pool(heights=(0,)).target_root().shape == (6, 0)
