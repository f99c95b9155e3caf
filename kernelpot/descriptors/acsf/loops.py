"""Symmetry functions of many atoms with their derivatives, as loops over pairs and triples in Numba."""

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
POLYNOMIAL, COSINE = 0, 1


class Angular(NamedTuple):
    """What loops over triples read of an ACSF; see `SymmetryFunctions`."""

    places: Int[np.ndarray, "2 3 functions"]
    powers: Float[np.ndarray, "2 powers"]
    table: Float[np.ndarray, "intervals etas 6"]
    step: float


class Functions(NamedTuple):
    """What the loops read of an ACSF: `SymmetryFunctions` as arrays, and how a neighbour of element a counts.

    `identity`: functions of each element and of each pair of elements apart; else weights[:, a] in each channel.
    """

    fade: int
    cutoff: float
    etas: Float[np.ndarray, " etas"]
    radial: Float[np.ndarray, "3 radial"]
    angular: Angular
    n_angular: int
    weights: Float[np.ndarray, "channels elements"]
    identity: bool


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
def _room(functions: Any, pairs: Any) -> Any:
    """Make room for the longest list of neighbours and for a buffer of triples."""
    most, count = 0, len(functions.etas)
    for i in range(len(pairs.offsets) - 1):
        most = max(most, pairs.offsets[i + 1] - pairs.offsets[i])
    near, pair = np.empty((FIRST + 2 * count, most)), np.empty(most, np.int64)
    js, ks, scratch = np.empty(BUFFER, np.int64), np.empty(BUFFER, np.int64), np.empty((11, BUFFER))
    third, slope = np.empty((count, BUFFER)), np.empty((count, BUFFER))
    around = Neighbours(near, pair, np.empty(functions.weights.shape[1] + 1, np.int64))
    return around, Triples(js, ks, scratch, third, slope)


@njit(cache=True)
def _cutoff_value(name: Any, cutoff: Any, r: Any) -> Any:
    """Return f(r) and f'(r)."""
    x = r / cutoff
    if name == POLYNOMIAL:
        u = 1.0 - x * x
        return u * u * u, -6.0 * x * u * u / cutoff
    return 0.5 * (1.0 + np.cos(np.pi * x)), -0.5 * np.pi / cutoff * np.sin(np.pi * x)


@njit(cache=True, fastmath=FASTMATH)
def _neighbours(i: Any, functions: Any, pairs: Any, around: Any) -> Any:
    """Sort the neighbours of atom i by element."""
    near, which, begins, etas = around.near, around.pair, around.begins, functions.etas
    vectors, offsets, second, species = pairs.vectors, pairs.offsets, pairs.second, pairs.species
    begins[:] = 0
    c2 = functions.cutoff * functions.cutoff
    for p in range(offsets[i], offsets[i + 1]):
        v = vectors[p]
        if v[0] * v[0] + v[1] * v[1] + v[2] * v[2] < c2:
            begins[species[second[p]] + 1] += 1
    for a in range(1, len(begins)):
        begins[a] += begins[a - 1]
    for p in range(offsets[i], offsets[i + 1]):
        v = vectors[p]
        square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2]
        if square < c2:
            # Places fill from the front; the bounds are set right below.
            element = species[second[p]]
            n = begins[element]
            begins[element] += 1
            which[n] = p
            r = np.sqrt(square)
            near[X, n], near[Y, n], near[Z, n], near[SQUARE, n], near[INVERSE, n] = v[0], v[1], v[2], square, 1.0 / r
            f, slope = _cutoff_value(functions.fade, functions.cutoff, r)
            for e in range(len(etas)):
                gauss = np.exp(-etas[e] * square)
                near[FIRST + 2 * e, n] = gauss * f
                near[FIRST + 2 * e + 1, n] = gauss * (slope / r - 2.0 * etas[e] * f)
    for a in range(len(begins) - 1, 0, -1):
        begins[a] = begins[a - 1]
    begins[0] = 0


@njit(cache=True, fastmath=FASTMATH)
def _radial_functions(fade: Any, cutoff: Any, radial: Any, r: Any, value: Any, slope: Any) -> Any:
    """Fill the radial functions at one distance with their slopes."""
    # Called for every pair, so that it takes bare arrays: a tuple's dozens of words go over the stack.
    f, df = _cutoff_value(fade, cutoff, r)
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
def _buffer(a: Any, b: Any, j: Any, k: Any, reach: Any, once: Any, around: Any, triples: Any) -> Any:
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
def _sum_buffer(kind: Any, angular: Any, n: Any, triples: Any, near: Any, total: Any) -> Any:
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


@njit(cache=True)
def _angular_start(functions: Any, a: Any, b: Any) -> Any:
    """Return the first place of the angular functions of two elements, or of the first channel."""
    n_channels, n_radial = len(functions.weights), functions.radial.shape[1]
    block = 0
    if functions.identity:
        high, low = max(a, b), min(a, b)
        block = high * (high + 1) // 2 + low
    return 1 + n_channels * n_radial + block * functions.n_angular


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def symmetry_functions(begin: Any, end: Any, functions: Any, pairs: Any, result: Any) -> Any:
    """Add the functions of atoms ``begin:end`` to result[i, 1:]."""
    weights, identity, n_angular = functions.weights, functions.identity, functions.n_angular
    n_channels, n_elements = weights.shape
    fade, cutoff, radial, angular = functions.fade, functions.cutoff, functions.radial, functions.angular
    n_radial = radial.shape[1]
    around, triples = _room(functions, pairs)
    near, begins = around.near, around.begins
    g, dg, sums, total = np.empty(n_radial), np.empty(n_radial), np.empty(n_radial), np.empty(n_angular)
    for i in range(begin, end):
        _neighbours(i, functions, pairs, around)
        for a in range(n_elements):
            if begins[a] == begins[a + 1]:
                continue
            sums[:] = 0.0
            for j in range(begins[a], begins[a + 1]):
                _radial_functions(fade, cutoff, radial, np.sqrt(near[SQUARE, j]), g, dg)
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
                    if angular.places[kind, 0, 0] < 0:
                        continue
                    j, k, n = begins[a], begins[b], BUFFER
                    while n == BUFFER:
                        reach = cutoff if kind == 0 else np.inf
                        j, k, n = _buffer(a, b, j, k, reach, True, around, triples)
                        if n > 0:
                            _sum_buffer(kind, angular, n, triples, near, total)
                start = _angular_start(functions, a, b)
                if identity:
                    result[i, start : start + n_angular] += total
                else:
                    for ch in range(n_channels):
                        first = start + ch * n_angular
                        result[i, first : first + n_angular] += weights[ch, a] * weights[ch, b] * total


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


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def symmetry_vjp(begin: Any, end: Any, functions: Any, pairs: Any, gradient: Any, result: Any) -> Any:
    """Fill result[p] = dE/dr of every pair of atoms ``begin:end``, given dE/dG in gradient[i, 1:]."""
    fade, cutoff, radial, angular = functions.fade, functions.cutoff, functions.radial, functions.angular
    weights, identity, n_angular = functions.weights, functions.identity, functions.n_angular
    n_elements, n_radial = weights.shape[1], radial.shape[1]
    around, triples = _room(functions, pairs)
    near, begins, which = around.near, around.begins, around.pair
    whole, turn = np.empty_like(triples.third), np.empty_like(triples.third)
    g, dg, up, w = np.empty(n_radial), np.empty(n_radial), np.empty(n_radial), np.empty(n_angular)
    pushed = np.empty((len(which), 3))
    for i in range(begin, end):
        _neighbours(i, functions, pairs, around)
        total = begins[n_elements]
        pushed[:total] = 0.0
        for a in range(n_elements):
            if begins[a] == begins[a + 1]:
                continue
            _gather_weights(gradient[i], 1 + a * n_radial if identity else 1, identity, weights, a, -1, up)
            for j in range(begins[a], begins[a + 1]):
                _radial_functions(fade, cutoff, radial, np.sqrt(near[SQUARE, j]), g, dg)
                along = 0.0
                for m in range(n_radial):
                    along += up[m] * dg[m]
                along *= near[INVERSE, j]
                for x in range(3):
                    pushed[j, x] += along * near[x, j]
            for b in range(a + 1 if n_angular > 0 else 0):
                if begins[b] == begins[b + 1]:
                    continue
                _gather_weights(gradient[i], _angular_start(functions, a, b), identity, weights, a, b, w)
                for kind in range(2):
                    if angular.places[kind, 0, 0] < 0:
                        continue
                    j, k, n = begins[a], begins[b], BUFFER
                    while n == BUFFER:
                        reach = cutoff if kind == 0 else np.inf
                        j, k, n = _buffer(a, b, j, k, reach, True, around, triples)
                        if n > 0:
                            _push_buffer(kind, angular, n, triples, near, whole, turn, w, pushed)
        for j in range(total):
            for x in range(3):
                result[which[j], x] = pushed[j, x]


@njit(cache=True, fastmath=FASTMATH)
def _turn_buffer(kind: Any, angular: Any, n: Any, triples: Any, near: Any, first: Any, moved: Any) -> Any:
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
    begin: Any, end: Any, functions: Any, pairs: Any, slots: Any, start: Any, rows: Any, virial: Any
) -> Any:
    """Fill rows[s, x, 1:] = ∂G_i/∂r_j for every atom j that moves centre i, and virial[i] = Σ_pairs sym(r ⊗ ∂G_i/∂r).

    The centres are ``start + begin:start + end``, slots as in `soap.loops.displacement_rows`.
    """
    weights, identity, n_angular = functions.weights, functions.identity, functions.n_angular
    n_channels, n_elements = weights.shape
    fade, cutoff, radial, angular = functions.fade, functions.cutoff, functions.radial, functions.angular
    n_radial = radial.shape[1]
    around, triples = _room(functions, pairs)
    near, begins, which = around.near, around.begins, around.pair
    g, dg = np.empty(n_radial), np.empty(n_radial)
    pair, moved = np.empty((3, n_radial)), np.empty((len(which), 3, n_angular))
    for centre in range(begin, end):
        i = start + centre
        own = slots.offsets[i] - slots.offsets[start]
        rows[own : slots.offsets[i + 1] - slots.offsets[start]] = 0.0
        virial[centre] = 0.0
        _neighbours(i, functions, pairs, around)
        for a in range(n_elements):
            size = begins[a + 1] - begins[a]
            for j in range(begins[a], begins[a + 1]):
                _radial_functions(fade, cutoff, radial, np.sqrt(near[SQUARE, j]), g, dg)
                for x in range(3):
                    along = near[x, j] * near[INVERSE, j]
                    for m in range(n_radial):
                        pair[x, m] = along * dg[m]
                r, row = pairs.vectors[which[j]], rows[own + slots.pair[which[j]]]
                for ch in range(1 if identity else n_channels):
                    first = 1 + (a if identity else ch) * n_radial
                    weight = 1.0 if identity else weights[ch, a]
                    _add_pair(r, pair, first, weight, row, rows[own], virial[centre])
            for b in range(n_elements if n_angular > 0 and size > 0 else 0):
                if begins[b] == begins[b + 1]:
                    continue
                moved[:size] = 0.0
                for kind in range(2):
                    if angular.places[kind, 0, 0] < 0:
                        continue
                    j, k, n = begins[a], begins[b], BUFFER
                    while n == BUFFER:
                        reach = cutoff if kind == 0 else np.inf
                        j, k, n = _buffer(a, b, j, k, reach, False, around, triples)
                        if n > 0:
                            _turn_buffer(kind, angular, n, triples, near, begins[a], moved)
                for j in range(begins[a], begins[a + 1]):
                    r, row, part = pairs.vectors[which[j]], rows[own + slots.pair[which[j]]], moved[j - begins[a]]
                    for ch in range(1 if identity else n_channels):
                        first = _angular_start(functions, a, b) + ch * n_angular
                        weight = 1.0 if identity else weights[ch, a] * weights[ch, b]
                        _add_pair(r, part, first, weight, row, rows[own], virial[centre])
