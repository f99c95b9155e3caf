"""Radial bases, smeared by the atomic Gaussian, as quintic Hermite tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Protocol

import numpy as np
from jaxtyping import Float
from numpy.polynomial import chebyshev
from scipy.integrate import simpson
from scipy.linalg import sqrtm
from scipy.special import gamma, spherical_in

from kernelpot.errors import ParameterError
from kernelpot.record import Named, Positive, Record

NODES_PER_SIGMA = 24


class RadialBasis(Protocol):
    """A set of radial functions: hashable, and `values` is all that a new one has to supply."""

    def __hash__(self) -> int:
        """Equal bases have equal hashes: tables are kept by basis."""

    def values(
        self, r: Float[np.ndarray, " points"], *, cutoff: float, n_max: int, l_max: int, sigma: float
    ) -> Float[np.ndarray, "points l n"]:
        """Return R_nl(r): overlap of radial function n with a Gaussian of width sigma at distance r."""


@dataclass(frozen=True)
class GTO(Record):
    """Gaussian-type radial functions r^l exp(-α_nl r²), Löwdin-orthonormalised.

    α_nl makes function n fall to 1e-3 at the n-th of n_max radii between 1 Å and `radius` (Himanen et al., Comput.
    Phys. Commun. 247, 106949 (2020), section 2.2.2). Gaussian product theorem, for the overlap with a Gaussian:

        ∫ r^l Y_lm exp(-αr²) exp(-η|r - R|²) dr = (π/(α+η))^{3/2} (η/(α+η))^l R^l Y_lm(R) exp(-αη/(α+η) R²).
    """

    # Radius that the functions reach, Å; the descriptor's cutoff where None
    radius: Annotated[float | None, Positive(), "Å", "None takes the descriptor's cutoff"] = None

    def values(
        self, r: Float[np.ndarray, " points"], *, cutoff: float, n_max: int, l_max: int, sigma: float
    ) -> Float[np.ndarray, "points l n"]:
        """Return R_nl(r), shape (points, l_max + 1, n_max)."""
        decay, mixing = self.smeared(cutoff=cutoff, n_max=n_max, l_max=l_max, sigma=sigma)
        result = np.empty((len(r), l_max + 1, n_max))
        for l in range(l_max + 1):  # noqa: E741
            result[:, l, :] = (r[:, None] ** l * np.exp(-decay[l] * r[:, None] ** 2)) @ mixing[l].T
        return result

    def smeared(
        self, *, cutoff: float, n_max: int, l_max: int, sigma: float
    ) -> tuple[Float[np.ndarray, "l n"], Float[np.ndarray, "l n n"]]:
        """Return γ and B of R_nl(r) = r^l Σ_n' B[l, n, n'] exp(-γ[l, n'] r²)."""
        radius = cutoff if self.radius is None else self.radius
        if radius <= 1.0:
            raise ParameterError(f"`GTO` needs a radius above 1 Å, got {radius}; use a larger cutoff or another basis.")
        eta = 0.5 / sigma**2
        thresholds = np.linspace(1.0, radius, n_max)
        decay, mixing = np.empty((l_max + 1, n_max)), np.empty((l_max + 1, n_max, n_max))
        for l in range(l_max + 1):  # noqa: E741
            alpha = -np.log(1e-3 / thresholds**l) / thresholds**2
            overlap = 0.5 * gamma(l + 1.5) * (alpha[:, None] + alpha[None, :]) ** (-(l + 1.5))
            beta = np.real(sqrtm(np.linalg.inv(overlap)))
            joint = alpha + eta
            decay[l] = alpha * eta / joint
            mixing[l] = beta * ((np.pi / joint) ** 1.5 * (eta / joint) ** l)
        return decay, mixing


@dataclass(frozen=True)
class PowerGaussian(Record):
    """Radial functions r^n exp(-r²/2s_n²), the same for every l, Löwdin-orthonormalised on the half line.

    s_n = radius · max(√n, 1) / n_max (Musil et al., J. Chem. Phys. 154, 114109 (2021), eq. 26); smeared by quadrature.
    """

    # Radius that the functions reach, Å; the descriptor's cutoff where None
    radius: Annotated[float | None, Positive(), "Å", "None takes the descriptor's cutoff"] = None

    def values(
        self, r: Float[np.ndarray, " points"], *, cutoff: float, n_max: int, l_max: int, sigma: float
    ) -> Float[np.ndarray, "points l n"]:
        """Return R_nl(r), shape (points, l_max + 1, n_max)."""
        radius = cutoff if self.radius is None else self.radius
        n = np.arange(n_max)
        width = radius * np.maximum(np.sqrt(n), 1.0) / n_max
        decay = 0.5 / width**2
        power = n[:, None] + n[None, :] + 3
        overlap = 0.5 * gamma(power / 2) * (decay[:, None] + decay[None, :]) ** (-power / 2)
        scale = 1.0 / np.sqrt(np.diag(overlap))
        eigenvalues, vectors = np.linalg.eigh(overlap * scale[:, None] * scale[None, :])
        mixing = (vectors / np.sqrt(eigenvalues)) @ vectors.T * scale[None, :]
        points, weights = _gauss_legendre(0.0, radius + 8.0 * max(sigma, float(width.max())), sigma)
        functions = (points[:, None] ** n * np.exp(-decay * points[:, None] ** 2)) @ mixing.T
        return smear(r, points, weights, functions, l_max=l_max, sigma=sigma)


@dataclass(frozen=True)
class SphericalBessel(Record):
    """Solutions j_0(nπr/R)-like of the Laplacian in a ball, orthonormal and vanishing at its surface.

    g_n(r) = √(2/R) sin((n+1)πr/R)/r, the l = 0 eigenfunctions for every l (Kocer et al., J. Chem. Phys. 150, 154102
    (2019)).
    """

    # Radius of the ball, Å; the descriptor's cutoff where None
    radius: Annotated[float | None, Positive(), "Å", "None takes the descriptor's cutoff"] = None

    def values(
        self, r: Float[np.ndarray, " points"], *, cutoff: float, n_max: int, l_max: int, sigma: float
    ) -> Float[np.ndarray, "points l n"]:
        """Return R_nl(r), shape (points, l_max + 1, n_max)."""
        radius = cutoff if self.radius is None else self.radius
        points, weights = _gauss_legendre(0.0, radius, sigma)
        order = np.arange(1, n_max + 1) * np.pi / radius
        functions = np.sqrt(2.0 / radius) * np.sin(points[:, None] * order) / points[:, None]
        return smear(r, points, weights, functions, l_max=l_max, sigma=sigma)


def smear(
    r: Float[np.ndarray, " points"],
    q: Float[np.ndarray, " nodes"],
    weights: Float[np.ndarray, " nodes"],
    functions: Float[np.ndarray, "nodes n"],
    *,
    l_max: int,
    sigma: float,
) -> Float[np.ndarray, "points l n"]:
    """Overlap of radial functions with a Gaussian at distance r, by quadrature over nodes q.

    R_nl(r) = 4π ∫ g_n(q) q² exp(-(r² + q²)/2σ²) i_l(rq/σ²) dq (Bartók et al., Phys. Rev. B 87, 184115 (2013), eq. 32),
    with the modified spherical Bessel function i_l; the exponentials are combined so that nothing overflows.
    """
    x = r[:, None] * q[None, :] / sigma**2
    gaussian = np.exp(-0.5 * (r[:, None] - q[None, :]) ** 2 / sigma**2) * (4.0 * np.pi * q**2 * weights)
    result = np.empty((len(r), l_max + 1, functions.shape[1]))
    for l in range(l_max + 1):  # noqa: E741
        result[:, l, :] = (gaussian * _scaled_bessel(l, x)) @ functions
    return result


def _scaled_bessel(l: int, x: Float[np.ndarray, "a b"]) -> Float[np.ndarray, "a b"]:  # noqa: E741
    """exp(-x) i_l(x): SciPy's function where it is finite, the terminating asymptotic series beyond."""
    small = x < 300.0
    result = np.empty_like(x)
    result[small] = spherical_in(l, x[small]) * np.exp(-x[small])
    large = x[~small]
    term, total = np.ones_like(large), np.ones_like(large)
    for k in range(1, l + 1):
        term = -term * ((l + k) * (l - k + 1)) / (2.0 * k * large)
        total = total + term
    result[~small] = total / (2.0 * large)
    return result


def _gauss_legendre(start: float, stop: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre panels no longer than sigma, 12 points each."""
    panels = max(4, int(np.ceil((stop - start) / sigma)))
    x, w = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(start, stop, panels + 1)
    half = 0.5 * np.diff(edges)
    points = (edges[:-1] + half)[:, None] + half[:, None] * x
    return points.ravel(), (half[:, None] * w).ravel()


@dataclass(frozen=True, eq=False)
class RadialTable:
    """R_nl and its first two derivatives on equidistant nodes, for quintic Hermite interpolation (C²)."""

    # R, h R', h² R'' at each node with step h, shape (nodes, 3, (l_max + 1) · n_max); columns run l first,
    # then n
    nodes: Float[np.ndarray, "nodes 3 columns"]
    step: float  # Distance between nodes, Å

    @classmethod
    @lru_cache(maxsize=32)
    def from_basis(
        cls,
        basis: RadialBasis,
        *,
        cutoff: float,
        n_max: int,
        l_max: int,
        sigma: float,
        scaling: tuple[float, float] | None = None,
    ) -> RadialTable:
        """Tabulate a basis on [0, cutoff]: Chebyshev interpolation gives derivatives to round-off.

        The degree grows with cutoff/σ, the only scale on which a smeared function can change. `scaling` multiplies the
        functions by a weight of the distance.
        """
        degree = int(64 + 14 * cutoff / sigma)
        x = chebyshev.chebpts1(degree + 1)
        r = 0.5 * cutoff * (x + 1.0)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            samples = basis.values(r, cutoff=cutoff, n_max=n_max, l_max=l_max, sigma=sigma).reshape(len(r), -1)
        if not np.isfinite(samples).all():
            raise ParameterError(
                f"`n_max` = {n_max} is more than this basis can tell apart in double precision; 8 to 12 is usual."
            )
        modes = chebyshev.chebvander(x, degree) * np.where(np.arange(degree + 1) == 0, 1.0, 2.0) / (degree + 1)
        coefficients = modes.T @ samples
        scale_length = sigma if scaling is None else min(sigma, 4.0 * scaling[0] / scaling[1])
        count = int(np.ceil(NODES_PER_SIGMA * cutoff / scale_length)) + 1
        grid = np.linspace(0.0, cutoff, count)
        step = grid[1] - grid[0]
        t = 2.0 * grid / cutoff - 1.0
        scale = 2.0 * step / cutoff
        derivatives = [
            chebyshev.chebval(t, chebyshev.chebder(coefficients, k)).T * scale**k
            if k
            else chebyshev.chebval(t, coefficients).T
            for k in range(3)
        ]
        if scaling is not None:
            derivatives = _scaled(derivatives, grid, step, *scaling)
        return cls(np.ascontiguousarray(np.stack(derivatives, axis=1)), float(step))


# Formulas of a number, an array or a tensor: compiled loops, NumPy and devices take them from here.


def fall(t: Any) -> tuple[Any, Any]:
    """Return 1 - 10t³ + 15t⁴ - 6t⁵, from 1 at t = 0 to 0 at t = 1 with two continuous derivatives, and its slope."""
    return 1.0 - t * t * t * (10.0 - t * (15.0 - 6.0 * t)), -30.0 * t * t * (1.0 - t) * (1.0 - t)


def hermite(t: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Return the quintic Hermite weights of (value, slope, curvature) at t = 0, then of those at t = 1."""
    u, t2, t3 = 1.0 - t, t * t, t * t * t
    rise = t3 * (10.0 - t * (15.0 - 6.0 * t))
    return (
        1.0 - rise, t - t3 * (6.0 - t * (8.0 - 3.0 * t)), 0.5 * t2 * u * u * u,
        rise, -t3 * (4.0 - t * (7.0 - 3.0 * t)), 0.5 * t3 * u * u,
    )  # fmt: skip


def hermite_slope(t: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Return the derivatives by t of the weights that `hermite` returns."""
    u, t2 = 1.0 - t, t * t
    rise = 30.0 * t2 * u * u
    return (
        -rise, 1.0 - t2 * (18.0 - t * (32.0 - 15.0 * t)), 0.5 * t * u * u * (2.0 - 5.0 * t),
        rise, -t2 * (12.0 - t * (28.0 - 15.0 * t)), 0.5 * t2 * u * (3.0 - 5.0 * t),
    )  # fmt: skip


def fading(r: Float[np.ndarray, " points"], cutoff: float, fade: float) -> Float[np.ndarray, " points"]:
    """Weight of a neighbour up to the cutoff: 1, falling to 0 over the last `fade` Å."""
    if fade == 0.0:
        return np.ones_like(r)
    weight: np.ndarray = fall(np.clip((r - cutoff) / fade + 1.0, 0.0, 1.0))[0]
    return weight


def _scaled(f: list[np.ndarray], r: Float[np.ndarray, " points"], step: float, r0: float, m: float) -> list[np.ndarray]:
    """Multiply f, h f', h² f'' at distances r by u(r) = 1/(1 + (r/r0)^m), step h, all in Å.

    The weight of Willatt, Musil and Ceriotti, Phys. Chem. Chem. Phys. 20, 29661 (2018); its derivatives by formula, so
    that r = 0 and odd m need no care.
    """
    t = (r / r0)[:, None]
    u = 1.0 / (1.0 + t**m)
    first, second = m * t ** (m - 1.0) / r0, m * (m - 1.0) * t ** (m - 2.0) / r0**2
    a, b, c = u, -step * first * u**2, step**2 * (2.0 * first**2 * u**3 - second * u**2)
    return [a * f[0], a * f[1] + b * f[0], a * f[2] + 2.0 * b * f[1] + c * f[0]]


Matrix = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class Compressed(Record):
    """Combinations of the functions of a larger basis: R_ln(r) = Σ_n' matrix[l, n', n] R_ln'(r).

    They enter the radial table, so that neither loops nor vectors know of the larger basis. `SOAP.compressed` makes
    them.
    """

    basis: Annotated[RadialBasis, Named("radial basis")]  # The larger basis
    # Shape (l_max + 1, functions of the larger basis, functions left), as nested tuples
    matrix: Matrix = field(repr=False)

    def values(
        self, r: Float[np.ndarray, " points"], *, cutoff: float, n_max: int, l_max: int, sigma: float
    ) -> Float[np.ndarray, "points l n"]:
        """Return R_nl(r), shape (points, l_max + 1, n_max)."""
        matrix = np.array(self.matrix)
        if matrix.ndim != 3 or len(matrix) != l_max + 1 or matrix.shape[2] != n_max or not np.isfinite(matrix).all():
            raise ParameterError(
                f"this compressed basis is for l_max {len(matrix) - 1} and n_max {matrix.shape[-1]}, got l_max {l_max} "
                f"and n_max {n_max}; compress the descriptor again after changing its sizes."
            )
        functions = self.basis.values(r, cutoff=cutoff, n_max=matrix.shape[1], l_max=l_max, sigma=sigma)
        return np.einsum("pln,lnk->plk", functions, matrix)


def principal_components(moments: Float[np.ndarray, "l n n"], n: int) -> Matrix:
    """Return the n leading eigenvectors of each symmetric matrix, as columns whose largest entry is positive."""
    vectors = np.linalg.eigh(moments)[1][:, :, ::-1][:, :, :n]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None, :], axis=1)
    return tuple(tuple(tuple(row) for row in matrix) for matrix in (vectors * np.sign(largest)).tolist())


def volume_moments(
    table: RadialTable, *, cutoff: float, fade: float, n_max: int, l_max: int
) -> Float[np.ndarray, "l n n"]:
    """∫ w² R_nl R_n'l r² dr: mean products of the coefficients of one neighbour, anywhere with equal chance."""
    r = np.linspace(0.0, cutoff, len(table.nodes))
    functions = table.nodes[:, 0].reshape(len(r), l_max + 1, n_max) * (r * fading(r, cutoff, fade))[:, None, None]
    return simpson(functions[:, :, :, None] * functions[:, :, None, :], x=r, axis=0)


def coefficient_moments(
    coefficients: Float[np.ndarray, "atoms lm k"], n_max: int, l_max: int
) -> Float[np.ndarray, "l n n"]:
    """Σ c[i, lm, a n] c[i, lm, a n'] over atoms i, species a and m.

    Goscinski et al., J. Chem. Phys. 155, 104106 (2021): there divided by the number of atoms, which changes no
    eigenvector, and here pooled over the species, as all share one radial basis.
    """
    result = np.empty((l_max + 1, n_max, n_max))
    for l in range(l_max + 1):  # noqa: E741
        rows = coefficients[:, l * l : (l + 1) ** 2].reshape(-1, n_max)
        result[l] = rows.T @ rows
    return result
