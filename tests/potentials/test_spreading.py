"""Factor, floor and shape recovered from errors whose spread is known."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from kernelpot.potentials.calibration import FLOOR, KEPT, Residuals, _Likelihood, fit_spreading

N, STRUCTURES = 20_000, 400


def residuals(factor, floor, *, alpha=1.0, beta=0.0, delta=0.0, elements=None, nu=None, seed=0, forces=True):
    """Errors of known spread, 50 labels a structure."""
    rng = np.random.default_rng(seed)
    latent, scarcity = rng.lognormal(0.0, 0.7, N), rng.lognormal(-2.0, 0.5, N)
    element, structure = rng.choice([6, 8], N), np.arange(N) // (N // STRUCTURES)
    strangeness = rng.lognormal(-1.0, 0.8, STRUCTURES)[structure]
    bent = latent**alpha * (scarcity / np.exp(-2.0)) ** beta * (strangeness / np.exp(-1.0)) ** delta
    bent *= np.where(element == 6, *(elements or (1.0, 1.0)))
    std = np.hypot(factor * bent, floor)
    draws = rng.standard_normal(N) if nu is None else rng.standard_t(nu, N)
    around = (scarcity, strangeness, element) if forces else (None, None, None)
    names = ("scarcity", "strangeness", "element")
    return replace(bare(std * draws, latent, structure), std=std, **dict(zip(names, around, strict=True)))


def bare(error, latent, witness):
    return Residuals(error, latent**2, witness, np.ones(len(error), int), noisy=False, std=latent)


@pytest.mark.parametrize(("factor", "floor"), [(0.5, 0.3), (2.0, 1.0), (1.0, 0.0)])
def test_normal_errors_give_back_factor_and_floor(factor, floor):
    found = fit_spreading(residuals(factor, floor, forces=False), method="floor")
    assert found.factor == pytest.approx(factor, rel=0.05)
    assert found.floor == pytest.approx(floor, rel=0.08, abs=0.08 * factor)
    assert found.shape.quantiles == ()


def test_one_factor_is_the_root_mean_square_of_scaled_errors():
    r = residuals(0.7, 0.0, forces=False)
    found = fit_spreading(r, method="scale")
    assert found.factor == pytest.approx(np.sqrt(np.mean((r.error / r.latent) ** 2)), rel=1e-3)


@pytest.mark.parametrize("nu", [None, 4.0])
def test_powers_elements_and_floor_are_recovered(nu):
    r = residuals(0.8, 0.2, alpha=0.7, beta=1.2, delta=0.4, elements=(1.3, 0.8), nu=nu)
    found = fit_spreading(r, method="conformal")
    assert found.shape.latent_power == pytest.approx(0.7, abs=0.05)
    assert found.shape.scarcity_power == pytest.approx(1.2, abs=0.08)
    assert found.shape.strangeness_power == pytest.approx(0.4, abs=0.05)
    assert found.shape.elements[6] / found.shape.elements[8] == pytest.approx(1.3 / 0.8, rel=0.05)
    # Up to a common factor, which the quantiles set, these are the standard deviations the errors were drawn with.
    ratio = found.std(r) / r.std
    assert np.std(np.log(ratio)) < 0.03


@pytest.mark.parametrize("nu", [None, 2.5])
def test_conformal_stds_hold_68_and_intervals_95_per_cent(nu):
    found = fit_spreading(residuals(0.8, 0.2, nu=nu), method="conformal")
    new = residuals(0.8, 0.2, nu=nu, seed=1)
    z = np.abs(new.error) / found.std(new)
    assert np.mean(z <= 1.0) == pytest.approx(0.6827, abs=0.015)
    assert np.mean(z <= found.shape.quantile(0.95)) == pytest.approx(0.95, abs=0.01)


def test_labels_that_are_zero_by_symmetry_do_not_widen_or_narrow_anything():
    r = residuals(0.5, 0.1)
    silent = replace(r, error=np.full(N, 1e-8), variance=np.full(N, 1e-28))
    quiet = Residuals(**{
        f.name: np.concatenate([getattr(part, f.name) for part in (r, silent)])
        for f in fields(r) if f.name != "noisy"
    })  # fmt: skip
    assert quiet.silent.sum() == N
    alone, both = (fit_spreading(x, method="conformal") for x in (r, quiet))
    assert both.factor == pytest.approx(alone.factor)
    assert both.shape.quantiles == pytest.approx(alone.shape.quantiles)
    assert (np.abs(quiet.error) <= both.std(quiet))[N:].all()


def test_errors_that_ignore_the_latent_std_still_leave_part_of_the_factor():
    """Strange environments must look strange even where usual ones do not tell."""
    rng = np.random.default_rng(0)
    latent = rng.lognormal(0.0, 0.7, N)
    r = bare(rng.standard_normal(N), latent, np.arange(N) // 50)
    alone = fit_spreading(r, method="scale")
    floored = fit_spreading(r, method="floor")
    assert floored.factor >= KEPT * alone.factor * (1 - 1e-6)
    assert floored.floor > 0.5


def test_nothing_but_zeros_is_no_reason_to_fail():
    zeros = np.zeros(12)
    assert fit_spreading(bare(zeros, zeros, np.arange(12)), method="conformal").factor == 1.0
    exact = bare(zeros, np.ones(12), np.arange(12))
    for method in ("conformal", "floor", "scale"):
        found = fit_spreading(exact, method=method)
        assert np.isfinite(found.std(exact)).all()
        assert (found.std(exact) > 0).all()


def test_few_labels_stay_near_the_plain_factor():
    r = residuals(0.5, 0.0, alpha=2.0).take(np.arange(N) < 50)
    found = fit_spreading(r, method="conformal")
    many = fit_spreading(residuals(0.5, 0.0, alpha=2.0), method="conformal")
    assert abs(found.shape.latent_power - 1.0) < abs(many.shape.latent_power - 1.0)


@pytest.mark.parametrize("student", [True, False])
def test_the_gradient_is_that_of_the_likelihood(student):
    rng = np.random.default_rng(3)
    design = np.column_stack([np.zeros(30), np.ones(30), rng.normal(size=(30, 3)), rng.integers(0, 2, (30, 2))])
    loss = _Likelihood(rng.normal(size=30) ** 2, design, 0.3, 7, student)
    x = np.array([-0.5, 0.2, 0.8, 0.4, 0.3, 0.1, -0.2])
    numeric = approx_fprime(x, lambda y: loss(y)[0], 1e-7)
    assert loss(x)[1] == pytest.approx(numeric, abs=1e-5)


def test_the_floor_has_a_least_value():
    found = fit_spreading(residuals(1.0, 0.0, forces=False), method="floor")
    assert found.floor >= FLOOR * 0.1
