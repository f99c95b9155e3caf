"""The power spectrum of density coefficients, with its transpose and its Jacobian, in Numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernelpot.descriptors.harmonics import FASTMATH, fill, gradients
from kernelpot.descriptors.soap.loops import BLOCK, gather, radial_slope

# p[l, k ≤ k'] = f_l √(2 - δ_kk') Σ_m c[lm, k] c[lm, k']: only the symmetric part, weighted so that dot products of p
# equal those of the full square (De et al., Phys. Chem. Chem. Phys. 18, 13754 (2016), eq. 8: f_l = π √(8/(2l+1))).


@njit(cache=True)
def prefactor(l: Any) -> Any:  # noqa: E741
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
            diagonal = prefactor(l)
            off = diagonal * np.sqrt(2.0)
            for a in range(size):
                p[i, f] = diagonal * square[a, a]
                for b in range(a + 1, size):
                    p[i, f + b - a] = off * square[a, b]
                f += size - a


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def spectrum_vjp(begin: Any, end: Any, l_max: Any, c: Any, gradient: Any, result: Any) -> Any:
    """Fill result[i, lm, k] = dE/dc from gradient[i, f] = dE/dp for the atoms ``begin:end``."""
    size = c.shape[2]
    square = np.empty((size, size))
    for i in range(begin, end):
        f = 0
        for l in range(l_max + 1):  # noqa: E741
            diagonal = prefactor(l)
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
    begin: Any,
    end: Any,
    l_max: Any,
    n_max: Any,
    cutoff: Any,
    fade: Any,
    inverse_step: Any,
    nodes: Any,
    table: Any,
    weights: Any,
    vectors: Any,
    species_of_pair: Any,
    offsets: Any,
    slot: Any,
    slot_offsets: Any,
    start: Any,
    coefficients: Any,
    rows: Any,
    virial: Any,
) -> Any:
    """Fill rows[s] = ∂p_i/∂r_j for every atom j that moves centre i, and virial[i] = Σ_pairs sym(r ⊗ ∂p_i/∂r).

    The centres are ``start + begin:start + end``, counted from `start` in virial. Slot s of centre i is row
    slot_offsets[i] - slot_offsets[start] + s; slot 0 is the centre itself, whose row is minus the sum over its pairs;
    images of one atom share a slot and add up. A neighbour of species a counts weights[k, a] in channel k.
    """
    size, n_features = coefficients.shape[2], rows.shape[2]
    u, r, w, dw = np.empty((3, BLOCK)), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    where = np.empty(BLOCK, np.int64)
    q = np.empty(((l_max + 1) * (l_max + 2) // 2, BLOCK))
    re, im = np.empty((l_max + 1, BLOCK)), np.empty((l_max + 1, BLOCK))
    y, dy = np.empty(((l_max + 1) ** 2, BLOCK)), np.empty((3, (l_max + 1) ** 2, BLOCK))
    radial, slope = np.empty(nodes.shape[2]), np.empty(nodes.shape[2])
    scratch, change = np.empty((6, size)), np.empty((3, n_features))
    for centre in range(begin, end):
        i = start + centre
        c = coefficients[i]
        own = slot_offsets[i] - slot_offsets[start]
        untouched = np.ones(slot_offsets[i + 1] - slot_offsets[i], np.bool_)
        untouched[0] = False
        rows[own] = 0.0
        virial[centre] = 0.0
        p, stop = offsets[i], offsets[i + 1]
        while p < stop:
            count, p = gather(cutoff, fade, vectors, p, stop, u, r, w, dw, where)
            fill(l_max, count, u, table, q, re, im)
            gradients(l_max, count, table, u, r, q, re, im, y, dy)
            for b in range(count):
                radial_slope(inverse_step, nodes, r[b], w[b], dw[b], radial, slope)
                a = species_of_pair[where[b]]
                _pair_rows(l_max, n_max, size, c, weights, a, b, u, y, dy, radial, slope, scratch, change)
                s = slot[where[b]]
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
    l_max: Any, n_max: Any, size: Any, c: Any, weights: Any, species: Any, pair: Any, u: Any, y: Any, dy: Any,
    radial: Any, slope: Any, scratch: Any, row: Any,
) -> Any:  # fmt: skip
    """Fill row[x, f] = ∂p/∂x of one pair vector.

    ∂c[lm, n]/∂x = R_nl ∂_x Y_lm + u_x R'_nl Y_lm has rank two in (m, n), so with T_k = Σ_m ∂_x Y_lm c[lm, k] and
    V_k = u_x Σ_m Y_lm c[lm, k]: ∂p[l, k, k']/∂x ∝ R_k T_k' + R_k' T_k + R'_k V_k' + R'_k' V_k, where R_k is the radial
    function times the weight of the neighbour's species in the channel of k.
    """
    value, change, stretch = scratch[0], scratch[1], scratch[2]
    turn = scratch[3:]
    triangle = size * (size + 1) // 2
    for l in range(l_max + 1):  # noqa: E741
        off = prefactor(l) * np.sqrt(2.0)
        for k in range(size):
            value[k], change[k], stretch[k] = 0.0, 0.0, 0.0
            turn[0, k], turn[1, k], turn[2, k] = 0.0, 0.0, 0.0
        for channel in range(weights.shape[0]):
            weight = off * weights[channel, species]
            base = channel * n_max
            if weight != 0.0:
                for n in range(n_max):
                    value[base + n] = weight * radial[l * n_max + n]
                    change[base + n] = weight * slope[l * n_max + n]
        for lm in range(l * l, (l + 1) * (l + 1)):
            s, tx, ty, tz = y[lm, pair], dy[0, lm, pair], dy[1, lm, pair], dy[2, lm, pair]
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


@njit(cache=True)
def slots(offsets: Any, first_second: Any, n_atoms: Any) -> Any:
    """Give each distinct atom of a centre's list a slot: the centre has slot 0, images share one.

    Returns the slot of each pair, the slots' offsets (n_atoms + 1) and the atom behind each slot.
    """
    slot = np.empty(len(first_second), np.int64)
    slot_offsets = np.zeros(n_atoms + 1, np.int64)
    atoms = np.empty(len(first_second) + n_atoms, np.int64)
    seen = np.full(n_atoms, -1, np.int64)
    number = np.zeros(n_atoms, np.int64)
    for i in range(n_atoms):
        begin = slot_offsets[i]
        atoms[begin] = i
        seen[i] = i
        number[i] = 0
        count = 1
        for p in range(offsets[i], offsets[i + 1]):
            j = first_second[p]
            if seen[j] != i:
                seen[j] = i
                number[j] = count
                atoms[begin + count] = j
                count += 1
            slot[p] = number[j]
        slot_offsets[i + 1] = begin + count
    return slot, slot_offsets, atoms[: slot_offsets[n_atoms]]
