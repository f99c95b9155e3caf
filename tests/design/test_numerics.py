"""Blocks that ask much of the arithmetic."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from kernelpot.design import Information, certify, select


def dependent(seed, scale, noise=1e-3, d=20):
    """Tall, large blocks whose rows are nearly dependent."""
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.standard_normal(d))
    blocks = []
    for _ in range(40):
        rows = rng.standard_normal((10, 2)) @ rng.standard_normal((2, d)) + noise * rng.standard_normal((10, d))
        blocks.append((rows * weights * scale, [0] + [1] * 9, [1.0] * 10))
    return Information.from_blocks(blocks, n_atoms=[1] * 40)


@pytest.mark.parametrize("scale", [1e3, 3e3, 1e4, 1e6])
@pytest.mark.parametrize("noise", [1e-3, 0.0])
def test_nearly_dependent_rows_end_in_a_choice(scale, noise):
    for seed in range(3):
        info = dependent(seed, scale, noise)
        for criterion in ("D", "IV", {"D": 1, "IV": 1}):
            for lazy in (None, False, True):
                choice = select(info, 15, criterion=criterion, lazy=lazy)
                assert len(set(choice.indices.tolist())) == 15
                assert np.isfinite(choice.curve).all()
                assert (
                    np.diff(choice.curve) * (1 if choice.larger_is_better else -1) > -1e-6 * abs(choice.curve[1])
                ).all()


def test_the_curve_of_d_keeps_its_digits_where_columns_span_twelve_decades():
    rng = np.random.default_rng(0)
    blocks = [(rng.standard_normal((8, 6)) * np.logspace(-6, 6, 6), [0] + [1] * 7, [1.0] * 8) for _ in range(6)]
    info = Information.from_blocks(blocks, n_atoms=[1] * 6)
    choice = select(info, 4, criterion="D")
    with mpmath.workdps(80):
        now = mpmath.eye(6)
        for k, s in enumerate(choice.indices):
            B = mpmath.matrix(info.block(int(s)).tolist())
            now = now + B.T * B
            assert choice.curve[k + 1] == pytest.approx(float(mpmath.log(mpmath.det(now))), rel=1e-7)


def test_limits_with_nothing_to_spend_or_to_learn_are_no_crash():
    info = Information.from_rows(np.random.default_rng(0).standard_normal((5, 3)))
    ones, zeros = [1.0] * 5, [0.0] * 5
    two = {"costs": {"a": zeros, "b": ones}, "budget": {"a": 5.0, "b": 5.0}}
    assert len(select(info, 2, **two)) == 2
    both = {"costs": {"a": ones, "b": ones}, "budget": {"a": 5.0, "b": 5.0}}
    assert len(select(info, 0, method="relaxation", **both)) == 0
    for criterion in ("V", {"G": 1, "D": 1}):
        shown = certify(info, [0, 1], criterion=criterion, target=np.zeros((1, 3)), **both)
        assert shown.efficiency == pytest.approx(1.0, abs=1e-6) or 0 < shown.efficiency <= 1
