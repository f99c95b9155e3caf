"""Tails and bends of standard deviations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from kernelpot.errors import ParameterError
from kernelpot.potentials.calibration import LEVELS, NORMAL, ONE, Shape, conformal_quantiles


def of_sizes(sizes, witnesses=10_000, **more):
    return Shape(quantiles=conformal_quantiles(np.asarray(sizes), witnesses), **more)


def test_without_quantiles_they_are_those_of_a_normal_distribution():
    for level in (0.1, ONE, 0.95, 0.9999):
        assert NORMAL.quantile(level) == pytest.approx(norm.ppf(0.5 + 0.5 * level), rel=1e-12)
    error, std = np.array([0.3, -2.0]), np.array([1.0, 0.5])
    assert NORMAL.log_density(error, std) == pytest.approx(norm.logpdf(error, scale=std))


def test_quantiles_of_normal_errors_are_the_normal_ones():
    sizes = np.abs(norm.ppf((np.arange(200_000) + 0.5) / 200_000))
    shape = of_sizes(sizes)
    for level in (0.05, 0.33, 0.68, 0.95, 0.997):
        assert shape.quantile(level) == pytest.approx(norm.ppf(0.5 + 0.5 * level), rel=0.01)
    assert shape.degrees_of_freedom > 1000


@given(st.floats(2.0, 20.0))
def test_heavy_tails_give_back_their_degrees_of_freedom(nu):
    sizes = np.abs(t.ppf((np.arange(100_000) + 0.5) / 100_000, nu))
    shape = of_sizes(sizes / t.ppf(0.5 + 0.5 * ONE, nu))
    assert shape.degrees_of_freedom == pytest.approx(nu, rel=0.1)
    error = np.array([0.0, 1.0, 5.0])
    exact = t.logpdf(error, nu, scale=1 / t.ppf(0.5 + 0.5 * ONE, nu))
    assert shape.log_density(error, np.ones(3)) == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("witnesses", [2, 5, 40])
def test_a_new_structure_is_covered_as_often_as_promised(witnesses):
    """Exchangeable groups with a scale of their own: the share inside is at least the level, up to scatter."""
    rng = np.random.default_rng(witnesses)
    level, hits = 0.6, []
    for _ in range(600):
        z = np.abs(rng.standard_normal((witnesses + 1, 20)) * rng.lognormal(0.0, 1.0, (witnesses + 1, 1)))
        hits.append(np.mean(z[-1] <= of_sizes(z[:-1].ravel(), witnesses).quantile(level)))
    error = np.std(hits) / np.sqrt(len(hits))
    assert level - 3.0 * error <= np.mean(hits) <= level * (witnesses + 1) / witnesses + 3.0 * error + 0.02


def test_the_new_structure_counts_as_one_more():
    sizes = np.arange(1.0, 101.0)
    quantile = dict(zip(LEVELS, conformal_quantiles(sizes, 10), strict=True))
    assert quantile[0.5] == 55.0  # ceil(0.5 · 11/10 · 100)
    assert quantile[0.9] == 99.0
    assert quantile[0.95] >= 100.0  # beyond 10/11 nothing is guaranteed: at least the largest size seen
    assert quantile[0.999] > quantile[0.95]


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=50), st.integers(1, 60))
def test_quantiles_never_fall(sizes, witnesses):
    found = np.array(conformal_quantiles(np.array(sizes), witnesses))
    assert (np.diff(found) >= 0).all()
    shape = Shape(quantiles=tuple(found))
    widths = [shape.quantile(level) for level in np.linspace(0.01, 0.9999, 40)]
    assert (np.diff(widths) >= -1e-9 * max(1.0, widths[-1])).all()


def test_bends_are_as_written():
    shape = Shape(0.5, 2.0, 1.5, latent=4.0, scarcity=3.0, strangeness=2.0, elements={6: 2.0})
    latent, scarcity = np.array([[1.0, 9.0], [4.0, 0.0]]), np.array([[6.0], [3.0]])
    expected = latent * np.sqrt(4.0 / np.maximum(latent, 1e-300)) * (scarcity / 3.0) ** 2
    assert shape.bend(latent, scarcity) == pytest.approx(expected)
    strangeness, element = np.array([[8.0], [0.5]]), np.array([[6], [1]])
    assert shape.bend(latent, scarcity, strangeness) == pytest.approx(expected * [[8.0], [0.125]])
    assert shape.bend(latent, scarcity, element=element) == pytest.approx(expected * [[2.0], [1.0]])
    assert NORMAL.bend(latent, scarcity, strangeness, element) == pytest.approx(latent)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 95, True, "0.95", float("nan")])
def test_levels_lie_between_zero_and_one(level):
    with pytest.raises(ParameterError, match=r"`level` must lie between 0 and 1"):
        NORMAL.quantile(level)


def test_a_shape_survives_json():
    shape = of_sizes(
        np.arange(50.0), 50, latent_power=0.7, scarcity_power=1.1, strangeness_power=0.2, elements={29: 1.5, 79: 0.5}
    )
    assert Shape.from_settings(json.loads(json.dumps(shape.settings()))) == shape


@pytest.mark.parametrize(
    "change",
    [
        {"powers": [-1.0, 0.0, 0.0]},
        {"powers": [float("nan"), 0.0, 0.0]},
        {"powers": [1.0, 0.0]},
        {"typical": [0.0, 1.0, 1.0]},
        {"quantiles": [1.0, 2.0]},
        {"quantiles": list(range(len(LEVELS), 0, -1))},
        {"elements": {"0": 1.0}},
        {"elements": {"6": 0.0}},
    ],
)
def test_altered_settings_are_refused(change):
    with pytest.raises(ValueError):
        Shape.from_settings(Shape().settings() | change)
