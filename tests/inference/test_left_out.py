"""The value that left-out errors come in."""

import numpy as np
import pytest

from kernelpot.inference.left_out import LeftOut


@pytest.fixture
def pooled_and_single():
    rng = np.random.default_rng(0)
    error, variance, witness = rng.normal(size=7), rng.uniform(1, 2, 7), np.array([3, 0, 0, 3, 3, 1, 0])
    single = LeftOut(error, variance, witness, np.ones(7, dtype=np.int64), noisy=False)
    return single.pooled(), single


def test_pooling_keeps_the_mean_square_of_all_labels_and_its_expectation(pooled_and_single):
    pooled, single = pooled_and_single
    assert pooled.rows.tolist() == [3, 1, 3]
    assert pooled.witness.tolist() == [0, 1, 3]
    assert not pooled.noisy
    assert pooled.rmse == pytest.approx(single.rmse, rel=1e-14)
    assert pooled.mean(pooled.variance) == pytest.approx(single.mean(single.variance), rel=1e-14)
    assert pooled.pooled().error == pytest.approx(pooled.error, rel=1e-14)


def test_a_part_is_a_part_of_everything(pooled_and_single):
    pooled, _ = pooled_and_single
    part = pooled.take(pooled.witness > 0)
    assert len(part) == 2
    assert part.rows.tolist() == [1, 3]
    assert part.rmse == pytest.approx(np.sqrt((part.squared @ [1, 3]) / 4), rel=1e-14)


def test_outputs_share_a_variance_or_have_one_each():
    error, variance = np.array([[1.0, 4.0], [3.0, 0.0]]), np.array([1.0, 2.0])
    left = LeftOut.one_by_one(error, variance)
    assert left.ratio.tolist() == [(1 + 4.5) / 2, 8.0]
    each = LeftOut.one_by_one(error, np.stack([variance, 2 * variance], axis=1))
    assert each.ratio.tolist() == [(1 + 4.5) / 2, 4.0]
    assert left.rmse.tolist() == [5**0.5, 8**0.5]
    assert each.pooled().error.tolist() == error.tolist()
