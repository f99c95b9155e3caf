from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.design import IV, A, D, Precision
from kernelpot.design.gains import Gains, Path
from kernelpot.errors import ParameterError
from tests.design.pools import matrix, pool

seeds = st.integers(0, 10_000)


def criteria(info):
    return [D(), A(info.d), IV(info.target())]


def plain(criterion, Lambda):
    if criterion.name == "D":
        return np.linalg.slogdet(Lambda)[1]
    return np.trace(criterion.root.T @ np.linalg.inv(Lambda) @ criterion.root)


@given(seeds, st.sampled_from([1.0, 30.0, 1e3]))
def test_gains_equal_differences_of_values(seed, scale):
    info = pool(seed=seed, scale=scale)
    for criterion in criteria(info):
        path = Path(criterion, Precision.prior(info.d))
        gains = Gains(info, path)
        live = np.ones(len(info), dtype=bool)
        sign = 1.0 if criterion.larger_is_better else -1.0
        for k, s in enumerate([3, 0, 5]):
            before = criterion.value(path.precision)
            noise = 1e-6 * gains.values.max() + 1e-8 * scale
            for c in range(len(info)):
                after = criterion.value(path.precision.with_rows(info.block(c)))
                assert gains.values[c] == pytest.approx(sign * (after - before), rel=1e-5, abs=noise)
            gains.add(s, live)
            assert path.values[-1] == pytest.approx(plain(criterion, matrix(info, [3, 0, 5][: k + 1])), rel=1e-7)


@given(seeds)
def test_gradient_is_the_derivative_in_the_information(seed):
    info = pool(seed=seed, scale=2.0)
    precision = Precision.prior(info.d).with_rows(info.rows)
    Lambda = precision.factor.T @ precision.factor
    rng = np.random.default_rng(seed)
    step = rng.standard_normal((info.d, info.d))
    step = step + step.T
    for criterion in criteria(info):
        h = 1e-5
        change = (plain(criterion, Lambda + h * step) - plain(criterion, Lambda - h * step)) / (2 * h)
        assert np.vdot(criterion.gradient(precision), step) == pytest.approx(change, rel=1e-5, abs=1e-7)


def test_the_bound_is_never_passed_by_any_set_of_the_same_size():
    for seed in range(20):
        info = pool(seed=seed, scale=3.0)
        for criterion in criteria(info):
            values = [plain(criterion, matrix(info, T)) for T in combinations(range(len(info)), 3)]
            best = max(values) if criterion.larger_is_better else min(values)
            precision = Precision.prior(info.d).with_rows(info.take([0, 1, 2]).rows)
            slope = criterion.gradient(precision) * (1 if criterion.larger_is_better else -1)
            g = np.array([np.trace(info.block(s) @ slope @ info.block(s).T) for s in range(len(info))])
            value = criterion.value(precision)
            bound = criterion.bound(value, np.sort(g)[-3:].sum() - g[:3].sum(), info.d)
            assert bound >= best - 1e-9 if criterion.larger_is_better else bound <= best + 1e-9
            true = np.exp((value - best) / info.d) if criterion.name == "D" else best / value
            assert criterion.efficiency(value, bound, info.d) <= true + 1e-9


def test_precision_is_exact_where_a_gram_matrix_would_not_be():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    rows = rng.standard_normal((200, 30)) * np.logspace(6, -2, 30)
    true = Precision.prior(30).with_rows(rows)
    turned = Precision.prior(30).with_rows(rows @ rotation)
    assert turned.logdet == pytest.approx(true.logdet, rel=1e-10)
    # The least eigenvalue of the information is 1 + 0.02, that of its largest is 2e14.
    assert np.linalg.eigvalsh(turned.covariance)[-1] == pytest.approx(np.linalg.eigvalsh(true.covariance)[-1], rel=1e-6)


def test_a_moment_that_is_no_second_moment_is_refused():
    with pytest.raises(ParameterError, match="symmetric"):
        IV(np.array([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ParameterError, match="positive semidefinite"):
        IV(-np.eye(2))
    with pytest.raises(ParameterError, match="finite square"):
        IV(np.full((2, 2), np.nan))
    with pytest.raises(ParameterError, match="needs H"):
        A(2).gains(np.ones((1, 1, 1)), None)
    with pytest.raises(ParameterError, match="rows of 2 weights"):
        Precision.prior(2).with_rows(np.ones((1, 3)))
