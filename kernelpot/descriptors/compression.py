"""Radial functions combined into fewer: the principal components of a larger basis, as a basis of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.integrate import simpson

from kernelpot.descriptors.radial import GTO, PowerGaussian, RadialBasis, RadialTable, SphericalBessel, fading
from kernelpot.errors import ParameterError

BASES: dict[str, type[GTO] | type[PowerGaussian] | type[SphericalBessel]] = {
    "GTO": GTO,
    "PowerGaussian": PowerGaussian,
    "SphericalBessel": SphericalBessel,
}

Matrix = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class Compressed:
    """Combinations of the functions of a larger basis: R_ln(r) = Σ_n' matrix[l, n', n] R_ln'(r).

    They enter the radial table, so that neither loops nor vectors know of the larger basis. `SOAP.compressed` makes
    them.

    Attributes
    ----------
    basis
        The larger basis.
    matrix
        Shape (l_max + 1, functions of the larger basis, functions left), as nested tuples.
    """

    basis: RadialBasis
    matrix: Matrix = field(repr=False)

    def values(
        self, r: Float[np.ndarray, " points"], *, cutoff: float, n_max: int, l_max: int, sigma: float
    ) -> Float[np.ndarray, "points l n"]:
        """Return R_nl(r), shape (points, l_max + 1, n_max).

        Raises
        ------
        ParameterError
            The matrix is for other sizes.
        """
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


def basis_settings(basis: RadialBasis) -> dict[str, Any]:
    """Return a basis as JSON values."""
    if isinstance(basis, Compressed):
        return {"name": "Compressed", "basis": basis_settings(basis.basis), "matrix": basis.matrix}
    return {"name": type(basis).__name__, **asdict(basis)}  # type: ignore[call-overload]


def basis_from_settings(settings: Mapping[str, Any]) -> RadialBasis:
    """Make the basis that `settings` describes."""
    others = dict(settings)
    name = others.pop("name")
    if name == "Compressed":
        matrix = np.array(others["matrix"], dtype=np.float64)
        inner = basis_from_settings(others["basis"])
        return Compressed(inner, tuple(tuple(tuple(row) for row in block) for block in matrix.tolist()))
    return BASES[name](**others)
