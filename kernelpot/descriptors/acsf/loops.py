"""Symmetry functions of many atoms with their derivatives, as loops over pairs and triples in Numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernelpot.descriptors.acsf.triples import (
    BUFFER,
    FIRST,
    INVERSE,
    SQUARE,
    X,
    Y,
    Z,
    fill_buffer,
    push_buffer,
    room,
    sum_buffer,
    turn_buffer,
)
from kernelpot.descriptors.loops import FASTMATH


@njit(cache=True)
def _cutoff_value(name: Any, cutoff: Any, r: Any) -> Any:
    """Return f(r) and f'(r); `name` is 0 for the polynomial, 1 for the cosine."""
    x = r / cutoff
    if name == 0:
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
    around, triples = room(functions, pairs)
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
                        j, k, n = fill_buffer(a, b, j, k, reach, True, around, triples)
                        if n > 0:
                            sum_buffer(kind, angular, n, triples, near, total)
                start = _angular_start(functions, a, b)
                if identity:
                    result[i, start : start + n_angular] += total
                else:
                    for ch in range(n_channels):
                        first = start + ch * n_angular
                        result[i, first : first + n_angular] += weights[ch, a] * weights[ch, b] * total


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


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def symmetry_vjp(begin: Any, end: Any, functions: Any, pairs: Any, gradient: Any, result: Any) -> Any:
    """Fill result[p] = dE/dr of every pair of atoms ``begin:end``, given dE/dG in gradient[i, 1:]."""
    fade, cutoff, radial, angular = functions.fade, functions.cutoff, functions.radial, functions.angular
    weights, identity, n_angular = functions.weights, functions.identity, functions.n_angular
    n_elements, n_radial = weights.shape[1], radial.shape[1]
    around, triples = room(functions, pairs)
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
                        j, k, n = fill_buffer(a, b, j, k, reach, True, around, triples)
                        if n > 0:
                            push_buffer(kind, angular, n, triples, near, whole, turn, w, pushed)
        for j in range(total):
            for x in range(3):
                result[which[j], x] = pushed[j, x]


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
    around, triples = room(functions, pairs)
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
                        j, k, n = fill_buffer(a, b, j, k, reach, False, around, triples)
                        if n > 0:
                            turn_buffer(kind, angular, n, triples, near, begins[a], moved)
                for j in range(begins[a], begins[a + 1]):
                    r, row, part = pairs.vectors[which[j]], rows[own + slots.pair[which[j]]], moved[j - begins[a]]
                    for ch in range(1 if identity else n_channels):
                        first = _angular_start(functions, a, b) + ch * n_angular
                        weight = 1.0 if identity else weights[ch, a] * weights[ch, b]
                        _add_pair(r, part, first, weight, row, rows[own], virial[centre])
