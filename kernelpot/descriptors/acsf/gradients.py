"""Derivatives of symmetry functions by pair vectors, as loops over pairs and triples in Numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernelpot.descriptors.acsf.loops import (
    BUFFER,
    FIRST,
    INVERSE,
    SQUARE,
    X,
    Y,
    Z,
    angular_start,
    fill,
    neighbours,
    power,
    radial_functions,
    third_side_slope,
)
from kernelpot.descriptors.harmonics import FASTMATH

# A triple's function is F(c, r_j², r_k², s) with s = r_jk² = |r_k - r_j|², so ∂F/∂r_j = α r_j + γ r_k and
# ∂F/∂r_k = γ r_j + δ r_k: γ = F_c/(|r_j||r_k|) - 2F_s, α = -c F_c/r_j² + 2F_s + F_j/|r_j|, and δ as α with k for j.


@njit(cache=True, fastmath=FASTMATH)
def _gather_weights(gradient: Any, first: Any, identity: Any, weights: Any, a: Any, b: Any, result: Any) -> Any:
    """Sum gradient[first of channel …] over channels, each times the weights of both elements (b < 0: of a alone)."""
    size = len(result)
    if identity:
        result[:] = gradient[first : first + size]
        return
    result[:] = 0.0
    for ch in range(weights.shape[0]):
        w = weights[ch, a]
        if b >= 0:
            w *= weights[ch, b]
        result += w * gradient[first + ch * size : first + (ch + 1) * size]


@njit(cache=True, fastmath=FASTMATH)
def _push_buffer(
    kind: Any, angular: Any, powers: Any, table: Any, step: Any, n: Any, js: Any, ks: Any, near: Any, scratch: Any,
    value: Any, slope: Any, whole: Any, turn: Any, w: Any, pushed: Any,
) -> Any:  # fmt: skip
    """Add dE/dr of the buffered triples to the neighbours' `pushed`, given dE/dG of every angular function in w."""
    if kind == 0:
        third_side_slope(table, step, n, scratch[1], value, slope)
    else:
        value[:, :n] = 1.0
        slope[:, :n] = 0.0
    c = scratch[0]
    base, square, low = scratch[2], scratch[3], scratch[4]
    whole[:, :n] = 0.0
    turn[:, :n] = 0.0
    done, f = -1, 0
    while angular[0, f] >= 0:
        q, e = angular[0, f], angular[1, f]
        if q != done:
            power(powers[0, q], powers[1, q], n, c, base, square, low)
            done = q
        up = 2.0 * w[angular[2, f]]
        down = 0.5 * up * powers[0, q] * powers[1, q]
        to, by = whole[e], turn[e]
        for m in range(n):
            to[m] += up * low[m] * base[m]
            by[m] += down * low[m]
        f += 1
    fc, fs, fj, fk = scratch[2], scratch[3], scratch[4], scratch[5]
    scratch[2:, :n] = 0.0
    for e in range(value.shape[0]):
        own, stretch = near[FIRST + 2 * e], near[FIRST + 2 * e + 1]
        for m in range(n):
            ej, ek = own[js[m]], own[ks[m]]
            both, here = ej * ek, value[e, m] * whole[e, m]
            fc[m] += both * value[e, m] * turn[e, m]
            fs[m] += both * slope[e, m] * whole[e, m]
            fj[m] += stretch[js[m]] * ek * here
            fk[m] += ej * stretch[ks[m]] * here
    for m in range(n):
        j, k = js[m], ks[m]
        pj, pk = near[INVERSE, j], near[INVERSE, k]
        gamma = fc[m] * pj * pk - 2.0 * fs[m]
        alpha = 2.0 * fs[m] - c[m] * fc[m] * pj * pj + fj[m]
        delta = 2.0 * fs[m] - c[m] * fc[m] * pk * pk + fk[m]
        for x in range(3):
            pushed[j, x] += alpha * near[x, j] + gamma * near[x, k]
            pushed[k, x] += gamma * near[x, j] + delta * near[x, k]


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def symmetry_vjp(
    begin: Any, end: Any, name: Any, cutoff: Any, radial: Any, etas: Any, angular: Any, powers: Any, table: Any,
    step: Any, n_angular: Any, weights: Any, identity: Any, vectors: Any, elements: Any, offsets: Any, most: Any,
    gradient: Any, result: Any,
) -> Any:  # fmt: skip
    """Fill result[p] = dE/dr of every pair of atoms ``begin:end``, given dE/dG in gradient[i, 1:]."""
    n_channels, n_elements = weights.shape
    n_radial, count = radial.shape[1], len(etas)
    near, which = np.empty((FIRST + 2 * count, most)), np.empty(most, np.int64)
    begins = np.empty(n_elements + 1, np.int64)
    js, ks = np.empty(BUFFER, np.int64), np.empty(BUFFER, np.int64)
    scratch = np.empty((6, BUFFER))
    value, slope = np.empty((count, BUFFER)), np.empty((count, BUFFER))
    whole, turn = np.empty((count, BUFFER)), np.empty((count, BUFFER))
    g, dg, up, w = np.empty(n_radial), np.empty(n_radial), np.empty(n_radial), np.empty(n_angular)
    pushed = np.empty((most, 3))
    for i in range(begin, end):
        neighbours(i, name, cutoff, etas, vectors, elements, offsets, near, which, begins)
        total = begins[n_elements]
        pushed[:total] = 0.0
        for a in range(n_elements):
            if begins[a] == begins[a + 1]:
                continue
            _gather_weights(gradient[i], 1 + a * n_radial if identity else 1, identity, weights, a, -1, up)
            for j in range(begins[a], begins[a + 1]):
                radial_functions(name, cutoff, radial, np.sqrt(near[SQUARE, j]), g, dg)
                along = 0.0
                for m in range(n_radial):
                    along += up[m] * dg[m]
                along *= near[INVERSE, j]
                for x in range(3):
                    pushed[j, x] += along * near[x, j]
            for b in range(a + 1 if n_angular > 0 else 0):
                if begins[b] == begins[b + 1]:
                    continue
                first = 1 + n_channels * n_radial
                if identity:
                    first = angular_start(a, b, n_radial, n_angular, n_elements)
                _gather_weights(gradient[i], first, identity, weights, a, b, w)
                for kind in range(2):
                    if angular[kind, 0, 0] < 0:
                        continue
                    n = 0
                    for j in range(begins[a], begins[a + 1]):
                        k, stop = begins[b], j if a == b else begins[b + 1]
                        while k < stop:
                            k, n = fill(kind, cutoff, near, j, k, stop, n, js, ks, scratch)
                            if n == BUFFER:
                                _push_buffer(
                                    kind, angular[kind], powers, table, step, n, js, ks, near, scratch, value, slope,
                                    whole, turn, w, pushed,
                                )  # fmt: skip
                                n = 0
                    if n > 0:
                        _push_buffer(
                            kind, angular[kind], powers, table, step, n, js, ks, near, scratch, value, slope, whole,
                            turn, w, pushed,
                        )  # fmt: skip
        for j in range(total):
            for x in range(3):
                result[which[j], x] = pushed[j, x]


@njit(cache=True, fastmath=FASTMATH)
def _turn_buffer(
    kind: Any, angular: Any, powers: Any, table: Any, step: Any, n: Any, js: Any, ks: Any, near: Any, scratch: Any,
    value: Any, slope: Any, first: Any, moved: Any,
) -> Any:  # fmt: skip
    """Add ∂G/∂r_j of the buffered triples, in runs of one j each, to moved[j - first, x, function]."""
    if kind == 0:
        third_side_slope(table, step, n, scratch[1], value, slope)
    else:
        value[:, :n] = 1.0
        slope[:, :n] = 0.0
    c, base, square, low, whole = scratch[0], scratch[2], scratch[3], scratch[4], scratch[5]
    both, along, xk, yk, zk = scratch[6], scratch[7], scratch[8], scratch[9], scratch[10]
    for m in range(n):
        j, k = js[m], ks[m]
        xk[m], yk[m], zk[m] = near[X, k], near[Y, k], near[Z, k]
        both[m] = near[INVERSE, j] * near[INVERSE, k]
        along[m] = c[m] * near[INVERSE, j] * near[INVERSE, j]
    for e in range(value.shape[0]):
        own = near[FIRST + 2 * e]
        for m in range(n):
            value[e, m] *= own[ks[m]]
            slope[e, m] *= own[ks[m]]
    done, f = -1, 0
    while angular[0, f] >= 0:
        q, e, place = angular[0, f], angular[1, f], angular[2, f]
        if q != done:
            power(powers[0, q], powers[1, q], n, c, base, square, low)
            for m in range(n):
                whole[m] = low[m] * base[m]
            done = q
        here, there = value[e], slope[e]
        begin = 0
        while begin < n:
            j = js[begin]
            end = begin + 1
            while end < n and js[end] == j:
                end += 1
            ej, stretch = 2.0 * near[FIRST + 2 * e, j], 2.0 * near[FIRST + 2 * e + 1, j]
            turned = 0.5 * ej * powers[0, q] * powers[1, q]
            total, sx, sy, sz = 0.0, 0.0, 0.0, 0.0
            for m in range(begin, end):
                fc = turned * low[m] * here[m]
                fs = 2.0 * ej * whole[m] * there[m]
                gamma = fc * both[m] - fs
                total += fs - fc * along[m] + stretch * whole[m] * here[m]
                sx += gamma * xk[m]
                sy += gamma * yk[m]
                sz += gamma * zk[m]
            moved[j - first, 0, place] += total * near[X, j] + sx
            moved[j - first, 1, place] += total * near[Y, j] + sy
            moved[j - first, 2, place] += total * near[Z, j] + sz
            begin = end
        f += 1


@njit(cache=True, fastmath=FASTMATH)
def _add_pair(r: Any, moved: Any, first: Any, weight: Any, row: Any, own: Any, virial: Any) -> Any:
    """Add weight times a pair's derivatives to its atom's row and to the virial, and take them off its centre's."""
    x, y, z = r[0], r[1], r[2]
    for m in range(moved.shape[1]):
        f = first + m
        cx, cy, cz = weight * moved[0, m], weight * moved[1, m], weight * moved[2, m]
        row[0, f] += cx
        row[1, f] += cy
        row[2, f] += cz
        own[0, f] -= cx
        own[1, f] -= cy
        own[2, f] -= cz
        virial[0, f] += x * cx
        virial[1, f] += y * cy
        virial[2, f] += z * cz
        virial[3, f] += 0.5 * (y * cz + z * cy)
        virial[4, f] += 0.5 * (x * cz + z * cx)
        virial[5, f] += 0.5 * (x * cy + y * cx)


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def symmetry_rows(
    begin: Any, end: Any, name: Any, cutoff: Any, radial: Any, etas: Any, angular: Any, powers: Any, table: Any,
    step: Any, n_angular: Any, weights: Any, identity: Any, vectors: Any, elements: Any, offsets: Any, most: Any,
    slot: Any, slot_offsets: Any, start: Any, rows: Any, virial: Any,
) -> Any:  # fmt: skip
    """Fill rows[s, x, 1:] = ∂G_i/∂r_j for every atom j that moves centre i, and virial[i] = Σ_pairs sym(r ⊗ ∂G_i/∂r).

    The centres are ``start + begin:start + end``, slots as in `power.displacement_rows`.
    """
    n_channels, n_elements = weights.shape
    n_radial, count = radial.shape[1], len(etas)
    near, which = np.empty((FIRST + 2 * count, most)), np.empty(most, np.int64)
    begins = np.empty(n_elements + 1, np.int64)
    js, ks = np.empty(BUFFER, np.int64), np.empty(BUFFER, np.int64)
    scratch = np.empty((11, BUFFER))
    value, slope = np.empty((count, BUFFER)), np.empty((count, BUFFER))
    g, dg = np.empty(n_radial), np.empty(n_radial)
    pair, moved = np.empty((3, n_radial)), np.empty((most, 3, n_angular))
    for centre in range(begin, end):
        i = start + centre
        own = slot_offsets[i] - slot_offsets[start]
        rows[own : slot_offsets[i + 1] - slot_offsets[start]] = 0.0
        virial[centre] = 0.0
        neighbours(i, name, cutoff, etas, vectors, elements, offsets, near, which, begins)
        for a in range(n_elements):
            size = begins[a + 1] - begins[a]
            for j in range(begins[a], begins[a + 1]):
                radial_functions(name, cutoff, radial, np.sqrt(near[SQUARE, j]), g, dg)
                for x in range(3):
                    along = near[x, j] * near[INVERSE, j]
                    for m in range(n_radial):
                        pair[x, m] = along * dg[m]
                for ch in range(1 if identity else n_channels):
                    first = 1 + (a if identity else ch) * n_radial
                    weight = 1.0 if identity else weights[ch, a]
                    row = rows[own + slot[which[j]]]
                    _add_pair(vectors[which[j]], pair, first, weight, row, rows[own], virial[centre])
            for b in range(n_elements if n_angular > 0 and size > 0 else 0):
                if begins[b] == begins[b + 1]:
                    continue
                moved[:size] = 0.0
                for kind in range(2):
                    if angular[kind, 0, 0] < 0:
                        continue
                    n = 0
                    for j in range(begins[a], begins[a + 1]):
                        k = begins[b]
                        while k < begins[b + 1]:
                            k, n = fill(kind, cutoff, near, j, k, begins[b + 1], n, js, ks, scratch)
                            if n == BUFFER:
                                _turn_buffer(
                                    kind, angular[kind], powers, table, step, n, js, ks, near, scratch, value, slope,
                                    begins[a], moved,
                                )  # fmt: skip
                                n = 0
                    if n > 0:
                        _turn_buffer(
                            kind, angular[kind], powers, table, step, n, js, ks, near, scratch, value, slope,
                            begins[a], moved,
                        )  # fmt: skip
                for j in range(begins[a], begins[a + 1]):
                    row = rows[own + slot[which[j]]]
                    part = moved[j - begins[a]]
                    if identity:
                        first = angular_start(a, b, n_radial, n_angular, n_elements)
                        _add_pair(vectors[which[j]], part, first, 1.0, row, rows[own], virial[centre])
                        continue
                    for ch in range(n_channels):
                        first = 1 + n_channels * n_radial + ch * n_angular
                        weight = weights[ch, a] * weights[ch, b]
                        _add_pair(vectors[which[j]], part, first, weight, row, rows[own], virial[centre])
