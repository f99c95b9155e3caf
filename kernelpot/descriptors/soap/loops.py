"""Density coefficients of every atom's neighbourhood, with their transpose, as loops over neighbour pairs in Numba."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from kernelpot.data.batch import Batch
from kernelpot.descriptors.harmonics import FASTMATH, fill, recurrence, values
from kernelpot.descriptors.radial import RadialTable
from kernelpot.run import share

BLOCK = 32
ATOMS_PER_TASK = 32
"""Fewest atoms worth a thread."""


@dataclass(frozen=True, eq=False)
class Expansion:
    """c[i, lm, k·n_max + n] = Σ_j U_ka w(r_ij) R_nl(r_ij) Y_lm(r_ij), summed over the neighbours j, of species a each.

    The centre's own Gaussian is included without a fade; the weight w falls from 1 to 0 as a C² quintic over the last
    `fade` Å. Species are told apart in the loops over pairs and mixed afterwards, once for each atom: mixing inside the
    loops would multiply their work by the number of channels.

    Attributes
    ----------
    table
        Radial functions on nodes.
    l_max, n_max, n_species
        Sizes: angular momenta 0 … l_max, n_max radial functions, species.
    cutoff, fade
        Å.
    mixing
        U; None stands for the identity, one channel for each species.
    """

    table: RadialTable
    l_max: int
    n_max: int
    n_species: int
    cutoff: float
    fade: float
    mixing: Float[np.ndarray, "channels species"] | None = None

    @cached_property
    def weights(self) -> Float[np.ndarray, "channels species"]:
        """U, the identity written out."""
        return np.eye(self.n_species) if self.mixing is None else np.ascontiguousarray(self.mixing)

    @cached_property
    def angular(self) -> Float[np.ndarray, "5 lm"]:
        """Recurrence coefficients of the harmonics."""
        return recurrence(self.l_max)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of one atom's coefficients: (lm, channels · n_max)."""
        return (self.l_max + 1) ** 2, len(self.weights) * self.n_max

    @property
    def settings(self) -> tuple[int, tuple[int, ...], float, float, float]:
        """What the loops take first: l_max, a tuple of length n_max, cutoff, fade, 1/step."""
        # A tuple's length is part of its Numba type: the loops over n compile for this n_max.
        return self.l_max, (0,) * self.n_max, self.cutoff, self.fade, 1.0 / self.table.step

    def expand(self, batch: Batch, species: Int[np.ndarray, " atoms"]) -> Float[np.ndarray, "atoms lm k"]:
        """Return the coefficients of every atom; `species` is each atom's place among the species."""
        engine = (*self.settings, self.table.nodes, self.angular)
        pairs = (batch.vectors, batch.second, batch.pair_offsets, species)
        if self.mixing is None:
            c = np.zeros((batch.n_atoms, *self.shape))
            share(lambda begin, end: _expand(begin, end, *engine, *pairs, 0, c), batch.n_atoms, ATOMS_PER_TASK)
            return c
        mixed = np.empty((batch.n_atoms, *self.shape))

        def task(begin: int, end: int) -> None:
            apart = self._apart(end - begin)
            for start in range(begin, end, ATOMS_PER_TASK):
                stop = min(start + ATOMS_PER_TASK, end)
                apart[:] = 0.0
                _expand(start, stop, *engine, *pairs, start, apart)
                mix(self.weights, self.n_max, apart[: stop - start], mixed[start:stop])

        share(task, batch.n_atoms, ATOMS_PER_TASK)
        return mixed

    def vjp(
        self, batch: Batch, species: Int[np.ndarray, " atoms"], gradient: Float[np.ndarray, "atoms lm k"]
    ) -> Float[np.ndarray, "pairs 3"]:
        """Return dE/dr of every pair vector, given dE/dc of every atom: the transpose of `expand`."""
        result = np.zeros((len(batch.second), 3))
        engine = (*self.settings, self.table.nodes, self.angular)
        pairs = (batch.vectors, batch.second, batch.pair_offsets, species)
        if self.mixing is None:
            share(
                lambda begin, end: _vjp(begin, end, *engine, *pairs, 0, gradient, result), batch.n_atoms, ATOMS_PER_TASK
            )
            return result
        transposed = np.ascontiguousarray(self.weights.T)

        def task(begin: int, end: int) -> None:
            apart = self._apart(end - begin)
            for start in range(begin, end, ATOMS_PER_TASK):
                stop = min(start + ATOMS_PER_TASK, end)
                mix(transposed, self.n_max, gradient[start:stop], apart)
                _vjp(start, stop, *engine, *pairs, start, apart, result)

        share(task, batch.n_atoms, ATOMS_PER_TASK)
        return result

    def _apart(self, n_atoms: int) -> Float[np.ndarray, "atoms lm a"]:
        """Room for coefficients of each species apart, for a few atoms at a time."""
        return np.empty((min(n_atoms, ATOMS_PER_TASK), self.shape[0], self.n_species * self.n_max))


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


@njit(cache=True, fastmath=FASTMATH)
def gather(
    cutoff: Any, fade: Any, vectors: Any, start: Any, stop: Any, u: Any, r: Any, w: Any, dw: Any, where: Any
) -> Any:
    """Collect up to BLOCK pairs inside the cutoff from start on; return how many, and where to go on."""
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
                t = (distance - cutoff) / fade + 1.0
                w[count] = 1.0 - t * t * t * (10.0 - t * (15.0 - 6.0 * t))
                dw[count] = -30.0 * t * t * (1.0 - t) * (1.0 - t) / fade
            where[count] = p
            count += 1
        p += 1
    return count, p


@njit(cache=True, fastmath=FASTMATH)
def _radial(inverse_step: Any, nodes: Any, r: Any, w: Any, value: Any) -> Any:
    """Fill value[column] = w R(r) by quintic Hermite interpolation."""
    x = r * inverse_step
    k = min(int(x), nodes.shape[0] - 2)
    t = x - k
    t2 = t * t
    t3 = t2 * t
    h1 = t3 * (10.0 - t * (15.0 - 6.0 * t))
    g0 = t - t3 * (6.0 - t * (8.0 - 3.0 * t))
    g1 = -t3 * (4.0 - t * (7.0 - 3.0 * t))
    f0 = 0.5 * t2 * (1.0 - t) * (1.0 - t) * (1.0 - t)
    f1 = 0.5 * t3 * (1.0 - t) * (1.0 - t)
    h0, h1, g0, g1, f0, f1 = w * (1.0 - h1), w * h1, w * g0, w * g1, w * f0, w * f1
    a = nodes[k]
    b = nodes[k + 1]
    for q in range(nodes.shape[2]):
        value[q] = h0 * a[0, q] + g0 * a[1, q] + f0 * a[2, q] + h1 * b[0, q] + g1 * b[1, q] + f1 * b[2, q]


@njit(cache=True, fastmath=FASTMATH)
def radial_slope(inverse_step: Any, nodes: Any, r: Any, w: Any, dw: Any, value: Any, slope: Any) -> Any:
    """Fill value[column] = w R(r) and slope[column] = d(w R)/dr."""
    _radial(inverse_step, nodes, r, 1.0, value)
    x = r * inverse_step
    k = min(int(x), nodes.shape[0] - 2)
    t = x - k
    t2 = t * t
    dh = 30.0 * t2 * (1.0 - t) * (1.0 - t)
    dg0 = 1.0 - t2 * (18.0 - t * (32.0 - 15.0 * t))
    dg1 = -t2 * (12.0 - t * (28.0 - 15.0 * t))
    df0 = 0.5 * t * (1.0 - t) * (1.0 - t) * (2.0 - 5.0 * t)
    df1 = 0.5 * t2 * (1.0 - t) * (3.0 - 5.0 * t)
    scale = w * inverse_step
    a = nodes[k]
    b = nodes[k + 1]
    for q in range(nodes.shape[2]):
        raw = dh * (b[0, q] - a[0, q]) + dg0 * a[1, q] + df0 * a[2, q] + dg1 * b[1, q] + df1 * b[2, q]
        slope[q] = scale * raw + dw * value[q]
        value[q] = w * value[q]


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _expand(
    begin: Any,
    end: Any,
    l_max: Any,
    n_tag: Any,
    cutoff: Any,
    fade: Any,
    inverse_step: Any,
    nodes: Any,
    table: Any,
    vectors: Any,
    second: Any,
    offsets: Any,
    species: Any,
    first: Any,
    c: Any,
) -> Any:
    """Add w R_nl Y_lm of every pair of the atoms ``begin:end`` to c, after R_n0(0) Y_00 of the centres themselves.

    c[i - first, lm, a·n_max + n] is for atom i and species a.
    """
    n_max = len(n_tag)
    u, r, w, dw = np.empty((3, BLOCK)), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    where = np.empty(BLOCK, np.int64)
    q = np.empty(((l_max + 1) * (l_max + 2) // 2, BLOCK))
    re, im = np.empty((l_max + 1, BLOCK)), np.empty((l_max + 1, BLOCK))
    y = np.empty(((l_max + 1) ** 2, BLOCK))
    radial = np.empty(nodes.shape[2])
    for i in range(begin, end):
        own = species[i] * n_max
        for n in range(n_max):
            c[i - first, 0, own + n] = nodes[0, 0, n] * table[0, 0]
        p, stop = offsets[i], offsets[i + 1]
        while p < stop:
            count, p = gather(cutoff, fade, vectors, p, stop, u, r, w, dw, where)
            fill(l_max, count, u, table, q, re, im)
            values(l_max, count, q, re, im, y)
            for b in range(count):
                _radial(inverse_step, nodes, r[b], w[b], radial)
                base = species[second[where[b]]] * n_max
                for l in range(l_max + 1):  # noqa: E741
                    for lm in range(l * l, (l + 1) * (l + 1)):
                        weight = y[lm, b]
                        for n in range(n_max):
                            c[i - first, lm, base + n] += weight * radial[l * n_max + n]


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _vjp(
    begin: Any,
    end: Any,
    l_max: Any,
    n_tag: Any,
    cutoff: Any,
    fade: Any,
    inverse_step: Any,
    nodes: Any,
    table: Any,
    vectors: Any,
    second: Any,
    offsets: Any,
    species: Any,
    first: Any,
    gradient: Any,
    result: Any,
) -> Any:
    """Fill result[p] = Σ_nlm gradient[lm, n] ∂(w R_nl Y_lm)/∂r for every pair of the atoms ``begin:end``.

    gradient[i - first, lm, a·n_max + n] is for atom i and species a.
    """
    n_max = len(n_tag)
    columns = nodes.shape[2]
    u, r, w, dw = np.empty((3, BLOCK)), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    where = np.empty(BLOCK, np.int64)
    q = np.empty(((l_max + 1) * (l_max + 2) // 2, BLOCK))
    re, im = np.empty((l_max + 1, BLOCK)), np.empty((l_max + 1, BLOCK))
    radial, slope = np.empty((BLOCK, columns)), np.empty((BLOCK, columns))
    h, dh = np.empty(((l_max + 1) ** 2, BLOCK)), np.empty(((l_max + 1) ** 2, BLOCK))
    g, along = np.empty((3, BLOCK)), np.empty(BLOCK)
    for i in range(begin, end):
        p, stop = offsets[i], offsets[i + 1]
        while p < stop:
            count, p = gather(cutoff, fade, vectors, p, stop, u, r, w, dw, where)
            fill(l_max, count, u, table, q, re, im)
            for b in range(count):
                radial_slope(inverse_step, nodes, r[b], w[b], dw[b], radial[b], slope[b])
                base = species[second[where[b]]] * n_max
                for l in range(l_max + 1):  # noqa: E741
                    for lm in range(l * l, (l + 1) * (l + 1)):
                        total, change = 0.0, 0.0
                        for n in range(n_max):
                            total += gradient[i - first, lm, base + n] * radial[b, l * n_max + n]
                            change += gradient[i - first, lm, base + n] * slope[b, l * n_max + n]
                        h[lm, b] = total
                        dh[lm, b] = change
            _contract(l_max, count, table, u, r, q, re, im, h, dh, g, along)
            for b in range(count):
                for x in range(3):
                    result[where[b], x] = g[x, b] / r[b] + along[b] * u[x, b]


@njit(cache=True, fastmath=FASTMATH)
def _contract(
    l_max: Any, count: Any, table: Any, u: Any, r: Any, q: Any, re: Any, im: Any, h: Any, dh: Any, g: Any, along: Any
) -> Any:
    """Contract h and dh with Y and its gradient; g is the solid-harmonic gradient, `along` what acts along the pair."""
    for b in range(count):
        g[0, b], g[1, b], g[2, b] = 0.0, 0.0, 0.0
        along[b] = dh[0, b] * q[0, b]
    for l in range(1, l_max + 1):  # noqa: E741
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
