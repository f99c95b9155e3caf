"""Derivatives of dot products with given power spectra, contracted in the density before neighbours come in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from kernelpot.descriptors.loops import FASTMATH, harmonic_factors, harmonic_gradients
from kernelpot.descriptors.soap.loops import BLOCK, gather, prefactor, radial_slope, room, spectrum_vjp
from kernelpot.run import one_blas

if TYPE_CHECKING:
    from kernelpot.descriptors.soap.definition import SoapEnvironments

COLUMNS = 128
"""Most given spectra at a time."""

CHUNK_BYTES = 6_000_000
"""Rough size of the derivatives by the densities of one chunk of centres."""


class Slopes(NamedTuple):
    """Which derivatives by the densities some centres have: scale[a, m] ∂(p_a·z_m - along[a, m] p_a·x_a)/∂c."""

    atoms: Int[np.ndarray, " a"]
    spectra: Float[np.ndarray, "m f"]  # z
    own: Float[np.ndarray, "atoms f"]  # x, of all atoms
    scale: Float[np.ndarray, "a m"]
    along: Float[np.ndarray, "a m"]


class Moves(NamedTuple):
    """∂c[lm, n]/∂r of the neighbours of a chunk of centres, apart by the species that a neighbour counts for.

    The block of centre i and species a is ``rows[begin[i, a]:begin[i, a + 1]]``: first the components of each atom that
    moves the centre, images added up, then the six of the strain. `target` is a row's place in forces or stresses.
    """

    begin: Int[np.ndarray, "centres species_plus_1"]
    strain: Int[np.ndarray, "centres species"]  # Where the rows of the strain begin
    target: Int[np.ndarray, " rows"]
    rows: Float[np.ndarray, "rows lm_n"]


def add_slopes(
    environments: SoapEnvironments,
    slopes: Slopes,
    forces: Float[np.ndarray, "components columns"] | None,
    virial: Float[np.ndarray, "components columns"] | None,
    first: int,
) -> None:
    """Subtract derivatives by positions from forces, and add those by strain to virials, from column `first` on.

    ∂(p·z)/∂c[lm, k] = 2 f_l Σ_k' z[l, k, k'] c[lm, k'] is a matrix product for each l, 2 (l_max + 1)² K² operations
    a centre and spectrum whatever the number of neighbours; mixed to the species of a neighbour, its product
    with ∂c/∂r takes 6 (l_max + 1)² n_max for each atom that moves the centre.
    """
    soap, batch, c = environments.soap, environments.batch, environments.coefficients
    n_lm, size, m = c.shape[1], c.shape[2], len(slopes.spectra)
    own = np.empty_like(c)
    spectrum_vjp(0, batch.n_atoms, soap.l_max, c, slopes.own, own)
    squares = _squares(slopes.spectra, soap.l_max, size)
    widest = squares[0].shape[2] // size
    step = max(1, int(CHUNK_BYTES / (8 * n_lm * size * widest)))
    for start in range(0, len(slopes.atoms), step):
        here = slice(start, start + step)
        atoms = slopes.atoms[here]
        moves = _moves(environments, atoms, forces is not None, virial is not None)
        turned = np.ascontiguousarray(c[atoms].transpose(1, 0, 2))
        inner = np.empty((n_lm, len(atoms), size * widest))
        column = 0
        for square in squares:
            width = square.shape[2] // size
            part = inner.reshape(-1)[: n_lm * len(atoms) * size * width].reshape(n_lm, len(atoms), size, width)
            for l in range(soap.l_max + 1):  # noqa: E741
                lm = slice(l * l, (l + 1) ** 2)
                np.matmul(turned[lm].reshape(-1, size), square[l], out=part[lm].reshape(-1, size * width))
            columns = slice(column, column + width)
            nothing = np.empty((0, 0))
            _spread(
                moves, atoms, soap.weights, part, own,
                (np.ascontiguousarray(slopes.scale[here, columns]), np.ascontiguousarray(slopes.along[here, columns])),
                nothing if forces is None else forces, nothing if virial is None else virial, first + column,
            )  # fmt: skip
            column += width


def _squares(z: Float[np.ndarray, "m f"], l_max: int, size: int) -> list[Float[np.ndarray, "l k k_times_m"]]:
    """Return 2 f_l z[l, k', k] of some spectra at a time, full squares."""
    m = len(z)
    blocks = -(-m // COLUMNS)
    cuts = [m * b // blocks for b in range(blocks + 1)]
    result = []
    for begin, end in zip(cuts[:-1], cuts[1:], strict=True):
        square = np.empty((l_max + 1, size, size, end - begin))
        _unpack(np.ascontiguousarray(z[begin:end].T), square)
        result.append(square.reshape(l_max + 1, size, -1))
    return result


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _unpack(z: Any, square: Any) -> Any:
    """Fill square[l, k', k, m] from the packed triangles z[f, m]."""
    f = 0
    for l in range(square.shape[0]):  # noqa: E741
        diagonal = 2.0 * prefactor(l)
        off = np.sqrt(0.5) * diagonal
        for a in range(square.shape[1]):
            square[l, a, a] = diagonal * z[f]
            f += 1
            for b in range(a + 1, square.shape[1]):
                square[l, a, b] = off * z[f]
                square[l, b, a] = square[l, a, b]
                f += 1


def _moves(environments: SoapEnvironments, atoms: Int[np.ndarray, " a"], forces: bool, virial: bool) -> Moves:
    """Make the derivatives of the densities of some centres."""
    soap, slots, pairs = environments.soap, environments.slots, environments.pairs
    n_species = soap.weights.shape[1]
    most = 3 * int((slots.offsets[atoms + 1] - slots.offsets[atoms]).sum()) + 6 * n_species * len(atoms)
    begin = np.empty((len(atoms), n_species + 1), np.int64)
    strain = np.empty((len(atoms), n_species), np.int64)
    rows = np.empty((most, (soap.l_max + 1) ** 2 * soap.n_max))
    moves = Moves(begin, strain, np.empty(most, np.int64), rows)
    _density_rows(atoms, soap.tables, pairs, slots, environments.batch.structure, (forces, virial), moves)
    return moves


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _density_rows(
    atoms: Any, tables: Any, pairs: Any, slots: Any, structure: Any, wanted: Any, moves: Any
) -> Any:
    l_max, n_max, nodes, inverse_step = tables.l_max, len(tables.n_max), tables.nodes, tables.inverse_step
    near = room(l_max)
    angular = np.empty((4, (l_max + 1) ** 2, BLOCK))
    radial = np.empty((2, nodes.shape[2]))
    change = np.empty((3, moves.rows.shape[1]))
    n_species = moves.strain.shape[1]
    row = 0
    for centre in range(len(atoms)):
        i = atoms[centre]
        first, last = slots.offsets[i], slots.offsets[i + 1]
        place = np.full(last - first, -1, np.int64)
        for a in range(n_species):
            moves.begin[centre, a] = row
            present = False
            for s in range(last - first):
                j = slots.atoms[first + s]
                if pairs.species[j] == a:
                    present = True
                    # Images of the centre itself move along with it.
                    if s > 0 and wanted[0]:
                        place[s] = row
                        for x in range(3):
                            moves.target[row + x] = 3 * j + x
                        row += 3
            moves.strain[centre, a] = row
            if present and wanted[1]:
                for v in range(6):
                    moves.target[row + v] = 6 * structure[i] + v
                row += 6
        moves.begin[centre, n_species] = row
        moves.rows[moves.begin[centre, 0] : row] = 0.0
        p, stop = pairs.offsets[i], pairs.offsets[i + 1]
        while p < stop:
            count, p = gather(tables, pairs.vectors, p, stop, near)
            harmonic_factors(l_max, count, near.u, tables.angular, near.q, near.re, near.im)
            harmonic_gradients(
                l_max, count, tables.angular, near.u, near.r, near.q, near.re, near.im, angular[0], angular[1:]
            )
            for b in range(count):
                radial_slope(inverse_step, nodes, near.r[b], near.w[b], near.dw[b], radial[0], radial[1])
                pair = near.where[b]
                for l in range(l_max + 1):  # noqa: E741
                    for lm in range(l * l, (l + 1) * (l + 1)):
                        for x in range(3):
                            turn, stretch = angular[1 + x, lm, b], near.u[x, b] * angular[0, lm, b]
                            for n in range(n_max):
                                change[x, lm * n_max + n] = (
                                    turn * radial[0, l * n_max + n] + stretch * radial[1, l * n_max + n]
                                )
                to = place[slots.pair[pair]]
                if to >= 0:
                    for x in range(3):
                        for q in range(change.shape[1]):
                            moves.rows[to + x, q] += change[x, q]
                if wanted[1]:
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
def _spread(
    moves: Any, atoms: Any, weights: Any, inner: Any, own: Any, slopes: Any, forces: Any, virial: Any, first: Any
) -> Any:
    """Multiply the derivatives by the densities, inner[lm, a, k, m], with those of the densities, and add up."""
    scale, along = slopes
    n_lm, width = inner.shape[0], inner.shape[3]
    n_max = inner.shape[2] // len(weights)
    mixed = np.empty((n_lm * n_max, width))
    longest = 0
    for centre in range(len(atoms)):
        for a in range(weights.shape[1]):
            longest = max(longest, moves.begin[centre, a + 1] - moves.begin[centre, a])
    product = np.empty((longest, width))
    back = np.empty((3, width))
    for centre in range(len(atoms)):
        i = atoms[centre]
        back[:] = 0.0
        for a in range(weights.shape[1]):
            begin, strain, end = moves.begin[centre, a], moves.strain[centre, a], moves.begin[centre, a + 1]
            if begin == end:
                continue
            _mix_slopes(weights[:, a], inner[:, centre], own[i], scale[centre], along[centre], mixed)
            np.dot(moves.rows[begin:end], mixed, product[: end - begin])
            for r in range(begin, strain):
                to, x = moves.target[r], (r - begin) % 3
                for m in range(width):
                    forces[to, first + m] -= product[r - begin, m]
                    back[x, m] += product[r - begin, m]
            for r in range(strain, end):
                to = moves.target[r]
                for m in range(width):
                    virial[to, first + m] += product[r - begin, m]
        if forces.shape[0] > 0:
            for x in range(3):
                for m in range(width):
                    forces[3 * i + x, first + m] += back[x, m]


@njit(cache=True, fastmath=FASTMATH)
def _mix_slopes(weights: Any, inner: Any, own: Any, scale: Any, along: Any, mixed: Any) -> Any:
    """Fill mixed[lm·n_max + n, m] = Σ_k weights[k] scale[m] (inner[lm, k n, m] - along[m] own[lm, k n])."""
    n_max = inner.shape[1] // len(weights)
    for lm in range(inner.shape[0]):
        for n in range(n_max):
            q = lm * n_max + n
            empty = True
            for channel in range(len(weights)):
                weight = weights[channel]
                if weight == 0.0:
                    continue
                k = channel * n_max + n
                mine = own[lm, k]
                if empty:
                    for m in range(inner.shape[2]):
                        mixed[q, m] = weight * (inner[lm, k, m] - along[m] * mine)
                    empty = False
                else:
                    for m in range(inner.shape[2]):
                        mixed[q, m] += weight * (inner[lm, k, m] - along[m] * mine)
            for m in range(inner.shape[2]):
                mixed[q, m] *= scale[m]
