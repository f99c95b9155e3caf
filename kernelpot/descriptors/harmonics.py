"""Real solid harmonics on the unit sphere, for blocks of pairs in Numba."""

from __future__ import annotations

from math import factorial, pi, sqrt
from typing import Any

import numpy as np
from jaxtyping import Float
from numba import njit

FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def recurrence(l_max: int) -> Float[np.ndarray, "5 lm"]:
    """Coefficients of the recurrences in l for the normalised z-part Q_lm of Y_lm = Q_lm(z) · Re/Im (x + iy)^m.

    Row 0: Q_mm on the diagonal. Rows 1 and 2: Q_lm = A z Q_{l-1,m} - B Q_{l-2,m}. Row 3: ∂Q_lm/∂z = D Q_{l-1,m}.
    Row 4: ∂Q_lm/∂x = -E x Q_{l-1,m+1}, likewise y. Column of (l, m ≥ 0) is l(l+1)/2 + m. The recurrences are those of
    Bigi et al., J. Chem. Phys. 159, 064802 (2023), eqs. 6-11, with the normalisation folded in and without the
    Condon-Shortley phase.
    """

    def norm(l: int, m: int) -> float:  # noqa: E741
        return sqrt((2 * l + 1) / (4 * pi) * factorial(l - m) / factorial(l + m) * (2 if m else 1))

    table = np.zeros((5, (l_max + 1) * (l_max + 2) // 2))
    for l in range(l_max + 1):  # noqa: E741
        for m in range(l + 1):
            k = l * (l + 1) // 2 + m
            if m == l:
                table[0, k] = norm(l, l) * np.prod(np.arange(1, 2 * l, 2, dtype=float))
            else:
                table[1, k] = (2 * l - 1) / (l - m) * norm(l, m) / norm(l - 1, m)
                table[3, k] = (l + m) * norm(l, m) / norm(l - 1, m)
            if m <= l - 2:
                table[2, k] = (l + m - 1) / (l - m) * norm(l, m) / norm(l - 2, m)
                table[4, k] = norm(l, m) / norm(l - 1, m + 1)
    return table


@njit(cache=True, fastmath=FASTMATH)
def fill(l_max: Any, count: Any, u: Any, table: Any, q: Any, c: Any, s: Any) -> Any:
    """Fill q[(l, m), p], c[m, p] and s[m, p] for the unit vectors u[:, p] of `count` pairs."""
    for p in range(count):
        c[0, p] = 1.0
        s[0, p] = 0.0
    for m in range(1, l_max + 1):
        for p in range(count):
            c[m, p] = u[0, p] * c[m - 1, p] - u[1, p] * s[m - 1, p]
            s[m, p] = u[0, p] * s[m - 1, p] + u[1, p] * c[m - 1, p]
    for m in range(l_max + 1):
        k = m * (m + 1) // 2 + m
        diagonal = table[0, k]
        for p in range(count):
            q[k, p] = diagonal
        if m < l_max:
            k1 = k + m + 1
            a1 = table[1, k1]
            for p in range(count):
                q[k1, p] = a1 * u[2, p] * diagonal
        for l in range(m + 2, l_max + 1):  # noqa: E741
            k2 = l * (l + 1) // 2 + m
            k1 = k2 - l
            k0 = k1 - l + 1
            a = table[1, k2]
            b = table[2, k2]
            for p in range(count):
                q[k2, p] = a * u[2, p] * q[k1, p] - b * q[k0, p]


@njit(cache=True, fastmath=FASTMATH)
def values(l_max: Any, count: Any, q: Any, c: Any, s: Any, y: Any) -> Any:
    """Fill y[lm, p], lm = l² + l + m, from the factors that `fill` left."""
    for l in range(l_max + 1):  # noqa: E741
        k = l * (l + 1) // 2
        lm = l * l + l
        for p in range(count):
            y[lm, p] = q[k, p]
        for m in range(1, l + 1):
            for p in range(count):
                y[lm + m, p] = q[k + m, p] * c[m, p]
                y[lm - m, p] = q[k + m, p] * s[m, p]


@njit(cache=True, fastmath=FASTMATH)
def gradients(l_max: Any, count: Any, table: Any, u: Any, r: Any, q: Any, re: Any, im: Any, y: Any, dy: Any) -> Any:
    """Fill y[lm, b] and dy[x, lm, b] = ∂Y_lm/∂r of each pair (Å⁻¹)."""
    for l in range(l_max + 1):  # noqa: E741
        row = l * (l + 1) // 2
        lower = row - l
        for m in range(l + 1):
            k = row + m
            d = table[3, k] if m < l else 0.0
            e = table[4, k] if m < l - 1 else 0.0
            below = lower + m if m < l else 0
            beside = lower + m + 1 if m < l - 1 else 0
            for sign in range(-1 if m else 1, 2, 2):
                lm = l * l + l + sign * m
                for b in range(count):
                    f = re[m, b] if sign > 0 else im[m, b]
                    fx, fy = 0.0, 0.0
                    if m:
                        fx = m * (re[m - 1, b] if sign > 0 else im[m - 1, b])
                        fy = m * (-im[m - 1, b] if sign > 0 else re[m - 1, b])
                    value = q[k, b] * f
                    side = e * q[beside, b] * f
                    y[lm, b] = value
                    dy[0, lm, b] = (q[k, b] * fx - (side + l * value) * u[0, b]) / r[b]
                    dy[1, lm, b] = (q[k, b] * fy - (side + l * value) * u[1, b]) / r[b]
                    dy[2, lm, b] = (d * q[below, b] * f - l * value * u[2, b]) / r[b]
