"""Derivatives of dot products with given vectors, contracted with the density before neighbours are told apart.

A dot product p_i·z of two power spectra has the gradient G[lm, k] = ∂(p_i·z)/∂c_i[lm, k] = Σ_k' z̃[l, k, k'] c_i[lm, k']
with z̃ the symmetric square of z. Each neighbour moves Q = (l_max + 1)² n_max numbers of c_i, those of its own species,
and z̃ is mixed to the S species beforehand. For M vectors, N atoms that move the centre and K channels that is
2 M Q (n_max K S + 3 N) operations a centre; the derivatives of the power spectrum itself take 2 M F · 3 N, with
F = (l_max + 1) K n_max (K n_max + 1)/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from threading import local
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from kernelpot.descriptors.loops import FASTMATH, harmonic_factors, harmonic_gradients
from kernelpot.descriptors.soap.loops import BLOCK, _gather, _prefactor, _radial_slope, _room, spectrum_vjp
from kernelpot.run import one_blas

COLUMNS = 100
"""Most given spectra at a time, so that what belongs to one centre stays in the cache."""

CENTRES = 32
"""Most centres at a time: from about 32 on matrix products are near their peak."""

CHUNK_BYTES = 24_000_000
"""Most memory for the derivatives of the densities of one chunk of centres."""

_rooms = local()


class Wanted(NamedTuple):
    """Which centres are differentiated, and what their derivatives are multiplied with."""

    centres: Int[np.ndarray, " a"]
    dots: Float[np.ndarray, "a m"]  # Of unit vectors with those that `squares_of` took
    slopes: Float[np.ndarray, "a m"]  # Derivative of a raw column by its dot product
    norm: Float[np.ndarray, " atoms"]  # Lengths that were taken out of the vectors
    vectors: Float[np.ndarray, "atoms f"]  # Unit vectors


class Moves(NamedTuple):
    """∂c[lm, n]/∂r of the neighbours of some centres, apart by the species that a neighbour counts for.

    The block of centre i and species a is ``rows[begin[i, a]:begin[i, a + 1]]``: first the components of each atom that
    moves the centre, images added up, then the six of the strain. `target` is a row's place in forces or stresses.
    """

    begin: Int[np.ndarray, "centres species_plus_1"]
    strain: Int[np.ndarray, "centres species"]  # Where the rows of the strain begin
    target: Int[np.ndarray, " rows"]
    along: Float[np.ndarray, " rows"]  # Product of each row with the gradient of p·x
    rows: Float[np.ndarray, "rows lm_n"]


@one_blas()
def add_products(
    environments: Any,
    squares: Sequence[Float[np.ndarray, "species l k n_times_m"]],
    wanted: Wanted,
    forces: Float[np.ndarray, "atoms_times_3 columns"] | None,
    virial: Float[np.ndarray, "structures_times_6 columns"] | None,
    first: int,
) -> None:
    """Subtract slope ∂(x·z)/∂r from forces, and add slope ∂(x·z)/∂ε to virials, from column `first` on.

    `environments` are those of a SOAP. The products of densities with squares, and of what that gives with derivatives
    of densities, are made for up to `CENTRES` centres together and `COLUMNS` columns at a time.
    """
    soap, c = environments.soap, environments.coefficients
    n_lm, n_max, n_species = c.shape[1], soap.n_max, soap.weights.shape[1]
    degrees = np.repeat(np.arange(soap.l_max + 1), 2 * np.arange(soap.l_max + 1) + 1).tolist()
    counts = np.diff(environments.slots.offsets)[wanted.centres]
    most = 3 * int(counts.max()) + 6 * n_species
    step = min(CENTRES, max(4, int(CHUNK_BYTES / (8 * n_lm * n_max * most))))
    nothing = np.empty((0, 0))
    for start in range(0, len(wanted.centres), step):
        here = slice(start, start + step)
        atoms = wanted.centres[here]
        mine = c[atoms]
        moves = _moves(environments, atoms, forces is not None, virial is not None)
        own = np.empty_like(mine)
        spectrum_vjp(0, len(atoms), soap.l_max, mine, wanted.vectors[atoms], own)
        _fill_along(moves, soap.weights, own)
        column = 0
        for block in squares:
            width = block.shape[3] // n_max
            inner = _reused("inner", (len(atoms), n_lm, n_max * width))
            columns = slice(column, column + width)
            slopes = wanted.slopes[here, columns] / wanted.norm[atoms, None]
            dots = np.ascontiguousarray(wanted.dots[here, columns])
            for a in range(n_species):
                if (moves.begin[:, a] == moves.begin[:, a + 1]).all():
                    continue
                for lm, degree in enumerate(degrees):
                    np.matmul(mine[:, lm], block[a, degree], out=inner[:, lm])
                _spread(
                    moves, a, atoms, inner.reshape(len(atoms), -1, width), (slopes, dots),
                    nothing if forces is None else forces, nothing if virial is None else virial, first + column,
                )  # fmt: skip
            column += width


def _reused(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array that each thread keeps: a fresh one costs a page fault for every 4 kB."""
    size = int(np.prod(shape))
    kept: np.ndarray | None = getattr(_rooms, name, None)
    if kept is None or len(kept) < size:
        kept = np.empty(size)
        setattr(_rooms, name, kept)
    return kept[:size].reshape(shape)


def squares_of(soap: Any, z: Float[np.ndarray, "m f"]) -> list[Float[np.ndarray, "species l k n_times_m"]]:
    """Return 2 f_l Σ_k U[k, a] z[l, k', k n] of at most `COLUMNS` spectra each."""
    channels, n_max, n_l = soap.n_channels, soap.n_max, soap.l_max + 1
    size = channels * n_max
    parts = -(-len(z) // COLUMNS)
    result = []
    for begin, end in pairwise(len(z) * part // parts for part in range(parts + 1)):
        square = np.empty((channels, n_l, size, n_max, end - begin))
        _unpack(np.ascontiguousarray(z[begin:end].T), square)
        if soap.channels is not None:
            square = soap.weights.T @ square.reshape(channels, -1)
        result.append(square.reshape(-1, n_l, size, n_max * (end - begin)))
    return result


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _unpack(z: Any, square: Any) -> Any:
    """Fill square[channel, l, k', n, m] from the packed triangles z[f, m]."""
    f, n_max = 0, square.shape[3]
    for l in range(square.shape[1]):  # noqa: E741
        diagonal = 2.0 * _prefactor(l)
        off = np.sqrt(0.5) * diagonal
        for a in range(square.shape[2]):
            square[a // n_max, l, a, a % n_max] = diagonal * z[f]
            f += 1
            for b in range(a + 1, square.shape[2]):
                square[a // n_max, l, b, a % n_max] = off * z[f]
                square[b // n_max, l, a, b % n_max] = off * z[f]
                f += 1


def _moves(environments: Any, atoms: Int[np.ndarray, " a"], forces: bool, virial: bool) -> Moves:
    """Make the derivatives of the densities of some centres."""
    soap, slots = environments.soap, environments.slots
    n_species = soap.weights.shape[1]
    atoms_moving = int((slots.offsets[atoms + 1] - slots.offsets[atoms]).sum())
    most = 3 * forces * atoms_moving + 6 * virial * n_species * len(atoms)
    shape = (len(atoms), n_species)
    moves = Moves(
        np.empty((shape[0], n_species + 1), np.int64), np.empty(shape, np.int64), np.empty(most, np.int64),
        np.empty(most), _reused("moves", (most, (soap.l_max + 1) ** 2 * soap.n_max)),
    )  # fmt: skip
    structure = environments.batch.structure
    _fill_moves(atoms, soap.tables, environments.pairs, slots, structure, forces, virial, moves)
    return moves


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _fill_moves(
    atoms: Any, tables: Any, pairs: Any, slots: Any, structure: Any, forces: Any, virial: Any, moves: Any
) -> Any:
    l_max, n_max, nodes, inverse_step = tables.l_max, len(tables.n_max), tables.nodes, tables.inverse_step
    near = _room(l_max)
    angular = np.empty((4, (l_max + 1) ** 2, BLOCK))
    radial, change = np.empty((2, nodes.shape[2])), np.empty((3, moves.rows.shape[1]))
    row = 0
    for centre in range(len(atoms)):
        i = atoms[centre]
        first, last = slots.offsets[i], slots.offsets[i + 1]
        place = np.full(last - first, -1, np.int64)
        for a in range(moves.strain.shape[1]):
            moves.begin[centre, a] = row
            present = False
            for s in range(last - first):
                j = slots.atoms[first + s]
                if pairs.species[j] == a:
                    present = True
                    # Slot 0 is the centre, whose own images move along with it.
                    if s > 0 and forces:
                        place[s] = row
                        for x in range(3):
                            moves.target[row + x] = 3 * j + x
                        row += 3
            moves.strain[centre, a] = row
            if present and virial:
                for v in range(6):
                    moves.target[row + v] = 6 * structure[i] + v
                row += 6
        moves.begin[centre, moves.strain.shape[1]] = row
        moves.rows[moves.begin[centre, 0] : row] = 0.0
        p, stop = pairs.offsets[i], pairs.offsets[i + 1]
        while p < stop:
            count, p = _gather(tables, pairs.vectors, p, stop, near)
            harmonic_factors(l_max, count, near.u, tables.angular, near.q, near.re, near.im)
            harmonic_gradients(
                l_max, count, tables.angular, near.u, near.r, near.q, near.re, near.im, angular[0], angular[1:]
            )
            for b in range(count):
                _radial_slope(inverse_step, nodes, near.r[b], near.w[b], near.dw[b], radial[0], radial[1])
                for l in range(l_max + 1):  # noqa: E741
                    for lm in range(l * l, (l + 1) * (l + 1)):
                        for x in range(3):
                            turn, stretch = angular[1 + x, lm, b], near.u[x, b] * angular[0, lm, b]
                            for n in range(n_max):
                                value, slope = radial[0, l * n_max + n], radial[1, l * n_max + n]
                                change[x, lm * n_max + n] = turn * value + stretch * slope
                pair = near.where[b]
                to = place[slots.pair[pair]]
                if to >= 0:
                    moves.rows[to : to + 3] += change
                if virial:
                    v = moves.strain[centre, pairs.species[pairs.second[pair]]]
                    _add_strain(pairs.vectors[pair], change, moves.rows[v : v + 6])


@njit(cache=True, fastmath=FASTMATH)
def _add_strain(r: Any, change: Any, rows: Any) -> Any:
    """Add sym(r ⊗ change)."""
    x, y, z = r[0], r[1], r[2]
    for q in range(change.shape[1]):
        cx, cy, cz = change[0, q], change[1, q], change[2, q]
        rows[0, q] += x * cx
        rows[1, q] += y * cy
        rows[2, q] += z * cz
        rows[3, q] += 0.5 * (y * cz + z * cy)
        rows[4, q] += 0.5 * (x * cz + z * cx)
        rows[5, q] += 0.5 * (x * cy + y * cx)


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _fill_along(moves: Any, weights: Any, own: Any) -> Any:
    """Multiply every row with own[i, lm, k], mixed to the species that it counts for."""
    n_lm, n_max = own.shape[1], own.shape[2] // len(weights)
    mixed = np.empty(n_lm * n_max)
    for centre in range(len(own)):
        for a in range(weights.shape[1]):
            mixed[:] = 0.0
            for lm in range(n_lm):
                for channel in range(len(weights)):
                    for n in range(n_max):
                        mixed[lm * n_max + n] += weights[channel, a] * own[centre, lm, channel * n_max + n]
            for row in range(moves.begin[centre, a], moves.begin[centre, a + 1]):
                total = 0.0
                for q in range(len(mixed)):
                    total += moves.rows[row, q] * mixed[q]
                moves.along[row] = total


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _spread(moves: Any, a: Any, atoms: Any, inner: Any, wanted: Any, forces: Any, virial: Any, first: Any) -> Any:
    """Multiply derivatives of the density of species a with those by it, inner[centre, lm n, m], and add up."""
    slopes, dots = wanted
    width = inner.shape[2]
    product = np.empty(((moves.begin[:, a + 1] - moves.begin[:, a]).max(), width))
    back = np.empty((3, width))
    for centre in range(len(atoms)):
        begin, strain, end = moves.begin[centre, a], moves.strain[centre, a], moves.begin[centre, a + 1]
        if begin == end:
            continue
        np.dot(moves.rows[begin:end], inner[centre], product[: end - begin])
        back[:] = 0.0
        for r in range(begin, end):
            row, mine, x = product[r - begin], moves.along[r], (r - begin) % 3
            for m in range(width):
                row[m] = slopes[centre, m] * (row[m] - dots[centre, m] * mine)
            # Views: an index that is a sum could be negative for all that the compiler knows, and then it reads singly.
            if r < strain:
                to = forces[moves.target[r], first : first + width]
                for m in range(width):
                    to[m] -= row[m]
                for m in range(width):
                    back[x, m] += row[m]
            else:
                to = virial[moves.target[r], first : first + width]
                for m in range(width):
                    to[m] += row[m]
        if strain > begin:
            for x in range(3):
                to = forces[3 * atoms[centre] + x, first : first + width]
                for m in range(width):
                    to[m] += back[x, m]
