"""Symmetry functions of many atoms with their derivatives, as loops over pairs and triples in Numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernelpot.descriptors.harmonics import FASTMATH

# Neighbours of a centre are sorted by element; triples of two elements fill a buffer, and every step over it is a plain
# loop. `near` holds a centre's neighbours: x, y, z, r², 1/r, then for each η its e = exp(-ηr²) f(r) and e'/r.
BUFFER = 256
X, Y, Z, SQUARE, INVERSE, FIRST = 0, 1, 2, 3, 4, 5


@njit(cache=True)
def cutoff_value(name: Any, cutoff: Any, r: Any) -> Any:
    """Return f(r) and f'(r); `name` is 0 for the polynomial, 1 for the cosine."""
    x = r / cutoff
    if name == 0:
        u = 1.0 - x * x
        return u * u * u, -6.0 * x * u * u / cutoff
    return 0.5 * (1.0 + np.cos(np.pi * x)), -0.5 * np.pi / cutoff * np.sin(np.pi * x)


@njit(cache=True, fastmath=FASTMATH)
def neighbours(
    i: Any, name: Any, cutoff: Any, etas: Any, vectors: Any, elements: Any, offsets: Any, near: Any, which: Any,
    begins: Any,
) -> Any:  # fmt: skip
    """Sort the neighbours of atom i by element: `begins` bounds each element's, `which` is their pair."""
    begins[:] = 0
    c2 = cutoff * cutoff
    for p in range(offsets[i], offsets[i + 1]):
        v = vectors[p]
        if v[0] * v[0] + v[1] * v[1] + v[2] * v[2] < c2:
            begins[elements[p] + 1] += 1
    for a in range(1, len(begins)):
        begins[a] += begins[a - 1]
    for p in range(offsets[i], offsets[i + 1]):
        v = vectors[p]
        square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2]
        if square < c2:
            # Places fill from the front; the bounds are set right below.
            n = begins[elements[p]]
            begins[elements[p]] += 1
            which[n] = p
            r = np.sqrt(square)
            near[X, n], near[Y, n], near[Z, n], near[SQUARE, n], near[INVERSE, n] = v[0], v[1], v[2], square, 1.0 / r
            f, slope = cutoff_value(name, cutoff, r)
            for e in range(len(etas)):
                gauss = np.exp(-etas[e] * square)
                near[FIRST + 2 * e, n] = gauss * f
                near[FIRST + 2 * e + 1, n] = gauss * (slope / r - 2.0 * etas[e] * f)
    for a in range(len(begins) - 1, 0, -1):
        begins[a] = begins[a - 1]
    begins[0] = 0


@njit(cache=True, fastmath=FASTMATH)
def radial_functions(name: Any, cutoff: Any, radial: Any, r: Any, value: Any, slope: Any) -> Any:
    """Fill the radial functions at one distance with their slopes."""
    f, df = cutoff_value(name, cutoff, r)
    for n in range(radial.shape[1]):
        eta, shift, kappa = radial[0, n], r - radial[1, n], radial[2, n]
        g, dg = 1.0, 0.0
        if eta != 0.0:
            g = np.exp(-eta * shift * shift)
            dg = -2.0 * eta * shift * g
        elif kappa != 0.0:
            g = np.cos(kappa * r)
            dg = -kappa * np.sin(kappa * r)
        value[n] = g * f
        slope[n] = dg * f + g * df


@njit(cache=True, fastmath=FASTMATH)
def fill(kind: Any, cutoff: Any, near: Any, j: Any, k: Any, stop: Any, n: Any, js: Any, ks: Any, scratch: Any) -> Any:
    """Add triples of j with k … stop to the buffer until it is full: c and s = r_jk². G4 leaves out those too long."""
    c2 = cutoff * cutoff if kind == 0 else np.inf
    x, y, z, square, inverse = near[X, j], near[Y, j], near[Z, j], near[SQUARE, j], near[INVERSE, j]
    c, s = scratch[0], scratch[1]
    while k < stop and n < BUFFER:
        # As many as surely fit, without a branch: what is not kept is written over by the next.
        last = min(stop, k + BUFFER - n)
        for m in range(k, last):
            dot = x * near[X, m] + y * near[Y, m] + z * near[Z, m]
            js[n], ks[n] = j, m
            c[n] = dot * inverse * near[INVERSE, m]
            s[n] = square + near[SQUARE, m] - 2.0 * dot
            n += (m != j) & (s[n] < c2)
        k = last
    return k, n


@njit(cache=True, fastmath=FASTMATH)
def third_side(table: Any, step: Any, n: Any, js: Any, ks: Any, near: Any, s: Any, value: Any) -> Any:
    """Fill e_j e_k exp(-ηs) f(√s) of the buffered triples for every η."""
    last, inverse = table.shape[0] - 1, 1.0 / step
    for m in range(n):
        x = max(s[m], 0.0) * inverse
        node = min(int(x), last)
        t = x - node
        for e in range(value.shape[0]):
            a = table[node, e]
            f = a[0] + t * (a[1] + t * (a[2] + t * (a[3] + t * (a[4] + t * a[5]))))
            value[e, m] = f * near[FIRST + 2 * e, js[m]] * near[FIRST + 2 * e, ks[m]]


@njit(cache=True, fastmath=FASTMATH)
def third_side_slope(table: Any, step: Any, n: Any, s: Any, value: Any, slope: Any) -> Any:
    """Fill exp(-ηs) f(√s) and its slope by s of the buffered triples for every η."""
    last, inverse = table.shape[0] - 1, 1.0 / step
    for m in range(n):
        x = max(s[m], 0.0) * inverse
        node = min(int(x), last)
        t = x - node
        for e in range(value.shape[0]):
            a = table[node, e]
            value[e, m] = a[0] + t * (a[1] + t * (a[2] + t * (a[3] + t * (a[4] + t * a[5]))))
            slope[e, m] = inverse * (a[1] + t * (2.0 * a[2] + t * (3.0 * a[3] + t * (4.0 * a[4] + t * 5.0 * a[5]))))


@njit(cache=True, fastmath=FASTMATH)
def power(zeta: Any, weight: Any, n: Any, c: Any, base: Any, square: Any, low: Any) -> Any:
    """Fill base = (1 + λc)/2 and low = base^(ζ-1); whole powers by squaring."""
    for m in range(n):
        base[m] = max(0.0, 0.5 + 0.5 * weight * c[m])
    left = int(zeta) - 1
    if left + 1 != zeta:
        for m in range(n):
            low[m] = base[m] ** (zeta - 1.0)
        return
    for m in range(n):
        low[m] = 1.0
        square[m] = base[m]
    while left > 0:
        if left & 1:
            for m in range(n):
                low[m] *= square[m]
        left >>= 1
        if left > 0:
            for m in range(n):
                square[m] *= square[m]


@njit(cache=True, fastmath=FASTMATH)
def _sum_buffer(
    kind: Any, angular: Any, powers: Any, table: Any, step: Any, n: Any, js: Any, ks: Any, near: Any, scratch: Any,
    value: Any, total: Any,
) -> Any:  # fmt: skip
    """Add the angular functions of the buffered triples to total."""
    if kind == 0:
        third_side(table, step, n, js, ks, near, scratch[1], value)
    else:
        for e in range(value.shape[0]):
            own = near[FIRST + 2 * e]
            for m in range(n):
                value[e, m] = own[js[m]] * own[ks[m]]
    done = -1
    base, square, low, whole = scratch[2], scratch[3], scratch[4], scratch[5]
    f = 0
    while angular[0, f] >= 0:
        q, w = angular[0, f], value[angular[1, f]]
        if q != done:
            power(powers[0, q], powers[1, q], n, scratch[0], base, square, low)
            for m in range(n):
                whole[m] = 2.0 * low[m] * base[m]
            done = q
        added = 0.0
        for m in range(n):
            added += whole[m] * w[m]
        total[angular[2, f]] += added
        f += 1


@njit(cache=True)
def angular_start(a: Any, b: Any, n_radial: Any, n_angular: Any, n_elements: Any) -> Any:
    """Return the first place of the angular functions of two elements, after the centre's own."""
    high, low = max(a, b), min(a, b)
    return 1 + n_elements * n_radial + (high * (high + 1) // 2 + low) * n_angular


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def symmetry_functions(
    begin: Any, end: Any, name: Any, cutoff: Any, radial: Any, etas: Any, angular: Any, powers: Any, table: Any,
    step: Any, n_angular: Any, weights: Any, identity: Any, vectors: Any, elements: Any, offsets: Any, most: Any,
    result: Any,
) -> Any:  # fmt: skip
    """Add the functions of atoms ``begin:end`` to result[i, 1:]; a neighbour of element a counts weights[:, a]."""
    n_channels, n_elements = weights.shape
    n_radial = radial.shape[1]
    near, which = np.empty((FIRST + 2 * len(etas), most)), np.empty(most, np.int64)
    begins = np.empty(n_elements + 1, np.int64)
    js, ks = np.empty(BUFFER, np.int64), np.empty(BUFFER, np.int64)
    scratch = np.empty((6, BUFFER))
    value = np.empty((len(etas), BUFFER))
    g, dg, total = np.empty(n_radial), np.empty(n_radial), np.empty(n_angular)
    sums = np.empty(n_radial)
    for i in range(begin, end):
        neighbours(i, name, cutoff, etas, vectors, elements, offsets, near, which, begins)
        for a in range(n_elements):
            if begins[a] == begins[a + 1]:
                continue
            sums[:] = 0.0
            for j in range(begins[a], begins[a + 1]):
                radial_functions(name, cutoff, radial, np.sqrt(near[SQUARE, j]), g, dg)
                sums += g
            if identity:
                result[i, 1 + a * n_radial : 1 + (a + 1) * n_radial] += sums
            else:
                for ch in range(n_channels):
                    result[i, 1 + ch * n_radial : 1 + (ch + 1) * n_radial] += weights[ch, a] * sums
        if n_angular == 0:
            continue
        for a in range(n_elements):
            for b in range(a + 1):
                if begins[a] == begins[a + 1] or begins[b] == begins[b + 1]:
                    continue
                total[:] = 0.0
                for kind in range(2):
                    if angular[kind, 0, 0] < 0:
                        continue
                    n = 0
                    for j in range(begins[a], begins[a + 1]):
                        k, stop = begins[b], j if a == b else begins[b + 1]
                        while k < stop:
                            k, n = fill(kind, cutoff, near, j, k, stop, n, js, ks, scratch)
                            if n == BUFFER:
                                _sum_buffer(
                                    kind, angular[kind], powers, table, step, n, js, ks, near, scratch, value, total,
                                )  # fmt: skip
                                n = 0
                    if n > 0:
                        _sum_buffer(kind, angular[kind], powers, table, step, n, js, ks, near, scratch, value, total)
                if identity:
                    start = angular_start(a, b, n_radial, n_angular, n_elements)
                    result[i, start : start + n_angular] += total
                else:
                    for ch in range(n_channels):
                        start = 1 + n_channels * n_radial + ch * n_angular
                        result[i, start : start + n_angular] += weights[ch, a] * weights[ch, b] * total
