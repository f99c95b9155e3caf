"""Derivatives of dot products with given vectors, contracted with the density before neighbours are told apart.

A dot product p_i·z of two power spectra has the gradient G[lm, k] = ∂(p_i·z)/∂c_i[lm, k] = Σ_k' z̃[l, k, k'] c_i[lm, k']
with z̃ the symmetric square of z. A neighbour moves Q = (l_max + 1)² n_max numbers of c_i, those of its own species, and
z̃ is mixed to the S species beforehand. For M vectors, N atoms that move the centre, and K channels that is
2 M Q (n_max K S + 3 N) operations a centre; where few channels hold many species, z̃ stays in the channels, and what
neighbours move is mixed into them instead: 2 M Q K (n_max K + 3 N). The derivatives of the power spectrum itself take
2 M F · 3 N, with F = (l_max + 1) K n_max (K n_max + 1)/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from kernelpot.descriptors.loops import FASTMATH, harmonic_factors, harmonic_gradients
from kernelpot.descriptors.soap.loops import BLOCK, _gather, _prefactor, _radial_slope, _room, spectrum_vjp

COLUMNS = 104
"""Most given spectra at a time, so that their squares for one species and l stay in the cache."""

CENTRES = 32
"""Most centres that share a pass over the squares."""

CHUNK_BYTES = 4_000_000
"""Rough size of the derivatives of the densities of the centres that share a pass over the squares."""

TYPICAL = 20.0
"""Atoms that move a centre, for the choice between species apart and together."""


class Wanted(NamedTuple):
    """Which centres are differentiated, and what their derivatives are multiplied with."""

    centres: Int[np.ndarray, " a"]
    dots: Float[np.ndarray, "a m"]  # Of unit vectors with those that `squares_of` took
    slopes: Float[np.ndarray, "a m"]  # Derivative of a raw column by its dot product
    norm: Float[np.ndarray, " atoms"]  # Lengths that were taken out of the vectors
    vectors: Float[np.ndarray, "atoms f"]  # Unit vectors


def costs(soap: Any, neighbours: float) -> tuple[float, float]:
    """Return what one vector takes a centre with the species of neighbours apart and together, in multiply-adds.

    Together, neighbours count in all channels, and one product serves all.
    """
    n_lm, size, n_species = (soap.l_max + 1) ** 2, soap.n_channels * soap.n_max, soap.weights.shape[1]
    return n_lm * soap.n_max * (size * n_species + 3.0 * neighbours), n_lm * size * (size + 3.0 * neighbours)


def add_products(
    environments: Any,
    squares: Sequence[Float[np.ndarray, "kinds l k n_times_m"]],
    wanted: Wanted,
    forces: Float[np.ndarray, "atoms_times_3 columns"] | None,
    virial: Float[np.ndarray, "structures_times_6 columns"] | None,
    first: int,
) -> None:
    """Subtract slope ∂(x·z)/∂r from forces, and add slope ∂(x·z)/∂ε to virials, from column `first` on.

    `environments` are those of a SOAP.
    """
    soap, c, slots = environments.soap, environments.coefficients, environments.slots
    # A plain n_max: this loop is compiled once for all sizes.
    tables, owner = soap.tables._replace(n_max=soap.n_max), environments.batch.structure
    kinds, weights = len(squares[0]), soap.weights
    shares = weights if kinds == 1 else np.ones((1, weights.shape[1]))
    kind = np.minimum(np.arange(weights.shape[1]), kinds - 1)
    most = 3 * int(np.diff(slots.offsets)[wanted.centres].max()) + 6 * kinds
    step = min(CENTRES, max(1, int(CHUNK_BYTES / (8 * most * c.shape[1] * soap.n_max * len(shares)))))
    moved = np.empty((min(step, len(wanted.centres)) * most, c.shape[1] * soap.n_max * len(shares)))
    nothing = np.empty((0, 0))
    for start in range(0, len(wanted.centres), step):
        here = slice(start, start + step)
        atoms = wanted.centres[here]
        own = np.empty((len(atoms), *c.shape[1:]))
        spectrum_vjp(0, len(atoms), soap.l_max, c[atoms], wanted.vectors[atoms], own)
        rows = _move_all(
            tables, (weights, shares, kind, environments.pairs, slots), atoms, own,
            (forces is not None, virial is not None), moved,
        )  # fmt: skip
        column = first
        for block in squares:
            width = block.shape[3] // (soap.n_max * len(shares))
            end = min(column + width, first + wanted.dots.shape[1])
            columns = slice(column - first, end - first)
            slopes = wanted.slopes[here, columns] / wanted.norm[atoms, None]
            _multiply(
                c, block, rows, moved, (atoms, slots, owner), (slopes, slopes * wanted.dots[here, columns]),
                nothing if forces is None else forces, nothing if virial is None else virial, column,
            )  # fmt: skip
            column = end


def squares_of(soap: Any, z: Float[np.ndarray, "m f"]) -> list[Float[np.ndarray, "kinds l k n_times_m"]]:
    """Return 2 f_l Σ_k U[k, a] z[l, k', k n] of at most `COLUMNS` spectra each, or without U for all species at once.

    They are filled up with zeros to multiples of eight spectra.
    """
    channels, n_max, n_l = soap.n_channels, soap.n_max, soap.l_max + 1
    size, n_species = channels * n_max, soap.weights.shape[1]
    apart, together = costs(soap, TYPICAL)
    later = n_species == 1 or apart > together
    width = 8 * -(-len(z) // (8 * -(-len(z) // COLUMNS)))
    result = []
    for begin in range(0, len(z), width):
        part = z[begin : begin + width]
        square = np.zeros((channels, n_l, size, n_max, 8 * -(-len(part) // 8)))
        _unpack(np.ascontiguousarray(part.T), square)
        if later:
            square = square.transpose(1, 2, 0, 3, 4)
        elif soap.channels is not None:
            square = soap.weights.T @ square.reshape(channels, -1)
        result.append(np.ascontiguousarray(square).reshape(1 if later else n_species, n_l, size, -1))
    return result


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _unpack(z: Any, square: Any) -> Any:
    """Fill square[channel, l, k', n, m] from the packed triangles z[f, m]."""
    f, n_max = 0, square.shape[3]
    for l in range(square.shape[1]):  # noqa: E741
        diagonal = 2.0 * _prefactor(l)
        off = np.sqrt(0.5) * diagonal
        for a in range(square.shape[2]):
            square[a // n_max, l, a, a % n_max, : z.shape[1]] = diagonal * z[f]
            f += 1
            for b in range(a + 1, square.shape[2]):
                square[a // n_max, l, b, a % n_max, : z.shape[1]] = off * z[f]
                square[b // n_max, l, a, b % n_max, : z.shape[1]] = off * z[f]
                f += 1


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _move_all(tables: Any, mixing: Any, atoms: Any, own: Any, which: Any, moved: Any) -> Any:
    """Fill moved, the derivatives of the densities of some centres, and return where its rows are, and their `along`.

    ``start[c, a]:start[c, a + 1]`` are those of centre c and neighbours of kind a: three for each slot s, from
    place[c, s] on, then the virial's six. along[row] is the row's product with own[c], the gradient of p·x.
    """
    weights, shares, kind, pairs, slots = mixing
    n_kinds, most, row = kind.max() + 1, 0, 0
    for i in atoms:
        most = max(most, slots.offsets[i + 1] - slots.offsets[i])
    start, place = np.empty((len(atoms), n_kinds + 1), np.int64), np.full((len(atoms), most), -1, np.int64)
    along, mixed = np.empty(len(moved)), np.empty(moved.shape[1])
    for c in range(len(atoms)):
        i = atoms[c]
        row = _lay_out(pairs, slots, kind, i, which, row, start[c], place[c])
        _move(tables, shares, pairs, slots, i, which[1], (kind, start[c], place[c]), moved)
        for a in range(n_kinds):
            if n_kinds == 1:
                mixed[:] = own[c].ravel()
            else:
                n_max = tables.n_max
                mixed[:] = 0.0
                for lm in range(own.shape[1]):
                    for channel in range(len(weights)):
                        for n in range(n_max):
                            mixed[lm * n_max + n] += weights[channel, a] * own[c, lm, channel * n_max + n]
            for r in range(start[c, a], start[c, a + 1]):
                total = 0.0
                for q in range(len(mixed)):
                    total += mixed[q] * moved[r, q]
                along[r] = total
    return start, place, along


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _multiply(
    coefficients: Any, squares: Any, rows: Any, moved: Any, which: Any, slopes: Any, forces: Any, virial: Any,
    first: Any,
) -> Any:  # fmt: skip
    """Multiply derivatives of densities with those by densities, and add up."""
    (start, place, along), (atoms, slots, owner), (slope, back) = rows, which, slopes
    n_kinds, n_l = squares.shape[0], squares.shape[1]
    n_max = moved.shape[1] // n_l**2
    width = squares.shape[3] // n_max
    product = np.zeros((start[len(atoms) - 1, n_kinds], width))
    inner, own = np.empty((2 * n_l - 1) * n_max * width), np.empty((3, slope.shape[1]))
    columns, one = slice(first, first + slope.shape[1]), np.ones(slope.shape[1])
    for a in range(n_kinds):
        for l in range(n_l):  # noqa: E741
            part = inner[: (2 * l + 1) * n_max * width]
            gradient, by_n = part.reshape(2 * l + 1, n_max * width), part.reshape((2 * l + 1) * n_max, width)
            lm, lm_end = l * l, (l + 1) * (l + 1)
            for c in range(len(atoms)):
                p, q = start[c, a], start[c, a + 1]
                if p < q:
                    part[:] = 0.0
                    _add_product(coefficients[atoms[c], lm:lm_end], squares[a, l], gradient)
                    _add_product(moved[p:q, lm * n_max : lm_end * n_max], by_n, product[p:q])
    for c in range(len(atoms)):
        i = atoms[c]
        own[:] = 0.0
        for s in range(1, slots.offsets[i + 1] - slots.offsets[i]):
            j, row = slots.atoms[slots.offsets[i] + s], place[c, s]
            for x in range(3 if row >= 0 else 0):
                _add(product[row + x], along[row + x], slope[c], back[c], -1.0, forces[3 * j + x, columns])
                _add(product[row + x], along[row + x], slope[c], back[c], 1.0, own[x])
        for x in range(3 if len(forces) else 0):
            _add(own[x], 0.0, one, own[x], 1.0, forces[3 * i + x, columns])
        for a in range(n_kinds if len(virial) else 0):
            if start[c, a] < start[c, a + 1]:
                for v in range(6):
                    row = start[c, a + 1] - 6 + v
                    _add(product[row], along[row], slope[c], back[c], 1.0, virial[6 * owner[i] + v, columns])


@njit(cache=True, fastmath=FASTMATH)
def _add_product(left: Any, right: Any, result: Any) -> Any:
    """Add left · right to the result, four rows by four at a time, which keeps both in registers.

    For the few rows of one l or one species this is two to four times as fast as a call of BLAS.
    """
    n_rows, n_inner = left.shape
    r = 0
    while r + 4 <= n_rows:
        c0, c1, c2, c3 = result[r], result[r + 1], result[r + 2], result[r + 3]
        k = 0
        while k + 4 <= n_inner:
            p0, p1, p2, p3 = left[r, k], left[r, k + 1], left[r, k + 2], left[r, k + 3]
            q0, q1, q2, q3 = left[r + 1, k], left[r + 1, k + 1], left[r + 1, k + 2], left[r + 1, k + 3]
            s0, s1, s2, s3 = left[r + 2, k], left[r + 2, k + 1], left[r + 2, k + 2], left[r + 2, k + 3]
            t0, t1, t2, t3 = left[r + 3, k], left[r + 3, k + 1], left[r + 3, k + 2], left[r + 3, k + 3]
            b0, b1, b2, b3 = right[k], right[k + 1], right[k + 2], right[k + 3]
            for m in range(right.shape[1]):
                x0, x1, x2, x3 = b0[m], b1[m], b2[m], b3[m]
                c0[m] += p0 * x0 + p1 * x1 + p2 * x2 + p3 * x3
                c1[m] += q0 * x0 + q1 * x1 + q2 * x2 + q3 * x3
                c2[m] += s0 * x0 + s1 * x1 + s2 * x2 + s3 * x3
                c3[m] += t0 * x0 + t1 * x1 + t2 * x2 + t3 * x3
            k += 4
        while k < n_inner:
            p0, q0, s0, t0, b0 = left[r, k], left[r + 1, k], left[r + 2, k], left[r + 3, k], right[k]
            for m in range(right.shape[1]):
                c0[m] += p0 * b0[m]
                c1[m] += q0 * b0[m]
                c2[m] += s0 * b0[m]
                c3[m] += t0 * b0[m]
            k += 1
        r += 4
    while r + 2 <= n_rows:
        c0, c1 = result[r], result[r + 1]
        k = 0
        while k + 4 <= n_inner:
            p0, p1, p2, p3 = left[r, k], left[r, k + 1], left[r, k + 2], left[r, k + 3]
            q0, q1, q2, q3 = left[r + 1, k], left[r + 1, k + 1], left[r + 1, k + 2], left[r + 1, k + 3]
            b0, b1, b2, b3 = right[k], right[k + 1], right[k + 2], right[k + 3]
            for m in range(right.shape[1]):
                x0, x1, x2, x3 = b0[m], b1[m], b2[m], b3[m]
                c0[m] += p0 * x0 + p1 * x1 + p2 * x2 + p3 * x3
                c1[m] += q0 * x0 + q1 * x1 + q2 * x2 + q3 * x3
            k += 4
        while k < n_inner:
            p0, q0, b0 = left[r, k], left[r + 1, k], right[k]
            for m in range(right.shape[1]):
                c0[m] += p0 * b0[m]
                c1[m] += q0 * b0[m]
            k += 1
        r += 2
    if r < n_rows:
        c0 = result[r]
        k = 0
        while k + 4 <= n_inner:
            p0, p1, p2, p3 = left[r, k], left[r, k + 1], left[r, k + 2], left[r, k + 3]
            b0, b1, b2, b3 = right[k], right[k + 1], right[k + 2], right[k + 3]
            for m in range(right.shape[1]):
                c0[m] += p0 * b0[m] + p1 * b1[m] + p2 * b2[m] + p3 * b3[m]
            k += 4
        while k < n_inner:
            p0, b0 = left[r, k], right[k]
            for m in range(right.shape[1]):
                c0[m] += p0 * b0[m]
            k += 1


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _add(product: Any, along: Any, slope: Any, back: Any, sign: Any, total: Any) -> Any:
    """Add sign · slope · (product - along · dots), `back` being slope · dots."""
    for m in range(len(total)):
        total[m] += sign * (slope[m] * product[m] - along * back[m])


@njit(cache=True)
def _lay_out(pairs: Any, slots: Any, kind: Any, i: Any, which: Any, row: Any, start: Any, place: Any) -> Any:
    """Give the slots of a centre their rows from `row` on, and return the row after the last.

    Slot 0 is the centre, whose own images move nothing but its strain.
    """
    begin, end = slots.offsets[i], slots.offsets[i + 1]
    for a in range(len(start) - 1):
        start[a] = row
        present = False
        for s in range(end - begin):
            if kind[pairs.species[slots.atoms[begin + s]]] == a:
                present = True
                if s > 0 and which[0]:
                    place[s] = row
                    row += 3
        if present and which[1]:
            row += 6
    start[len(start) - 1] = row
    return row


@njit(cache=True, fastmath=FASTMATH)
def _move(
    tables: Any, shares: Any, pairs: Any, slots: Any, i: Any, strain: Any, where_to: Any, moved: Any
) -> Any:  # fmt: skip
    """Fill moved[row, lm, n] = ∂(w R_nl Y_lm)/∂r of every slot, images added up, and its symmetric virial.

    A neighbour counts with the shares of its species, one after the other.
    """
    l_max, n_max, nodes, inverse_step, vectors = (
        tables.l_max, tables.n_max, tables.nodes, tables.inverse_step, pairs.vectors,
    )  # fmt: skip
    kind, start, place = where_to
    near = _room(l_max)
    u, r, w, dw, where, q, re, im = near
    angular = np.empty((4, (l_max + 1) ** 2, BLOCK))
    radial = np.empty((2, nodes.shape[2]))
    change = np.empty((3, moved.shape[1]))
    moved[start[0] : start[len(start) - 1]] = 0.0
    p, stop = pairs.offsets[i], pairs.offsets[i + 1]
    while p < stop:
        count, p = _gather(tables, vectors, p, stop, near)
        harmonic_factors(l_max, count, u, tables.angular, q, re, im)
        harmonic_gradients(l_max, count, tables.angular, u, r, q, re, im, angular[0], angular[1:])
        for b in range(count):
            _radial_slope(inverse_step, nodes, r[b], w[b], dw[b], radial[0], radial[1])
            species = pairs.species[pairs.second[where[b]]]
            for x in range(3):
                f = 0
                for l in range(l_max + 1):  # noqa: E741
                    for lm in range(l * l, (l + 1) * (l + 1)):
                        turn, stretch = angular[1 + x, lm, b], u[x, b] * angular[0, lm, b]
                        for channel in range(len(shares)):
                            share = shares[channel, species]
                            for n in range(n_max):
                                value = turn * radial[0, l * n_max + n] + stretch * radial[1, l * n_max + n]
                                change[x, f + n] = share * value
                            f += n_max
            s = slots.pair[where[b]]
            if place[s] >= 0:
                moved[place[s] : place[s] + 3] += change
            if strain:
                row = start[kind[species] + 1] - 6
                _add_strain(vectors[where[b]], change, moved[row : row + 6])


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _add_strain(v: Any, change: Any, rows: Any) -> Any:
    """Add sym(v ⊗ change)."""
    for f in range(change.shape[1]):
        cx, cy, cz = change[0, f], change[1, f], change[2, f]
        rows[0, f] += v[0] * cx
        rows[1, f] += v[1] * cy
        rows[2, f] += v[2] * cz
        rows[3, f] += 0.5 * (v[1] * cz + v[2] * cy)
        rows[4, f] += 0.5 * (v[0] * cz + v[2] * cx)
        rows[5, f] += 0.5 * (v[0] * cy + v[1] * cx)
