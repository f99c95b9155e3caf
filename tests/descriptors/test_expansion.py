from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from kernelpot.data.batch import Batch
from kernelpot.descriptors.radial import SphericalBessel
from kernelpot.descriptors.soap.definition import SOAP
from tests.descriptors.test_harmonics import from_scipy

CUTOFF, N_MAX, L_MAX, SIGMA = 4.0, 4, 3, 0.5
NEIGHBOURS = np.array([[1.1, -0.9, 1.4], [-0.3, 2.2, -2.6], [0.2, -3.1, 1.9]])
CHANNELS = np.array([0, 1, 1])


def weight(r: float, fade: float) -> float:
    """1 before the fade, 0 at the cutoff; slope and curvature vanish at both."""
    t = 0.0 if fade == 0.0 else np.clip((r - CUTOFF + fade) / fade, 0.0, 1.0)
    return 1.0 - 10 * t**3 + 15 * t**4 - 6 * t**5


def by_quadrature(fade: float) -> np.ndarray:
    """∫ g_n(q) Y_lm ρ_a over the ball: Gauss-Legendre in q and cos θ, equal steps in φ."""
    x, wx = np.polynomial.legendre.leggauss(60)
    q, wq = 0.5 * CUTOFF * (x + 1), 0.5 * CUTOFF * wx
    z, wz = np.polynomial.legendre.leggauss(64)
    phi = 2 * np.pi * np.arange(128) / 128
    around = np.sqrt(1 - z * z)
    u = np.stack(
        [np.outer(around, np.cos(phi)), np.outer(around, np.sin(phi)), np.outer(z, np.ones_like(phi))], axis=-1
    ).reshape(-1, 3)
    wu = np.repeat(wz, len(phi)) * 2 * np.pi / len(phi)
    g = np.sqrt(2 / CUTOFF) * np.sin(np.outer(q, np.arange(1, N_MAX + 1)) * np.pi / CUTOFF) / q[:, None]
    points = q[:, None, None] * u
    result = np.zeros((2, (L_MAX + 1) ** 2, N_MAX))
    sources = [(0, np.zeros(3), 1.0)]
    sources += [(a, r, weight(np.linalg.norm(r), fade)) for a, r in zip(CHANNELS, NEIGHBOURS, strict=True)]
    for a, centre, factor in sources:
        bell = factor * np.exp(-0.5 * ((points - centre) ** 2).sum(-1) / SIGMA**2)
        angular = bell @ (wu[:, None] * from_scipy(u, L_MAX))
        result[a] += np.einsum("q,qn,qm->mn", wq * q * q, g, angular)
    return result.transpose(1, 0, 2).reshape(len(result[0]), -1)


@pytest.mark.parametrize("fade", [0.0, 0.7])
def test_coefficients_are_integrals_of_the_density(fade):
    """Atom 0's density in two channels, its own Gaussian included, one neighbour within the fade."""
    atoms = Atoms(["Cu", "Cu", "Au", "Au"], positions=np.concatenate([np.zeros((1, 3)), NEIGHBOURS]))
    soap = SOAP(CUTOFF, N_MAX, L_MAX, SIGMA, SphericalBessel(), fade, species=(29, 79), channels=None)
    assert CUTOFF - 0.7 < np.linalg.norm(NEIGHBOURS[2]) < CUTOFF
    found = soap.environments(Batch.from_structures([atoms], CUTOFF)).coefficients[0]
    np.testing.assert_allclose(found, by_quadrature(fade), atol=1e-9)
