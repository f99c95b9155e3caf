from __future__ import annotations

import numpy as np
import pytest
from dscribe import descriptors as dscribe
from scipy.integrate import quad
from scipy.linalg import inv, sqrtm
from scipy.special import spherical_in

from kernelpot.descriptors.radial import GTO, PowerGaussian, RadialTable, SphericalBessel
from kernelpot.errors import ParameterError

SIZE = {"cutoff": 5.0, "n_max": 4, "l_max": 3, "sigma": 0.5}
BASES = [GTO(), GTO(radius=4.0), PowerGaussian(), PowerGaussian(radius=4.0), SphericalBessel()]
DISTANCES = np.array([0.0, 0.3, 1.1, 2.4, 3.7, 5.0])


def functions(basis):
    """Radial functions g_nl(q) written down a second time, and how far they reach."""
    radius, n_max = basis.radius or SIZE["cutoff"], SIZE["n_max"]
    if isinstance(basis, GTO):
        make = dscribe.SOAP(species=["Si"], r_cut=radius, n_max=n_max, l_max=SIZE["l_max"], rbf="gto")
        alphas, betas = make.get_basis_gto(radius, n_max, SIZE["l_max"])
        return lambda n, l, q: q**l * betas[l, n] @ np.exp(-alphas[l] * q * q), 4 * radius  # noqa: E741
    if isinstance(basis, SphericalBessel):
        return lambda n, l, q: np.sqrt(2 / radius) * np.sin((n + 1) * np.pi * q / radius) / q, radius  # noqa: E741
    widths = [radius * max(np.sqrt(n), 1.0) / n_max for n in range(n_max)]

    def primitive(n, q):
        return q**n * np.exp(-0.5 * (q / widths[n]) ** 2)

    norms = [quad(lambda q, n=n: (q * primitive(n, q)) ** 2, 0, 30)[0] ** -0.5 for n in range(n_max)]
    overlap = [
        [
            quad(lambda q, a=a, b=b: q * q * norms[a] * norms[b] * primitive(a, q) * primitive(b, q), 0, 30)[0]
            for b in range(n_max)
        ]
        for a in range(n_max)
    ]
    mixing = np.real(inv(sqrtm(np.array(overlap)))) * norms
    return lambda n, l, q: mixing[n] @ [primitive(k, q) for k in range(n_max)], 30.0  # noqa: E741


@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_radial_functions_are_smeared_as_scipy_integrates_them(basis):
    """R_nl(r) = 4π ∫ g_n(q) q² exp(-(r² + q²)/2σ²) i_l(rq/σ²) dq, with SciPy's own quadrature."""
    sigma = SIZE["sigma"]
    g, reach = functions(basis)
    found = basis.values(DISTANCES, **SIZE)
    for l in (0, 1, 3):  # noqa: E741
        for n in range(SIZE["n_max"]):
            for k, r in enumerate(DISTANCES):

                def integrand(q, r=r, l=l, n=n):  # noqa: E741
                    bell = np.exp(-0.5 * (r * r + q * q) / sigma**2)
                    return 4 * np.pi * g(n, l, q) * q * q * bell * spherical_in(l, r * q / sigma**2)

                low, high = max(1e-12, r - 8 * sigma), min(reach, r + 8 * sigma)
                expected = quad(integrand, low, high, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
                assert found[k, l, n] == pytest.approx(expected, abs=2e-10), (l, n, r)


@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_table_interpolates_to_1e_10(basis):
    table = RadialTable.from_basis(basis, **SIZE)
    r = np.random.default_rng(0).uniform(0, SIZE["cutoff"], 500)
    exact = basis.values(r, **SIZE).reshape(len(r), -1)
    assert np.abs(interpolate(table, r)[0] - exact).max() < 1e-10 * np.abs(exact).max()


@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_table_holds_derivatives(basis):
    """R' and R'' at the nodes against differences of R, over several steps: the best of them is right."""
    table = RadialTable.from_basis(basis, **SIZE)
    nodes = np.arange(len(table.nodes))[5:-5:17]
    r = nodes * table.step
    errors = []
    for step in (3e-3, 1e-3, 3e-4):
        left, middle, right = (basis.values(r + k * step, **SIZE).reshape(len(r), -1) for k in (-1, 0, 1))
        first, second = (right - left) / (2 * step), (right - 2 * middle + left) / step**2
        errors.append(
            [
                np.abs(first - table.nodes[nodes, 1] / table.step).max(),
                np.abs(second - table.nodes[nodes, 2] / table.step**2).max(),
            ]
        )
    scale = np.abs(table.nodes).max(axis=(0, 2)) / table.step ** np.arange(3)
    assert (np.min(errors, axis=0) < 2e-5 * scale[1:]).all()


@pytest.mark.parametrize("scaling", [(2.0, 2.0), (2.0, 7.5), (0.5, 16.0)])
def test_scaled_table_is_the_scaled_basis(scaling):
    """Between nodes: value, slope and curvature of u R, against differences of the product."""
    table = RadialTable.from_basis(PowerGaussian(), scaling=scaling, **SIZE)
    r = np.random.default_rng(0).uniform(0.05, SIZE["cutoff"] - 0.05, 60)

    def exact(r):
        u = 1 / (1 + (r / scaling[0]) ** scaling[1])
        return u[:, None] * PowerGaussian().values(r, **SIZE).reshape(len(r), -1)

    value, slope, curvature = interpolate(table, r)
    assert np.abs(value - exact(r)).max() < 1e-8 * np.abs(value).max()
    errors = []
    for h in (1e-3, 3e-4, 1e-4):
        left, middle, right = exact(r - h), exact(r), exact(r + h)
        errors.append(
            [
                np.abs((right - left) / (2 * h) - slope).max(),
                np.abs((right - 2 * middle + left) / h**2 - curvature).max(),
            ]
        )
    assert (np.min(errors, axis=0) < 1e-4 * np.array([np.abs(slope).max(), np.abs(curvature).max()])).all(), errors


def test_scaled_table_starts_with_the_centres_own_density():
    plain, scaled = (RadialTable.from_basis(PowerGaussian(), scaling=s, **SIZE) for s in (None, (2.0, 3.0)))
    np.testing.assert_allclose(scaled.nodes[0, :2], plain.nodes[0, :2], atol=1e-14)


def test_table_is_twice_continuously_differentiable():
    """Value, slope and curvature of the interpolant agree on both sides of a node."""
    table = RadialTable.from_basis(PowerGaussian(), **SIZE)
    inner = np.arange(1, len(table.nodes) - 1)
    left = interpolate(table, inner * table.step, cell=inner - 1)
    right = interpolate(table, inner * table.step, cell=inner)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9 * np.abs(b).max())


def test_gto_needs_a_radius_above_one_angstrom():
    with pytest.raises(ParameterError, match=r"`GTO` needs a radius above 1 Å, got 0\.9"):
        RadialTable.from_basis(GTO(radius=0.9), **SIZE)


def interpolate(table, r, cell=None):
    """Quintic Hermite polynomial through both ends of a cell, by solving for its coefficients."""
    k = np.minimum((r / table.step).astype(int), len(table.nodes) - 2) if cell is None else cell
    t = (r / table.step - k)[:, None]
    powers = np.arange(6)
    conditions = np.array(
        [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0], powers**0, powers, powers * (powers - 1)], float
    )
    ends = np.concatenate([table.nodes[k], table.nodes[k + 1]], axis=1)
    a = np.einsum("ij,pjc->pic", np.linalg.inv(conditions), ends)
    value = sum(a[:, i] * t**i for i in range(6))
    slope = sum(i * a[:, i] * t ** (i - 1) for i in range(1, 6)) / table.step
    curvature = sum(i * (i - 1) * a[:, i] * t ** (i - 2) for i in range(2, 6)) / table.step**2
    return value, slope, curvature
