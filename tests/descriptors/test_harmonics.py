from __future__ import annotations

import numpy as np
import pytest
from scipy.special import sph_harm_y

from kernelpot.descriptors.loops import harmonic_factors, harmonics, recurrence

L_MAX = 9


def directions(n: int = 31) -> np.ndarray:
    """Unit vectors at random and along the axes, where spherical angles are singular."""
    u = np.random.default_rng(0).normal(size=(n - 6, 3))
    u = np.concatenate([u, np.eye(3), -np.eye(3)])
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def from_scipy(u: np.ndarray, l_max: int) -> np.ndarray:
    """Real harmonics without the Condon-Shortley phase: √2 (-1)^m Re or Im of the complex ones."""
    theta, phi = np.arccos(np.clip(u[:, 2], -1.0, 1.0)), np.arctan2(u[:, 1], u[:, 0])
    columns = []
    for degree in range(l_max + 1):
        for m in range(-degree, degree + 1):
            y = sph_harm_y(degree, abs(m), theta, phi) * (-1) ** m
            columns.append(y.real if m == 0 else np.sqrt(2.0) * (y.real if m > 0 else y.imag))
    return np.stack(columns, axis=1)


def from_kernelpot(u: np.ndarray, l_max: int) -> np.ndarray:
    count = len(u)
    q = np.empty(((l_max + 1) * (l_max + 2) // 2, count))
    c, s = np.empty((l_max + 1, count)), np.empty((l_max + 1, count))
    y = np.empty(((l_max + 1) ** 2, count))
    harmonic_factors.py_func(l_max, count, u.T, recurrence(l_max), q, c, s)
    harmonics.py_func(l_max, count, q, c, s, y)
    return y.T


@pytest.mark.parametrize("l_max", [0, 1, 2, L_MAX])
def test_real_harmonics_are_those_of_scipy(l_max):
    u = directions()
    np.testing.assert_allclose(from_kernelpot(u, l_max), from_scipy(u, l_max), atol=1e-13)


def test_torch_harmonics_are_those_of_scipy():
    torch = pytest.importorskip("torch")
    from tests.descriptors.references import solid_harmonics

    u = directions()
    y = solid_harmonics(torch.as_tensor(u), torch.as_tensor(recurrence(L_MAX)), L_MAX)
    np.testing.assert_allclose(y.numpy(), from_scipy(u, L_MAX), atol=1e-13)


def test_slopes_of_the_recurrence_are_those_of_the_z_part():
    """Rows 3 and 4: ∂Q_lm/∂z = D Q_{l-1,m} and ∂Q_lm/∂x = -E x Q_{l-1,m+1}, for solid harmonics r^l Y_lm."""
    l_max, step = 5, 1e-5
    table = recurrence(l_max)
    u = directions(12)[:6]

    def solid(v: np.ndarray) -> np.ndarray:
        r = np.linalg.norm(v, axis=1)
        degree = np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)
        return from_scipy(v / r[:, None], l_max) * r[:, None] ** degree

    y = from_scipy(u, l_max)
    shift = np.array([0.0, 0.0, step])
    slope = (solid(u + shift) - solid(u - shift)) / (2 * step)
    for degree in range(1, l_max + 1):
        for m in range(degree):
            column, lower = degree * degree + degree + m, (degree - 1) ** 2 + degree - 1 + m
            d = table[3, degree * (degree + 1) // 2 + m]
            np.testing.assert_allclose(slope[:, column], d * y[:, lower], atol=1e-8)
