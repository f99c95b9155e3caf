"""Derivatives of dot products with given vectors, contracted with the density before neighbours are told apart.

A dot product p_i·z of two power spectra has the gradient G[lm, k] = ∂(p_i·z)/∂c_i[lm, k] = Σ_k' z̃[l, k, k'] c_i[lm, k']
with z̃ the symmetric square of z. Each neighbour moves Q = (l_max + 1)² n_max numbers of c_i, those of its own species.
For M vectors, N neighbours, K channels and S species among the neighbours that is 2 M Q (n_max K² + S K + 3 N)
operations a centre; the derivatives of the power spectrum itself take 2 M F · 3 N, with F = (l_max + 1) K n_max
(K n_max + 1)/2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from kernelpot.descriptors.loops import FASTMATH, harmonic_factors, harmonic_gradients
from kernelpot.descriptors.soap.loops import BLOCK, _gather, _prefactor, _radial_slope, _room

WIDTH = 64
"""Vectors at a time: what belongs to one centre then stays in cache."""


TOGETHER = 6
"""Centres at a time, so that products with their densities are no thin ones."""


class Wanted(NamedTuple):
    """Which centres are differentiated, and what their derivatives are multiplied with."""

    centres: Int[np.ndarray, " a"]
    dots: Float[np.ndarray, "a m"]  # Of unit vectors with those that `squares` holds
    slopes: Float[np.ndarray, "a m"]  # Derivative of a raw column by its dot product
    norm: Float[np.ndarray, " atoms"]  # Lengths that were taken out of the vectors
    vectors: Float[np.ndarray, "atoms f"]  # Unit vectors


def squares_of(z: Float[np.ndarray, "m f"], size: int, l_max: int) -> Float[np.ndarray, "chunks l k k_width"]:
    """Return z̃: for every l the gradient of p·z by the products c[lm, k] c[lm, k'], WIDTH vectors side by side."""
    chunks = -(-len(z) // WIDTH)
    result = np.zeros((chunks, l_max + 1, size, size, WIDTH))
    a, b = np.triu_indices(size)
    scale = np.where(a == b, 2.0, np.sqrt(2.0))
    for chunk in range(chunks):
        part = z[chunk * WIDTH : (chunk + 1) * WIDTH].reshape(-1, l_max + 1, len(a))
        for l in range(l_max + 1):  # noqa: E741
            values = (_prefactor(l) * scale * part[:, l]).T
            result[chunk, l, a, b, : len(part)] = values
            result[chunk, l, b, a, : len(part)] = values
    return result.reshape(chunks, l_max + 1, size, size * WIDTH)


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def add_products(
    tables: Any, weights: Any, pairs: Any, slots: Any, coefficients: Any, squares: Any, wanted: Any, owner: Any,
    forces: Any, stress: Any,
) -> Any:  # fmt: skip
    """Add -slope ∂(x_i·z)/∂r_j to forces[j, :, m] and slope ∂(x_i·z)/∂ε to stress[owner[i], :, m], if it has rows.

    One matrix product for each centre and species of its neighbours, WIDTH columns at a time.
    """
    l_max, n_max, n_lm = tables.l_max, tables.n_max, (tables.l_max + 1) ** 2
    size, n_species, n_columns = coefficients.shape[2], weights.shape[1], wanted.dots.shape[1]
    q, extra = n_lm * n_max, 6 if stress.shape[0] else 0
    most = 0
    for i in wanted.centres:
        most = max(most, slots.offsets[i + 1] - slots.offsets[i])
    height = 3 * most + extra * n_species
    moved, along = np.empty((TOGETHER, height, q)), np.empty((TOGETHER, height))
    start, place = np.empty((TOGETHER, n_species + 1), np.int64), np.empty((TOGETHER, most), np.int64)
    # Rows l² · TOGETHER + …: those of one l together, centre by centre.
    density, gradient = np.empty((TOGETHER * n_lm, size)), np.empty((TOGETHER * n_lm, size * WIDTH))
    inner, product, own_gradient = np.empty((q, WIDTH)), np.empty((height, WIDTH)), np.empty((n_lm, size))
    own, slope, back = np.empty((3, WIDTH)), np.empty(WIDTH), np.empty(WIDTH)
    for begin in range(0, len(wanted.centres), TOGETHER):
        together = min(TOGETHER, len(wanted.centres) - begin)
        for b in range(together):
            i = wanted.centres[begin + b]
            _lay_out(pairs, slots, i, extra, start[b], place[b])
            _move(tables, pairs, slots, i, extra, start[b], place[b], moved[b])
            _own_gradient(l_max, coefficients[i], wanted.vectors[i], own_gradient)
            _along(weights, n_max, own_gradient, start[b], moved[b], along[b])
            for l in range(l_max + 1):  # noqa: E741
                for m in range(2 * l + 1):
                    density[together * l * l + b * (2 * l + 1) + m] = coefficients[i, l * l + m]
        for chunk in range(len(squares)):
            for l in range(l_max + 1):  # noqa: E741
                first, last = together * l * l, together * (l + 1) * (l + 1)
                np.dot(density[first:last], squares[chunk, l], gradient[first:last])
            column = chunk * WIDTH
            width = min(WIDTH, n_columns - column)
            for b in range(together):
                i = wanted.centres[begin + b]
                for a in range(n_species):
                    if start[b, a] < start[b, a + 1]:
                        _mix_down(weights, a, n_max, l_max, together, b, gradient, inner)
                        np.dot(moved[b, start[b, a] : start[b, a + 1]], inner, product[start[b, a] : start[b, a + 1]])
                for m in range(width):
                    slope[m] = wanted.slopes[begin + b, column + m] / wanted.norm[i]
                    back[m] = slope[m] * wanted.dots[begin + b, column + m]
                own[:] = 0.0
                for s in range(1, slots.offsets[i + 1] - slots.offsets[i]):
                    j = slots.atoms[slots.offsets[i] + s]
                    for x in range(3):
                        row = place[b, s] + x
                        there = forces[j, x, column : column + width]
                        _add(product[row], along[b, row], slope, back, -1.0, there)
                        _add(product[row], along[b, row], slope, back, 1.0, own[x, :width])
                for x in range(3):
                    for m in range(width):
                        forces[i, x, column + m] += own[x, m]
                for a in range(n_species if extra else 0):
                    if start[b, a] < start[b, a + 1]:
                        for v in range(6):
                            row = start[b, a + 1] - 6 + v
                            there = stress[owner[i], v, column : column + width]
                            _add(product[row], along[b, row], slope, back, 1.0, there)


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _add(product: Any, along: Any, slope: Any, back: Any, sign: Any, total: Any) -> Any:
    """Add sign · slope · (product - along · dots), `back` being slope · dots."""
    for m in range(len(total)):
        total[m] += sign * (slope[m] * product[m] - along * back[m])


@njit(cache=True)
def _lay_out(pairs: Any, slots: Any, i: Any, extra: Any, start: Any, place: Any) -> Any:
    """Give every slot of a centre but its own three rows, those of one species together, its virial's six last."""
    row = 0
    for a in range(len(start) - 1):
        start[a] = row
        # The centre's own images move nothing but its strain.
        there = extra > 0 and pairs.species[i] == a
        for s in range(1, slots.offsets[i + 1] - slots.offsets[i]):
            if pairs.species[slots.atoms[slots.offsets[i] + s]] == a:
                place[s] = row
                row += 3
                there = True
        if there:
            row += extra
        start[a + 1] = row


@njit(cache=True, fastmath=FASTMATH)
def _along(weights: Any, n_max: Any, gradient: Any, start: Any, moved: Any, along: Any) -> Any:
    """Fill along[row] = ∂(p·x)/∂r at constant x, from ∂(p·x)/∂c."""
    mixed = np.empty(len(gradient) * n_max)
    for a in range(len(start) - 1):
        mixed[:] = 0.0
        for lm in range(len(gradient)):
            for k in range(len(weights)):
                for n in range(n_max):
                    mixed[lm * n_max + n] += weights[k, a] * gradient[lm, k * n_max + n]
        for row in range(start[a], start[a + 1]):
            total = 0.0
            for f in range(len(mixed)):
                total += mixed[f] * moved[row, f]
            along[row] = total


@njit(cache=True, fastmath=FASTMATH)
def _move(tables: Any, pairs: Any, slots: Any, i: Any, extra: Any, start: Any, place: Any, moved: Any) -> Any:
    """Fill moved[row, lm·n_max + n] = ∂(w R_nl Y_lm)/∂r of every slot, images added up, and its symmetric virial."""
    l_max, n_max, nodes, inverse_step, vectors = (
        tables.l_max, tables.n_max, tables.nodes, tables.inverse_step, pairs.vectors,
    )  # fmt: skip
    near = _room(l_max)
    u, r, w, dw, where, q, re, im = near
    angular = np.empty((4, (l_max + 1) ** 2, BLOCK))
    radial = np.empty((2, nodes.shape[2]))
    change = np.empty((3, (l_max + 1) ** 2 * n_max))
    moved[: start[len(start) - 1]] = 0.0
    p, stop = pairs.offsets[i], pairs.offsets[i + 1]
    while p < stop:
        count, p = _gather(tables, vectors, p, stop, near)
        harmonic_factors(l_max, count, u, tables.angular, q, re, im)
        harmonic_gradients(l_max, count, tables.angular, u, r, q, re, im, angular[0], angular[1:])
        for b in range(count):
            _radial_slope(inverse_step, nodes, r[b], w[b], dw[b], radial[0], radial[1])
            for x in range(3):
                for l in range(l_max + 1):  # noqa: E741
                    for lm in range(l * l, (l + 1) * (l + 1)):
                        turn, stretch = angular[1 + x, lm, b], u[x, b] * angular[0, lm, b]
                        for n in range(n_max):
                            value = turn * radial[0, l * n_max + n] + stretch * radial[1, l * n_max + n]
                            change[x, lm * n_max + n] = value
            s = slots.pair[where[b]]
            if s > 0:
                for x in range(3):
                    moved[place[s] + x] += change[x]
            if extra:
                a = pairs.species[pairs.second[where[b]]]
                v = vectors[where[b]]
                row = start[a + 1] - 6
                for f in range(change.shape[1]):
                    cx, cy, cz = change[0, f], change[1, f], change[2, f]
                    moved[row, f] += v[0] * cx
                    moved[row + 1, f] += v[1] * cy
                    moved[row + 2, f] += v[2] * cz
                    moved[row + 3, f] += 0.5 * (v[1] * cz + v[2] * cy)
                    moved[row + 4, f] += 0.5 * (v[0] * cz + v[2] * cx)
                    moved[row + 5, f] += 0.5 * (v[0] * cy + v[1] * cx)


@njit(cache=True, fastmath=FASTMATH)
def _own_gradient(l_max: Any, c: Any, x: Any, gradient: Any) -> Any:
    """Fill gradient[lm, k] = ∂(p·x)/∂c[lm, k] at constant x."""
    size = c.shape[1]
    f = 0
    gradient[:] = 0.0
    for l in range(l_max + 1):  # noqa: E741
        diagonal = _prefactor(l)
        off = diagonal * np.sqrt(2.0)
        for a in range(size):
            for lm in range(l * l, (l + 1) * (l + 1)):
                gradient[lm, a] += 2.0 * diagonal * x[f] * c[lm, a]
                for b in range(a + 1, size):
                    gradient[lm, a] += off * x[f + b - a] * c[lm, b]
                    gradient[lm, b] += off * x[f + b - a] * c[lm, a]
            f += size - a


@njit(cache=True, fastmath=FASTMATH)
def _mix_down(weights: Any, a: Any, n_max: Any, l_max: Any, together: Any, b: Any, gradient: Any, inner: Any) -> Any:
    """Fill inner[lm·n_max + n] = Σ_k weights[k, a] gradient[row of lm, k·n_max + n], WIDTH numbers each."""
    for l in range(l_max + 1):  # noqa: E741
        for m in range(2 * l + 1):
            source = gradient[together * l * l + b * (2 * l + 1) + m]
            for n in range(n_max):
                room = inner[(l * l + m) * n_max + n]
                room[:] = 0.0
                for k in range(len(weights)):
                    weight = weights[k, a]
                    if weight != 0.0:
                        part = source[(k * n_max + n) * WIDTH : (k * n_max + n + 1) * WIDTH]
                        for w in range(WIDTH):
                            room[w] += weight * part[w]
