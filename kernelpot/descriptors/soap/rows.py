"""Derivatives of dot products with given vectors, contracted with the density before neighbours are told apart.

A dot product p_i·z of two power spectra has the gradient G[lm, k] = ∂(p_i·z)/∂c_i[lm, k] = Σ_k' z̃[l, k, k'] c_i[lm, k']
with z̃ the symmetric square of z. Each neighbour moves Q = (l_max + 1)² n_max numbers of c_i, those of its own species,
and z̃ is mixed to the S species beforehand. For M vectors, N atoms that move the centre and K channels that is
2 M Q (n_max K S + 3 N) operations a centre. Many species in few channels stay there instead: 2 M Q K (n_max K + 3 N).
The derivatives of the power spectrum itself take 2 M F · 3 N, with F = (l_max + 1) K n_max (K n_max + 1)/2.
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

TYPICAL = 30.0
"""Atoms that move a centre, for the choice between species apart and together."""

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


def costs(soap: Any, neighbours: float) -> tuple[float, float]:
    """Return what one vector takes a centre with the species of neighbours apart and together, in multiply-adds.

    Together, neighbours count in all channels, and one product serves all. The factors are measured: products with the
    few neighbours of one species, or with the density of some centres, are slower than those with many rows.
    """
    n_lm, size, n_species = (soap.l_max + 1) ** 2, soap.n_channels * soap.n_max, soap.weights.shape[1]
    thin = min(2.0, 1.0 + 0.2 * (n_species - 1))
    apart = n_lm * soap.n_max * (1.2 * size * n_species + thin * 3.0 * neighbours)
    return apart, 1.1 * n_lm * size * (1.2 * size + 3.0 * neighbours)


@one_blas()
def add_products(
    environments: Any,
    squares: Sequence[Float[np.ndarray, "groups l k w_times_m"]],
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
    n_lm, n_groups, wide = c.shape[1], squares[0].shape[0], c.shape[2]
    together = n_groups == 1
    group, factors, mixing = np.zeros(len(soap.weights.T), np.int64), soap.weights.T, np.ones((1, 1))
    if not together:
        wide, group, factors, mixing = soap.n_max, np.arange(n_groups), np.ones((n_groups, 1)), soap.weights
    factors = np.ascontiguousarray(factors)
    degrees = np.repeat(np.arange(soap.l_max + 1), 2 * np.arange(soap.l_max + 1) + 1).tolist()
    counts = np.diff(environments.slots.offsets)[wanted.centres]
    most = 3 * int(counts.max()) + 6 * n_groups
    step = min(CENTRES, max(4, int(CHUNK_BYTES / (8 * n_lm * wide * most))))
    nothing = np.empty((0, 0))
    for start in range(0, len(wanted.centres), step):
        here = slice(start, start + step)
        atoms = wanted.centres[here]
        mine = c[atoms]
        moves = _room_for(environments, atoms, (forces is not None, virial is not None), n_groups, wide)
        _fill_moves(
            atoms, soap.tables, environments.pairs, environments.slots, environments.batch.structure,
            (forces is not None, virial is not None), (group, factors), moves,
        )  # fmt: skip
        own = np.empty_like(mine)
        spectrum_vjp(0, len(atoms), soap.l_max, mine, wanted.vectors[atoms], own)
        _fill_along(moves, mixing, own)
        column = 0
        for block in squares:
            width = block.shape[3] // wide
            inner = _reused("inner", (len(atoms), n_lm, wide * width))
            columns = slice(column, column + width)
            slopes = wanted.slopes[here, columns] / wanted.norm[atoms, None]
            dots = np.ascontiguousarray(wanted.dots[here, columns])
            for a in range(n_groups):
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


def squares_of(soap: Any, z: Float[np.ndarray, "m f"]) -> list[Float[np.ndarray, "groups l k w_times_m"]]:
    """Return 2 f_l Σ_k U[k, a] z[l, k', k n] for each species a of neighbours, or 2 f_l z[l, k', k], of some z each."""
    apart, together = costs(soap, TYPICAL)
    size, n_l = soap.n_channels * soap.n_max, soap.l_max + 1
    alone = len(soap.weights.T) > 1 and apart <= together
    wide = soap.n_max if alone else size
    parts = -(-len(z) // COLUMNS)
    result = []
    for begin, end in pairwise(len(z) * part // parts for part in range(parts + 1)):
        square = np.empty((size // wide, n_l, size, wide, end - begin))
        _unpack(np.ascontiguousarray(z[begin:end].T), square)
        if alone and soap.channels is not None:
            square = soap.weights.T @ square.reshape(len(square), -1)
        result.append(square.reshape(-1, n_l, size, wide * (end - begin)))
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


def _room_for(
    environments: Any, atoms: Int[np.ndarray, " a"], kinds: tuple[bool, bool], n_groups: int, wide: int
) -> Moves:
    """Make room for the derivatives of the densities of some centres."""
    offsets, n = environments.slots.offsets, len(atoms)
    most = 3 * kinds[0] * int((offsets[atoms + 1] - offsets[atoms]).sum()) + 6 * kinds[1] * n_groups * n
    return Moves(
        np.empty((n, n_groups + 1), np.int64), np.empty((n, n_groups), np.int64), np.empty(most, np.int64),
        np.empty(most), _reused("moves", (most, environments.coefficients.shape[1] * wide)),
    )  # fmt: skip


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _fill_moves(
    atoms: Any, tables: Any, pairs: Any, slots: Any, structure: Any, kinds: Any, groups: Any, moves: Any
) -> Any:
    """Fill moves for species in `groups`: the group of each, and the factors it has there."""
    l_max, n_max, nodes, inverse_step = tables.l_max, len(tables.n_max), tables.nodes, tables.inverse_step
    near = _room(l_max)
    angular = np.empty((4, (l_max + 1) ** 2, BLOCK))
    radial, narrow = np.empty((2, nodes.shape[2])), np.empty((3, (l_max + 1) ** 2 * n_max))
    (forces, virial), (group, factors), row = kinds, groups, 0
    change = narrow if factors.shape[1] == 1 else np.empty((3, moves.rows.shape[1]))
    for centre in range(len(atoms)):
        i = atoms[centre]
        first, last = slots.offsets[i], slots.offsets[i + 1]
        place = np.full(last - first, -1, np.int64)
        for a in range(moves.strain.shape[1]):
            moves.begin[centre, a] = row
            present = False
            for s in range(last - first):
                j = slots.atoms[first + s]
                if group[pairs.species[j]] == a:
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
                                narrow[x, lm * n_max + n] = turn * value + stretch * slope
                pair = near.where[b]
                species = pairs.species[pairs.second[pair]]
                if factors.shape[1] > 1 or factors[species, 0] != 1.0:
                    _widen(narrow, factors[species], n_max, change)
                to = place[slots.pair[pair]]
                if to >= 0:
                    moves.rows[to : to + 3] += change
                if virial:
                    v = moves.strain[centre, group[species]]
                    _add_strain(pairs.vectors[pair], change, moves.rows[v : v + 6])


@njit(cache=True, fastmath=FASTMATH)
def _widen(narrow: Any, factors: Any, n_max: Any, change: Any) -> Any:
    """Fill change[x, lm, k n] = factors[k] narrow[x, lm, n]."""
    for x in range(3):
        for lm in range(narrow.shape[1] // n_max):
            for k in range(len(factors)):
                for n in range(n_max):
                    change[x, (lm * len(factors) + k) * n_max + n] = factors[k] * narrow[x, lm * n_max + n]


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
            # Views: an index that is a sum could be negative for all that the compiler knows, and then it reads singly.
            if r < strain:
                to, own = forces[moves.target[r], first : first + width], back[x]
                for m in range(width):
                    change = slopes[centre, m] * (row[m] - dots[centre, m] * mine)
                    to[m] -= change
                    own[m] += change
            else:
                to = virial[moves.target[r], first : first + width]
                for m in range(width):
                    to[m] += slopes[centre, m] * (row[m] - dots[centre, m] * mine)
        if strain > begin:
            for x in range(3):
                to = forces[3 * atoms[centre] + x, first : first + width]
                for m in range(width):
                    to[m] += back[x, m]
