"""Sums over the triples of one centre, a buffer of them at a time, with their derivatives, in Numba."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from kernelpot.descriptors.loops import FASTMATH

# Neighbours of a centre are sorted by element; triples of two elements fill a buffer, and every step over it is a plain
# loop.
BUFFER = 256
X, Y, Z, SQUARE, INVERSE, FIRST = 0, 1, 2, 3, 4, 5


class Neighbours(NamedTuple):
    """Neighbours of a centre: element a has those from begins[a] on, `pair` are their numbers.

    Rows of `near`: x, y, z, r², 1/r, then for each η its e = exp(-ηr²) f(r) and e'/r.
    """

    near: Float[np.ndarray, "rows most"]
    pair: Int[np.ndarray, " most"]
    begins: Int[np.ndarray, " elements_plus_1"]


class Triples(NamedTuple):
    """Buffered triples: neighbours j and k, c = cos θ and s = r_jk² in the first rows of `scratch`.

    `third` holds for each η what the third side gives, `slope` its derivative by s where that is wanted.
    """

    j: Int[np.ndarray, " buffer"]
    k: Int[np.ndarray, " buffer"]
    scratch: Float[np.ndarray, "11 buffer"]
    third: Float[np.ndarray, "etas buffer"]
    slope: Float[np.ndarray, "etas buffer"]


@njit(cache=True)
def room(functions: Any, pairs: Any) -> Any:
    """Make room for the longest list of neighbours and for a buffer of triples."""
    most, count = 0, len(functions.etas)
    for i in range(len(pairs.offsets) - 1):
        most = max(most, pairs.offsets[i + 1] - pairs.offsets[i])
    near, pair = np.empty((FIRST + 2 * count, most)), np.empty(most, np.int64)
    js, ks, scratch = np.empty(BUFFER, np.int64), np.empty(BUFFER, np.int64), np.empty((11, BUFFER))
    third, slope = np.empty((count, BUFFER)), np.empty((count, BUFFER))
    around = Neighbours(near, pair, np.empty(functions.weights.shape[1] + 1, np.int64))
    return around, Triples(js, ks, scratch, third, slope)


@njit(cache=True, fastmath=FASTMATH)
def fill_buffer(a: Any, b: Any, j: Any, k: Any, reach: Any, once: Any, around: Any, triples: Any) -> Any:
    """Fill the buffer with triples of neighbours j of element a and k of b, from (j, k) on, with r_jk below `reach`.

    `once`: each two neighbours of one element once, k < j; else k runs over all but j. Return (j, k) to go on from,
    and how many triples there are.
    """
    near, begins, js, ks = around.near, around.begins, triples.j, triples.k
    c, s = triples.scratch[0], triples.scratch[1]
    c2 = reach * reach
    n = 0
    while j < begins[a + 1]:
        x, y, z, square, inverse = near[X, j], near[Y, j], near[Z, j], near[SQUARE, j], near[INVERSE, j]
        stop = j if once and a == b else begins[b + 1]
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
        if n == BUFFER:
            break
        j += 1
        k = begins[b]
    return j, k, n


@njit(cache=True, fastmath=FASTMATH)
def _third_side(table: Any, step: Any, n: Any, js: Any, ks: Any, near: Any, s: Any, value: Any) -> Any:
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
def _third_side_slope(table: Any, step: Any, n: Any, s: Any, value: Any, slope: Any) -> Any:
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
def _power(zeta: Any, weight: Any, n: Any, c: Any, base: Any, square: Any, low: Any) -> Any:
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
def sum_buffer(kind: Any, angular: Any, n: Any, triples: Any, near: Any, total: Any) -> Any:
    """Add the angular functions of the buffered triples to total."""
    scratch, value, js, ks = triples.scratch, triples.third, triples.j, triples.k
    places, powers = angular.places[kind], angular.powers
    if kind == 0:
        _third_side(angular.table, angular.step, n, js, ks, near, scratch[1], value)
    else:
        for e in range(value.shape[0]):
            own = near[FIRST + 2 * e]
            for m in range(n):
                value[e, m] = own[js[m]] * own[ks[m]]
    done = -1
    base, square, low, whole = scratch[2], scratch[3], scratch[4], scratch[5]
    f = 0
    while places[0, f] >= 0:
        q, w = places[0, f], value[places[1, f]]
        if q != done:
            _power(powers[0, q], powers[1, q], n, scratch[0], base, square, low)
            for m in range(n):
                whole[m] = 2.0 * low[m] * base[m]
            done = q
        added = 0.0
        for m in range(n):
            added += whole[m] * w[m]
        total[places[2, f]] += added
        f += 1


# A triple's function is F(c, r_j², r_k², s) with s = r_jk² = |r_k - r_j|², so ∂F/∂r_j = α r_j + γ r_k and
# ∂F/∂r_k = γ r_j + δ r_k: γ = F_c/(|r_j||r_k|) - 2F_s, α = -c F_c/r_j² + 2F_s + F_j/|r_j|, and δ as α with k for j.


@njit(cache=True, fastmath=FASTMATH)
def push_buffer(
    kind: Any, angular: Any, n: Any, triples: Any, near: Any, whole: Any, turn: Any, w: Any, pushed: Any
) -> Any:
    """Add dE/dr of the buffered triples to the neighbours' `pushed`, given dE/dG of every angular function in w."""
    js, ks, scratch, value, slope = triples.j, triples.k, triples.scratch, triples.third, triples.slope
    if kind == 0:
        _third_side_slope(angular.table, angular.step, n, scratch[1], value, slope)
    else:
        value[:, :n] = 1.0
        slope[:, :n] = 0.0
    places, powers = angular.places[kind], angular.powers
    c, base, square, low = scratch[0], scratch[2], scratch[3], scratch[4]
    whole[:, :n] = 0.0
    turn[:, :n] = 0.0
    done, f = -1, 0
    while places[0, f] >= 0:
        q, e = places[0, f], places[1, f]
        if q != done:
            _power(powers[0, q], powers[1, q], n, c, base, square, low)
            done = q
        up = 2.0 * w[places[2, f]]
        down = 0.5 * up * powers[0, q] * powers[1, q]
        to, by = whole[e], turn[e]
        for m in range(n):
            to[m] += up * low[m] * base[m]
            by[m] += down * low[m]
        f += 1
    fc, fs, fj, fk = scratch[2], scratch[3], scratch[4], scratch[5]
    scratch[2:6, :n] = 0.0
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


@njit(cache=True, fastmath=FASTMATH)
def turn_buffer(kind: Any, angular: Any, n: Any, triples: Any, near: Any, first: Any, moved: Any) -> Any:
    """Add ∂G/∂r_j of the buffered triples, in runs of one j each, to moved[j - first, x, function]."""
    js, ks, scratch, value, slope = triples.j, triples.k, triples.scratch, triples.third, triples.slope
    if kind == 0:
        _third_side_slope(angular.table, angular.step, n, scratch[1], value, slope)
    else:
        value[:, :n] = 1.0
        slope[:, :n] = 0.0
    places, powers = angular.places[kind], angular.powers
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
    while places[0, f] >= 0:
        q, e, place = places[0, f], places[1, f], places[2, f]
        if q != done:
            _power(powers[0, q], powers[1, q], n, c, base, square, low)
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
