"""The power spectrum of density coefficients, with its transpose and its Jacobian, in Numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from kernelpot.descriptors.harmonics import FASTMATH

# p[l, k ≤ k'] = f_l √(2 - δ_kk') Σ_m c[lm, k] c[lm, k']: only the symmetric part, weighted so that dot products of p equal
# those of the full square (De et al., Phys. Chem. Chem. Phys. 18, 13754 (2016), eq. 8, gives f_l = π √(8/(2l+1))).


@njit(cache=True)
def prefactor(l: Any) -> Any:
    """Return f_l."""
    return np.pi * np.sqrt(8.0 / (2 * l + 1))


@njit(cache=True, fastmath=FASTMATH, parallel=True)
def spectrum(l_max: Any, c: Any, p: Any) -> Any:
    """Fill p[i, f] from c[i, lm, k]."""
    n_atoms, _, size = c.shape
    for i in prange(n_atoms):
        square = np.empty((size, size))
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


@njit(cache=True, fastmath=FASTMATH, parallel=True)
def spectrum_vjp(l_max: Any, c: Any, gradient: Any, result: Any) -> Any:
    """Fill result[i, lm, k] = dE/dc from gradient[i, f] = dE/dp."""
    n_atoms, _, size = c.shape
    for i in prange(n_atoms):
        square = np.empty((size, size))
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


@njit(cache=True, fastmath=FASTMATH, parallel=True)
def displacement_rows(
    l_max: Any,
    n_tag: Any,
    start: Any,
    stop: Any,
    c: Any,
    dc: Any,
    vectors: Any,
    base: Any,
    offsets: Any,
    slot: Any,
    slot_offsets: Any,
    rows: Any,
    virial: Any,
) -> Any:
    """Fill d p_i / d r_j and d p_i / d strain for the centres ``start:stop``.

    rows[slot_offsets[i] - slot_offsets[start] + s] holds the derivative with respect to atom s of centre i's list (slot 0: the
    centre itself), shape (3, f); images of one atom add up. virial[i - start] holds Σ_pairs sym(r ⊗ dp/dr) in Voigt order.
    `dc` and `vectors` begin at the first pair of centre `start`; base[p] is the first column of the neighbour's channel.
    """
    n_max = len(n_tag)
    size = c.shape[2]
    n_features = rows.shape[2]
    first = offsets[start]
    for centre in prange(stop - start):
        i = start + centre
        change = np.empty((3, n_features))
        block = np.empty((n_max, size))
        own = slot_offsets[i] - slot_offsets[start]
        for p in range(offsets[i] - first, offsets[i + 1] - first):
            for x in range(3):
                _pair_row(l_max, n_max, size, c[i], dc[p, x], base[p + first], block, change[x])
            target = own + slot[p + first]
            for x in range(3):
                for f in range(n_features):
                    rows[target, x, f] += change[x, f]
                    rows[own, x, f] -= change[x, f]
            for v in range(6):
                a = v if v < 3 else (1 if v == 3 else 0)
                b = v if v < 3 else (1 if v == 5 else 2)
                ra, rb = 0.5 * vectors[p, a], 0.5 * vectors[p, b]
                for f in range(n_features):
                    virial[centre, v, f] += ra * change[b, f] + rb * change[a, f]


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _pair_row(l_max: Any, n_max: Any, size: Any, c: Any, dc: Any, base: Any, block: Any, row: Any) -> Any:
    """Fill row[f] = dp/dx given dc[lm, n] = d c[lm, base + n] / dx."""
    f = 0
    for l in range(l_max + 1):  # noqa: E741
        block[:] = 0.0
        for lm in range(l * l, (l + 1) * (l + 1)):
            for n in range(n_max):
                weight = dc[lm, n]
                for b in range(size):
                    block[n, b] += weight * c[lm, b]
        diagonal = prefactor(l)
        off = diagonal * np.sqrt(2.0)
        for a in range(size):
            inside = base <= a < base + n_max
            if inside:
                row[f] = 2.0 * diagonal * block[a - base, a]
                for b in range(a + 1, size):
                    row[f + b - a] = off * block[a - base, b]
            else:
                for b in range(a, size):
                    row[f + b - a] = 0.0
            for n in range(max(0, a + 1 - base), n_max):
                row[f + base + n - a] += off * block[n, a]
            f += size - a


@njit(cache=True)
def slots(offsets: Any, first_second: Any, n_atoms: Any) -> Any:
    """Number the distinct atoms in each centre's list: the centre is slot 0, images share a slot.

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
