"""REMatch: the regularised best match of the environments of two structures, by Sinkhorn's iteration."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numba import njit

from kernelpot.errors import ParameterError
from kernelpot.structures.encoded import Encoded, EnvironmentKernel, over_tiles

ATOMS = 512
TOLERANCE = 1e-8
"""Of the sums of the plan's rows, as the sum of their errors: the error of the kernel is no larger."""
COARSEST = 16.0
"""Range of costs, in units of the first gamma."""
ROUNDS = 500
SWEEPS = 10
STEPS = 20
FREE = 1e-12
SAFE = 200.0
"""Range of costs, in units of gamma, within which exponentials stay numbers."""


def rematch(
    kernel: EnvironmentKernel, a: Encoded, b: Encoded | None, *, same_element: bool, gamma: float
) -> Float[np.ndarray, "n m"]:
    """Return Σ_ij P_ij c_ij with the plan P of each pair that minimises Σ_ij P_ij (1 - c_ij + γ ln P_ij).

    Rows of P sum to 1/N, columns to 1/M; c_ij is the kernel of environments (De, Bartók, Csányi and Ceriotti, Phys.
    Chem. Chem. Phys. 18, 13754 (2016), eq. 13). Scaled as there, by logarithms where gamma is small.
    """
    other = a if b is None else b

    def block(row: tuple[int, int], column: tuple[int, int]) -> Float[np.ndarray, "rows columns"]:
        left, right = a[slice(*row)], other[slice(*column)]
        values = kernel.values(kernel.scaled(left.vectors), kernel.scaled(right.vectors))
        if same_element:
            values = np.where(left.numbers[:, None] == right.numbers, values, 0.0)
        total = np.empty((len(left), len(right)))
        lower = b is None and row == column
        if not _plans(np.ascontiguousarray(values), left.offsets, right.offsets, gamma, lower, total):
            raise ParameterError(
                f"`gamma` {gamma} is too small: after {ROUNDS * SWEEPS} sweeps the best match of a pair of structures "
                f"is not known to {TOLERANCE:g}; 0.01 to 1 is usual."
            )
        return total

    return over_tiles(a, b, block, ATOMS)


def own_rematch(kernel: EnvironmentKernel, a: Encoded, *, same_element: bool, gamma: float) -> Float[np.ndarray, " n"]:
    """Return the same of every structure with itself."""
    settings = {"same_element": same_element, "gamma": gamma}
    parts = [a[s : s + 1] for s in range(len(a))]
    return np.array([rematch(kernel, part, None, **settings)[0, 0] for part in parts])  # type: ignore[arg-type]


@njit(cache=True, nogil=True)
def _plans(values: Any, rows: Any, columns: Any, gamma: Any, lower: Any, total: Any) -> Any:
    """Fill `total` pair by pair, or half of it; tell whether all plans converged."""
    for s in range(len(rows) - 1):
        for t in range(s + 1 if lower else len(columns) - 1):
            c = values[rows[s] : rows[s + 1], columns[t] : columns[t + 1]]
            total[s, t], converged = _match(c, gamma)
            if not converged:
                return False
    return True


@njit(cache=True, nogil=True)
def _match(c: Any, gamma: Any) -> Any:
    """Return Σ P c with P = exp(u_i + (c - max c)/γ + v_j), and whether its rows sum to 1/N.

    A small γ is reached from a large one by halves, with the potentials γu and γv of the one before: from zero they
    would creep (Schmitzer, SIAM J. Sci. Comput. 41, A1443 (2019), section 3.2).
    """
    n, m = c.shape
    largest = c.max()
    spread = largest - c.min()
    u, v, plan = np.zeros(n), np.zeros(m), np.empty((n, m))
    level = max(gamma, spread / COARSEST)
    while level > gamma:
        _solve((c - largest) / level, spread <= SAFE * level, 1e-3, u, v, plan)
        finer = max(gamma, 0.5 * level)
        u *= level / finer
        v *= level / finer
        level = finer
    converged = _solve((c - largest) / gamma, spread <= SAFE * gamma, TOLERANCE, u, v, plan)
    value = 0.0
    for i in range(n):
        for j in range(m):
            value += plan[i, j] * c[i, j]
    return value, converged


@njit(cache=True, nogil=True)
def _solve(g: Any, safe: Any, tolerance: Any, u: Any, v: Any, plan: Any) -> Any:
    """Improve u and v until the plan's rows are right; tell whether they are.

    Sinkhorn's sweeps bring them near; Newton's steps on the concave dual, of which the sweeps are coordinate ascent,
    finish (Brauer et al., arXiv:1710.06635 (2017)).
    """
    weights = np.exp(g) if safe else g
    rest = np.empty(len(u))
    for _ in range(ROUNDS):
        if safe:
            _sweep_scales(weights, u, v)
        else:
            _sweep_logarithms(g, u, v)
        size, error = _plan(g, u, v, plan, rest)
        for _ in range(STEPS):
            if error <= tolerance:
                return True
            step = _newton(plan, rest)
            ahead, behind = u + step, v.copy()
            new_size, new_error = _plan(g, ahead, behind, plan, rest)
            if not new_size < size:
                break
            u[:], v[:] = ahead, behind
            size, error = new_size, new_error
    return False


@njit(cache=True, nogil=True)
def _plan(g: Any, u: Any, v: Any, plan: Any, rest: Any) -> Any:
    """Fill the plan with v such that columns are right; return what rows lack, as squares and as absolute values."""
    n, m = g.shape
    for j in range(m):
        total = 0.0
        for i in range(n):
            plan[i, j] = np.exp(min(u[i] + g[i, j] + v[j], 300.0))
            total += plan[i, j]
        if total == 0.0:
            return np.inf, np.inf
        v[j] -= np.log(m * total)
        for i in range(n):
            plan[i, j] /= m * total
    size, error = 0.0, 0.0
    for i in range(n):
        rest[i] = 1.0 / n - plan[i].sum()
        size += rest[i] * rest[i]
        error += abs(rest[i])
    return size, error


@njit(cache=True, nogil=True)
def _newton(plan: Any, rest: Any) -> Any:
    """Return the step of u: (diag(P1) - P diag(1/Pᵀ1) Pᵀ) step = rest, fixed along the constant it leaves free."""
    n, m = plan.shape
    hessian = np.empty((n, n))
    for i in range(n):
        for k in range(i + 1):
            total = 0.0
            for j in range(m):
                total += plan[i, j] * plan[k, j]
            hessian[i, k] = hessian[k, i] = 1.0 / n**2 - m * total
        hessian[i, i] += 1.0 / n - rest[i]
    return _solved(hessian, rest)


@njit(cache=True, nogil=True)
def _solved(a: Any, b: Any) -> Any:
    """Return a⁻¹b by Cholesky's factor, in place of `a`.

    A direction that round-off cannot tell from a free one, as that between elements that do not mix, is not moved.
    """
    n = len(b)
    x = b.copy()
    for i in range(n):
        for k in range(i + 1):
            total = a[i, k]
            for j in range(k):
                total -= a[i, j] * a[k, j]
            if k < i:
                a[i, k] = total / a[k, k]
            else:
                a[i, i] = np.sqrt(total) if total > FREE * a[i, i] else 1e150
        for j in range(i):
            x[i] -= a[i, j] * x[j]
        x[i] /= a[i, i]
    for i in range(n - 1, -1, -1):
        for j in range(i + 1, n):
            x[i] -= a[j, i] * x[j]
        x[i] /= a[i, i]
    return x


@njit(cache=True, nogil=True)
def _sweep_scales(weights: Any, u: Any, v: Any) -> Any:
    """Scale rows and columns in turn, from and to logarithms."""
    n, m = weights.shape
    rows, columns = np.exp(u), np.exp(v)
    for _ in range(SWEEPS):
        for i in range(n):
            total = 0.0
            for j in range(m):
                total += weights[i, j] * columns[j]
            rows[i] = 1.0 / (n * total)
        columns[:] = 0.0
        for i in range(n):
            for j in range(m):
                columns[j] += weights[i, j] * rows[i]
        for j in range(m):
            columns[j] = 1.0 / (m * columns[j])
    u[:], v[:] = np.log(rows), np.log(columns)


@njit(cache=True, nogil=True)
def _sweep_logarithms(g: Any, u: Any, v: Any) -> Any:
    """Scale rows and columns in turn, where exponentials would underflow."""
    n, m = g.shape
    for _ in range(SWEEPS):
        for i in range(n):
            u[i] = -np.log(n) - _log_sum(g[i] + v)
        for j in range(m):
            v[j] = -np.log(m) - _log_sum(g[:, j] + u)


@njit(cache=True, nogil=True)
def _log_sum(values: Any) -> Any:
    largest = values.max()
    return largest + np.log(np.exp(values - largest).sum())
