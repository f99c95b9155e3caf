"""What the compiled loops of all descriptors share: pairs, harmonics, steps of tables, the atoms that move a centre."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, pi, sqrt
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from kernelpot.data.batch import Batch
from kernelpot.descriptors.protocol import Displacements
from kernelpot.descriptors.radial import fall, hermite, hermite_slope
from kernelpot.run import share

FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

fall_weights = njit(cache=True, fastmath=FASTMATH, inline="always")(fall)
hermite_weights = njit(cache=True, fastmath=FASTMATH, inline="always")(hermite)
hermite_slopes = njit(cache=True, fastmath=FASTMATH, inline="always")(hermite_slope)


# Numba's caches on disk hold named tuples by module and name, and fail where one is gone before they see that the file
# has changed: who renames one renames the loops that take it as well.


class Pairs(NamedTuple):
    """What loops over neighbours read of a batch; `species` is each atom's place among the species."""

    vectors: Float[np.ndarray, "pairs 3"]
    second: Int[np.ndarray, " pairs"]
    offsets: Int[np.ndarray, " atoms_plus_1"]
    species: Int[np.ndarray, " atoms"]

    @classmethod
    def of(cls, batch: Batch, species: Int[np.ndarray, " atoms"]) -> Pairs:
        """Take them from a batch."""
        return cls(batch.vectors, batch.second, batch.pair_offsets, species)


class Slots(NamedTuple):
    """The distinct atoms of every centre's list: slot 0 is the centre itself, images of one atom share a slot.

    Slot s of centre i is atom ``atoms[offsets[i] + s]``; `pair` is the slot of each pair.
    """

    pair: Int[np.ndarray, " pairs"]
    offsets: Int[np.ndarray, " atoms_plus_1"]
    atoms: Int[np.ndarray, " slots"]

    @classmethod
    def of(cls, batch: Batch) -> Slots:
        """Find them in a batch."""
        return cls(*_slots(batch.pair_offsets, batch.second, batch.n_atoms))

    def displacements(
        self, start: int, stop: int, n_features: int, fill: Callable[..., None], grain: int
    ) -> Displacements:
        """Make room for the derivatives of centres ``start:stop``; ``fill(begin, end, rows, virial)`` writes them.

        Its centres ``begin:end`` are counted from start, and so is `virial`; `rows` has one place for each slot.
        """
        a, b = int(self.offsets[start]), int(self.offsets[stop])
        rows, virial = np.empty((b - a, 3, n_features)), np.empty((stop - start, 6, n_features))
        share(lambda begin, end: fill(begin, end, rows, virial), stop - start, grain)
        centre = np.repeat(np.arange(stop - start), np.diff(self.offsets[start : stop + 1]))
        return Displacements(rows, centre, self.atoms[a:b], virial)


@njit(cache=True)
def _slots(offsets: Any, second: Any, n_atoms: Any) -> Any:
    slot = np.empty(len(second), np.int64)
    slot_offsets = np.zeros(n_atoms + 1, np.int64)
    atoms = np.empty(len(second) + n_atoms, np.int64)
    seen = np.full(n_atoms, -1, np.int64)
    number = np.zeros(n_atoms, np.int64)
    for i in range(n_atoms):
        begin = slot_offsets[i]
        atoms[begin] = i
        seen[i] = i
        number[i] = 0
        count = 1
        for p in range(offsets[i], offsets[i + 1]):
            j = second[p]
            if seen[j] != i:
                seen[j] = i
                number[j] = count
                atoms[begin + count] = j
                count += 1
            slot[p] = number[j]
        slot_offsets[i + 1] = begin + count
    return slot, slot_offsets, atoms[: slot_offsets[n_atoms]]


def recurrence(l_max: int) -> Float[np.ndarray, "5 lm"]:
    """Coefficients of the recurrences in l for the normalised z-part Q_lm of Y_lm = Q_lm(z) · Re/Im (x + iy)^m.

    Row 0: Q_mm on the diagonal. Rows 1 and 2: Q_lm = A z Q_{l-1,m} - B Q_{l-2,m}. Row 3: ∂Q_lm/∂z = D Q_{l-1,m}.
    Row 4: ∂Q_lm/∂x = -E x Q_{l-1,m+1}, likewise y. Column of (l, m ≥ 0) is l(l+1)/2 + m. The recurrences are those of
    Bigi et al., J. Chem. Phys. 159, 064802 (2023), eqs. 6-11, with the normalisation folded in and without the
    Condon-Shortley phase.
    """

    def norm(l: int, m: int) -> float:  # noqa: E741
        return sqrt((2 * l + 1) / (4 * pi) * factorial(l - m) / factorial(l + m) * (2 if m else 1))

    table = np.zeros((5, (l_max + 1) * (l_max + 2) // 2))
    for l in range(l_max + 1):  # noqa: E741
        for m in range(l + 1):
            k = l * (l + 1) // 2 + m
            if m == l:
                table[0, k] = norm(l, l) * np.prod(np.arange(1, 2 * l, 2, dtype=float))
            else:
                table[1, k] = (2 * l - 1) / (l - m) * norm(l, m) / norm(l - 1, m)
                table[3, k] = (l + m) * norm(l, m) / norm(l - 1, m)
            if m <= l - 2:
                table[2, k] = (l + m - 1) / (l - m) * norm(l, m) / norm(l - 2, m)
                table[4, k] = norm(l, m) / norm(l - 1, m + 1)
    return table


@njit(cache=True, fastmath=FASTMATH)
def harmonic_factors(l_max: Any, count: Any, u: Any, table: Any, q: Any, c: Any, s: Any) -> Any:
    """Fill q[(l, m), p], c[m, p] and s[m, p] for the unit vectors u[:, p] of `count` pairs."""
    for p in range(count):
        c[0, p] = 1.0
        s[0, p] = 0.0
    for m in range(1, l_max + 1):
        for p in range(count):
            c[m, p] = u[0, p] * c[m - 1, p] - u[1, p] * s[m - 1, p]
            s[m, p] = u[0, p] * s[m - 1, p] + u[1, p] * c[m - 1, p]
    for m in range(l_max + 1):
        k = m * (m + 1) // 2 + m
        diagonal = table[0, k]
        for p in range(count):
            q[k, p] = diagonal
        if m < l_max:
            k1 = k + m + 1
            a1 = table[1, k1]
            for p in range(count):
                q[k1, p] = a1 * u[2, p] * diagonal
        for l in range(m + 2, l_max + 1):  # noqa: E741
            k2 = l * (l + 1) // 2 + m
            k1 = k2 - l
            k0 = k1 - l + 1
            a = table[1, k2]
            b = table[2, k2]
            for p in range(count):
                q[k2, p] = a * u[2, p] * q[k1, p] - b * q[k0, p]


@njit(cache=True, fastmath=FASTMATH)
def harmonics(l_max: Any, count: Any, q: Any, c: Any, s: Any, y: Any) -> Any:
    """Fill y[lm, p], lm = l² + l + m, from the factors that `harmonic_factors` left."""
    for l in range(l_max + 1):  # noqa: E741
        k = l * (l + 1) // 2
        lm = l * l + l
        for p in range(count):
            y[lm, p] = q[k, p]
        for m in range(1, l + 1):
            for p in range(count):
                y[lm + m, p] = q[k + m, p] * c[m, p]
                y[lm - m, p] = q[k + m, p] * s[m, p]


@njit(cache=True, fastmath=FASTMATH)
def harmonic_gradients(
    l_max: Any, count: Any, table: Any, u: Any, r: Any, q: Any, re: Any, im: Any, y: Any, dy: Any
) -> Any:
    """Fill y[lm, b] and dy[x, lm, b] = ∂Y_lm/∂r of each pair (Å⁻¹)."""
    for l in range(l_max + 1):  # noqa: E741
        row = l * (l + 1) // 2
        lower = row - l
        for m in range(l + 1):
            k = row + m
            d = table[3, k] if m < l else 0.0
            e = table[4, k] if m < l - 1 else 0.0
            below = lower + m if m < l else 0
            beside = lower + m + 1 if m < l - 1 else 0
            for sign in range(-1 if m else 1, 2, 2):
                lm = l * l + l + sign * m
                for b in range(count):
                    f = re[m, b] if sign > 0 else im[m, b]
                    fx, fy = 0.0, 0.0
                    if m:
                        fx = m * (re[m - 1, b] if sign > 0 else im[m - 1, b])
                        fy = m * (-im[m - 1, b] if sign > 0 else re[m - 1, b])
                    value = q[k, b] * f
                    side = e * q[beside, b] * f
                    y[lm, b] = value
                    dy[0, lm, b] = (q[k, b] * fx - (side + l * value) * u[0, b]) / r[b]
                    dy[1, lm, b] = (q[k, b] * fy - (side + l * value) * u[1, b]) / r[b]
                    dy[2, lm, b] = (d * q[below, b] * f - l * value * u[2, b]) / r[b]
