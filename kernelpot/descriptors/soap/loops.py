"""Density coefficients and power spectra with their derivatives, as loops over neighbour pairs in Numba."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from kernelpot.descriptors.loops import (
    FASTMATH,
    fall_weights,
    harmonic_factors,
    harmonic_gradients,
    harmonics,
    hermite_slopes,
    hermite_weights,
)

BLOCK = 32
ATOMS_PER_TASK = 32
"""Fewest atoms worth a thread."""


class Tables(NamedTuple):
    """What the loops read of a SOAP: `nodes` are those of its radial table, `angular` the recurrences of harmonics.

    `n_max` is the number of radial functions, or a tuple of that length where loops shall be compiled for it: a tuple's
    length is part of its Numba type.
    """

    l_max: int
    n_max: int | tuple[int, ...]
    cutoff: float
    fade: float
    inverse_step: float
    nodes: Float[np.ndarray, "nodes 3 columns"]
    angular: Float[np.ndarray, "5 lm"]


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def mix(weights: Any, n_max: Any, source: Any, target: Any) -> Any:
    """Fill target[i, lm, k·n_max + n] = Σ_a weights[k, a] source[i, lm, a·n_max + n]."""
    for i in range(source.shape[0]):
        for lm in range(source.shape[1]):
            for k in range(weights.shape[0]):
                for n in range(n_max):
                    target[i, lm, k * n_max + n] = 0.0
                for a in range(weights.shape[1]):
                    weight = weights[k, a]
                    for n in range(n_max):
                        target[i, lm, k * n_max + n] += weight * source[i, lm, a * n_max + n]


class Near(NamedTuple):
    """Room for up to BLOCK pairs: directions, distances, weights with slopes, numbers, and factors of harmonics."""

    u: Float[np.ndarray, "3 block"]
    r: Float[np.ndarray, " block"]
    w: Float[np.ndarray, " block"]
    dw: Float[np.ndarray, " block"]
    where: Int[np.ndarray, " block"]
    q: Float[np.ndarray, "lm block"]
    re: Float[np.ndarray, "m block"]
    im: Float[np.ndarray, "m block"]


@njit(cache=True)
def _room(l_max: Any) -> Any:
    return Near(
        np.empty((3, BLOCK)), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK, np.int64),
        np.empty(((l_max + 1) * (l_max + 2) // 2, BLOCK)), np.empty((l_max + 1, BLOCK)), np.empty((l_max + 1, BLOCK)),
    )  # fmt: skip


@njit(cache=True, fastmath=FASTMATH)
def _gather(tables: Any, vectors: Any, start: Any, stop: Any, near: Any) -> Any:
    """Collect up to BLOCK pairs inside the cutoff from start on; return how many, and where to go on."""
    cutoff, fade = tables.cutoff, tables.fade
    u, r, w, dw, where = near.u, near.r, near.w, near.dw, near.where
    count = 0
    p = start
    while p < stop and count < BLOCK:
        x, y, z = vectors[p, 0], vectors[p, 1], vectors[p, 2]
        distance = np.sqrt(x * x + y * y + z * z)
        if distance < cutoff:
            u[0, count] = x / distance
            u[1, count] = y / distance
            u[2, count] = z / distance
            r[count] = distance
            w[count] = 1.0
            dw[count] = 0.0
            if distance > cutoff - fade:
                weight, change = fall_weights((distance - cutoff) / fade + 1.0)
                w[count] = weight
                dw[count] = change / fade
            where[count] = p
            count += 1
        p += 1
    return count, p


@njit(cache=True, fastmath=FASTMATH)
def _radial(inverse_step: Any, nodes: Any, r: Any, w: Any, value: Any) -> Any:
    """Fill value[column] = w R(r) by quintic Hermite interpolation."""
    x = r * inverse_step
    k = min(int(x), nodes.shape[0] - 2)
    h0, g0, f0, h1, g1, f1 = hermite_weights(x - k)
    h0, h1, g0, g1, f0, f1 = w * h0, w * h1, w * g0, w * g1, w * f0, w * f1
    a = nodes[k]
    b = nodes[k + 1]
    for q in range(nodes.shape[2]):
        value[q] = h0 * a[0, q] + g0 * a[1, q] + f0 * a[2, q] + h1 * b[0, q] + g1 * b[1, q] + f1 * b[2, q]


@njit(cache=True, fastmath=FASTMATH)
def _radial_slope(inverse_step: Any, nodes: Any, r: Any, w: Any, dw: Any, value: Any, slope: Any) -> Any:
    """Fill value[column] = w R(r) and slope[column] = d(w R)/dr."""
    _radial(inverse_step, nodes, r, 1.0, value)
    x = r * inverse_step
    k = min(int(x), nodes.shape[0] - 2)
    h0, g0, f0, h1, g1, f1 = hermite_slopes(x - k)
    scale = w * inverse_step
    a = nodes[k]
    b = nodes[k + 1]
    for q in range(nodes.shape[2]):
        raw = h0 * a[0, q] + g0 * a[1, q] + f0 * a[2, q] + h1 * b[0, q] + g1 * b[1, q] + f1 * b[2, q]
        slope[q] = scale * raw + dw * value[q]
        value[q] = w * value[q]


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def expand(begin: Any, end: Any, tables: Any, pairs: Any, first: Any, c: Any) -> Any:
    """Add w R_nl Y_lm of every pair of the atoms ``begin:end`` to c, after R_n0(0) Y_00 of the centres themselves.

    c[i - first, lm, a·n_max + n] is for atom i and species a.
    """
    l_max, n_max, nodes, inverse_step = tables.l_max, len(tables.n_max), tables.nodes, tables.inverse_step
    second, species, offsets = pairs.second, pairs.species, pairs.offsets
    near = _room(l_max)
    r, w, where = near.r, near.w, near.where
    y = np.empty(((l_max + 1) ** 2, BLOCK))
    radial = np.empty(nodes.shape[2])
    for i in range(begin, end):
        own = species[i] * n_max
        for n in range(n_max):
            c[i - first, 0, own + n] = nodes[0, 0, n] * tables.angular[0, 0]
        p, stop = offsets[i], offsets[i + 1]
        while p < stop:
            count, p = _gather(tables, pairs.vectors, p, stop, near)
            harmonic_factors(l_max, count, near.u, tables.angular, near.q, near.re, near.im)
            harmonics(l_max, count, near.q, near.re, near.im, y)
            for b in range(count):
                _radial(inverse_step, nodes, r[b], w[b], radial)
                base = species[second[where[b]]] * n_max
                for l in range(l_max + 1):  # noqa: E741
                    for lm in range(l * l, (l + 1) * (l + 1)):
                        weight = y[lm, b]
                        for n in range(n_max):
                            c[i - first, lm, base + n] += weight * radial[l * n_max + n]


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def expand_vjp(begin: Any, end: Any, tables: Any, pairs: Any, first: Any, gradient: Any, result: Any) -> Any:
    """Fill result[p] = Σ_nlm gradient[lm, n] ∂(w R_nl Y_lm)/∂r for every pair of the atoms ``begin:end``.

    gradient[i - first, lm, a·n_max + n] is for atom i and species a.
    """
    l_max, n_max, nodes, inverse_step = tables.l_max, len(tables.n_max), tables.nodes, tables.inverse_step
    second, species, offsets = pairs.second, pairs.species, pairs.offsets
    near = _room(l_max)
    u, r, w, dw, where = near.u, near.r, near.w, near.dw, near.where
    radial, slope = np.empty((BLOCK, nodes.shape[2])), np.empty((BLOCK, nodes.shape[2]))
    h, dh = np.empty(((l_max + 1) ** 2, BLOCK)), np.empty(((l_max + 1) ** 2, BLOCK))
    g, along = np.empty((3, BLOCK)), np.empty(BLOCK)
    for i in range(begin, end):
        p, stop = offsets[i], offsets[i + 1]
        while p < stop:
            count, p = _gather(tables, pairs.vectors, p, stop, near)
            harmonic_factors(l_max, count, u, tables.angular, near.q, near.re, near.im)
            for b in range(count):
                _radial_slope(inverse_step, nodes, r[b], w[b], dw[b], radial[b], slope[b])
                base = species[second[where[b]]] * n_max
                for l in range(l_max + 1):  # noqa: E741
                    for lm in range(l * l, (l + 1) * (l + 1)):
                        total, change = 0.0, 0.0
                        for n in range(n_max):
                            total += gradient[i - first, lm, base + n] * radial[b, l * n_max + n]
                            change += gradient[i - first, lm, base + n] * slope[b, l * n_max + n]
                        h[lm, b] = total
                        dh[lm, b] = change
            _contract(tables, near, count, h, dh, g, along)
            for b in range(count):
                for x in range(3):
                    result[where[b], x] = g[x, b] / r[b] + along[b] * u[x, b]


@njit(cache=True, fastmath=FASTMATH)
def _contract(tables: Any, near: Any, count: Any, h: Any, dh: Any, g: Any, along: Any) -> Any:
    """Contract h and dh with Y and its gradient; g is the solid-harmonic gradient, `along` what acts along the pair."""
    table, u, r, q, re, im = tables.angular, near.u, near.r, near.q, near.re, near.im
    for b in range(count):
        g[0, b], g[1, b], g[2, b] = 0.0, 0.0, 0.0
        along[b] = dh[0, b] * q[0, b]
    for l in range(1, tables.l_max + 1):  # noqa: E741
        row = l * (l + 1) // 2
        lower = row - l
        lm = l * l + l
        for m in range(l + 1):
            k = row + m
            d = table[3, k] if m < l else 0.0
            e = table[4, k] if m < l - 1 else 0.0
            below = lower + m if m < l else lower
            beside = lower + m + 1 if m < l - 1 else lower
            if m == 0:
                for b in range(count):
                    t = h[lm, b]
                    g[0, b] -= e * u[0, b] * q[beside, b] * t
                    g[1, b] -= e * u[1, b] * q[beside, b] * t
                    g[2, b] += d * q[below, b] * t
                    along[b] += q[k, b] * (dh[lm, b] - l * t / r[b])
            else:
                for b in range(count):
                    plus, minus = h[lm + m, b], h[lm - m, b]
                    t = plus * re[m, b] + minus * im[m, b]
                    side = e * q[beside, b] * t
                    g[0, b] += m * q[k, b] * (plus * re[m - 1, b] + minus * im[m - 1, b]) - side * u[0, b]
                    g[1, b] += m * q[k, b] * (minus * re[m - 1, b] - plus * im[m - 1, b]) - side * u[1, b]
                    g[2, b] += d * q[below, b] * t
                    radial = dh[lm + m, b] * re[m, b] + dh[lm - m, b] * im[m, b]
                    along[b] += q[k, b] * (radial - l * t / r[b])


# p[l, k ≤ k'] = f_l √(2 - δ_kk') Σ_m c[lm, k] c[lm, k']: only the symmetric part, weighted so that dot products of p
# equal those of the full square (De et al., Phys. Chem. Chem. Phys. 18, 13754 (2016), eq. 8: f_l = π √(8/(2l+1))).


@njit(cache=True)
def _prefactor(l: Any) -> Any:  # noqa: E741
    """Return f_l."""
    return np.pi * np.sqrt(8.0 / (2 * l + 1))


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def spectrum(begin: Any, end: Any, l_max: Any, c: Any, p: Any) -> Any:
    """Fill p[i, f] from c[i, lm, k] for the atoms ``begin:end``."""
    size = c.shape[2]
    square = np.empty((size, size))
    for i in range(begin, end):
        f = 0
        for l in range(l_max + 1):  # noqa: E741
            square[:] = 0.0
            for lm in range(l * l, (l + 1) * (l + 1)):
                for a in range(size):
                    weight = c[i, lm, a]
                    for b in range(size):
                        square[a, b] += weight * c[i, lm, b]
            diagonal = _prefactor(l)
            off = diagonal * np.sqrt(2.0)
            for a in range(size):
                p[i, f] = diagonal * square[a, a]
                for b in range(a + 1, size):
                    p[i, f + b - a] = off * square[a, b]
                f += size - a


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def normalise(p: Any, norm: Any) -> Any:
    """Divide every row of p by its length, which goes into norm."""
    for i in range(len(p)):
        square = 0.0
        for f in range(p.shape[1]):
            square += p[i, f] * p[i, f]
        norm[i] = np.sqrt(square)
        inverse = 1.0 / norm[i]
        for f in range(p.shape[1]):
            p[i, f] *= inverse


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def normalise_vjp(gradient: Any, x: Any, norm: Any) -> Any:
    """Turn dE/dx of unit vectors into dE/dp = (I - x xᵀ) dE/dx / |p|, in place."""
    for i in range(len(x)):
        along = 0.0
        for f in range(x.shape[1]):
            along += gradient[i, f] * x[i, f]
        inverse = 1.0 / norm[i]
        for f in range(x.shape[1]):
            gradient[i, f] = inverse * (gradient[i, f] - along * x[i, f])


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def spectrum_vjp(begin: Any, end: Any, l_max: Any, c: Any, gradient: Any, result: Any) -> Any:
    """Fill result[i, lm, k] = dE/dc from gradient[i, f] = dE/dp for the atoms ``begin:end``."""
    size = c.shape[2]
    square = np.empty((size, size))
    for i in range(begin, end):
        f = 0
        for l in range(l_max + 1):  # noqa: E741
            diagonal = _prefactor(l)
            off = diagonal * np.sqrt(2.0)
            for a in range(size):
                square[a, a] = 2.0 * diagonal * gradient[i, f]
                for b in range(a + 1, size):
                    square[a, b] = off * gradient[i, f + b - a]
                    square[b, a] = square[a, b]
                f += size - a
            for lm in range(l * l, (l + 1) * (l + 1)):
                for b in range(size):
                    result[i, lm, b] = 0.0
                for a in range(size):
                    weight = c[i, lm, a]
                    for b in range(size):
                        result[i, lm, b] += weight * square[a, b]


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def displacement_rows(
    begin: Any, end: Any, tables: Any, weights: Any, pairs: Any, slots: Any, start: Any, coefficients: Any, rows: Any,
    virial: Any,
) -> Any:  # fmt: skip
    """Fill rows[s] = ∂p_i/∂r_j for every atom j that moves centre i, and virial[i] = Σ_pairs sym(r ⊗ ∂p_i/∂r).

    The centres are ``start + begin:start + end``, counted from `start` in virial. The row of slot s of centre i is
    slots.offsets[i] - slots.offsets[start] + s; that of the centre itself is minus the sum over its pairs, images of
    one atom add up. A neighbour of species a counts weights[k, a] in channel k.
    """
    l_max, nodes, inverse_step, vectors = tables.l_max, tables.nodes, tables.inverse_step, pairs.vectors
    near, table = _room(l_max), tables.angular
    u, r, w, dw, where, q, re, im = near
    angular = np.empty((4, (l_max + 1) ** 2, BLOCK))
    radial, scratch = np.empty((2, nodes.shape[2])), np.empty((6, coefficients.shape[2]))
    change = np.empty((3, rows.shape[2]))
    for centre in range(begin, end):
        i = start + centre
        own = slots.offsets[i] - slots.offsets[start]
        untouched = np.ones(slots.offsets[i + 1] - slots.offsets[i], np.bool_)
        untouched[0] = False
        rows[own] = 0.0
        virial[centre] = 0.0
        p, stop = pairs.offsets[i], pairs.offsets[i + 1]
        while p < stop:
            count, p = _gather(tables, vectors, p, stop, near)
            harmonic_factors(l_max, count, u, table, q, re, im)
            harmonic_gradients(l_max, count, table, u, r, q, re, im, angular[0], angular[1:])
            for b in range(count):
                _radial_slope(inverse_step, nodes, r[b], w[b], dw[b], radial[0], radial[1])
                weight = weights[:, pairs.species[pairs.second[where[b]]]]
                _pair_rows(tables, coefficients[i], weight, b, u, angular, radial, scratch, change)
                s = slots.pair[where[b]]
                if untouched[s]:
                    rows[own + s] = change
                    untouched[s] = False
                else:
                    rows[own + s] += change
                _accumulate(vectors[where[b]], change, rows[own], virial[centre])
        for s in range(len(untouched)):
            if untouched[s]:
                rows[own + s] = 0.0


@njit(cache=True, fastmath=FASTMATH)
def _pair_rows(
    tables: Any, c: Any, weights: Any, pair: Any, u: Any, angular: Any, radial: Any, scratch: Any, row: Any
) -> Any:
    """Fill row[x, f] = ∂p/∂x of one pair vector, whose species counts `weights` in the channels.

    ∂c[lm, n]/∂x = R_nl ∂_x Y_lm + u_x R'_nl Y_lm has rank two in (m, n), so with T_k = Σ_m ∂_x Y_lm c[lm, k] and
    V_k = u_x Σ_m Y_lm c[lm, k]: ∂p[l, k, k']/∂x ∝ R_k T_k' + R_k' T_k + R'_k V_k' + R'_k' V_k, where R_k is the radial
    function times the weight of the neighbour's species in the channel of k.
    """
    n_max, size = tables.n_max, c.shape[1]
    value, change, stretch, turn = scratch[0], scratch[1], scratch[2], scratch[3:]
    triangle = size * (size + 1) // 2
    for l in range(tables.l_max + 1):  # noqa: E741
        off = _prefactor(l) * np.sqrt(2.0)
        for k in range(size):
            value[k], change[k], stretch[k] = 0.0, 0.0, 0.0
            turn[0, k], turn[1, k], turn[2, k] = 0.0, 0.0, 0.0
        for channel in range(len(weights)):
            weight = off * weights[channel]
            base = channel * n_max
            if weight != 0.0:
                for n in range(n_max):
                    value[base + n] = weight * radial[0, l * n_max + n]
                    change[base + n] = weight * radial[1, l * n_max + n]
        for lm in range(l * l, (l + 1) * (l + 1)):
            s, tx, ty, tz = angular[0, lm, pair], angular[1, lm, pair], angular[2, lm, pair], angular[3, lm, pair]
            for k in range(size):
                stretch[k] += s * c[lm, k]
                turn[0, k] += tx * c[lm, k]
                turn[1, k] += ty * c[lm, k]
                turn[2, k] += tz * c[lm, k]
        for x in range(3):
            f = l * triangle + triangle
            for back in range(size):
                a = size - 1 - back
                f -= size - a
                ra, ta = value[a], turn[x, a]
                sa, va = u[x, pair] * change[a], u[x, pair] * stretch[a]
                # Whole lengths vectorise better than shrinking ones; what spills below f is overwritten by the next a.
                for b in range(size):
                    row[x, f - a + b] = ra * turn[x, b] + ta * value[b] + sa * stretch[b] + va * change[b]
                row[x, f] *= np.sqrt(0.5)


@njit(cache=True, fastmath=FASTMATH)
def _accumulate(r: Any, change: Any, own: Any, virial: Any) -> Any:
    """Subtract a pair's rows from its centre's and add sym(r ⊗ change) to the virial."""
    x, y, z = r[0], r[1], r[2]
    for f in range(change.shape[1]):
        cx, cy, cz = change[0, f], change[1, f], change[2, f]
        own[0, f] -= cx
        own[1, f] -= cy
        own[2, f] -= cz
        virial[0, f] += x * cx
        virial[1, f] += y * cy
        virial[2, f] += z * cz
        virial[3, f] += 0.5 * (y * cz + z * cy)
        virial[4, f] += 0.5 * (x * cz + z * cx)
        virial[5, f] += 0.5 * (x * cy + y * cx)
