"""Screened repulsion of nuclei, for distances that training data do not reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from numba import njit

from kernelpot.data.batch import Batch
from kernelpot.data.check import HEAVIEST
from kernelpot.errors import ParameterError
from kernelpot.features.vectors import gather_pairs
from kernelpot.potentials.prediction import Mean
from kernelpot.record import Field, Record, Rule

COULOMB = 14.399645478425668
"""e²/4πε₀, eV Å (CODATA 2018)."""

SCREENING = 0.46850
"""0.88534 Bohr radii, Å: the length a is this over Z_i^0.23 + Z_j^0.23."""

INNER, OUTER = 0.0, 1.25
"""Where the repulsion begins to fade and where it is gone, in sums of the two atoms' covalent radii.

By the held-out errors of fits to small parts of seven training sets (``python -m benchmarks baseline``).
"""

LONGEST = 20.0
"""Å; nothing of the repulsion is left there, and lists of neighbours become very long."""

_KNOWN = 96
"""Heaviest element with a covalent radius (Cordero et al. 2008)."""

FAST = {"reassoc", "contract", "arcp", "nsz"}


def _distances(of: str, given: object) -> tuple[float, float]:
    """Check inner and outer distance."""
    try:
        inner, outer = (float(value) for value in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        inner = outer = math.nan
    if not 0.0 <= inner < outer <= LONGEST:
        raise ParameterError(
            f"`inner` and `outer` of {of} must be in Å with 0 <= inner < outer <= {LONGEST:g}, got {given!r}; "
            "0 and 1.25 bond lengths are sound."
        )
    return inner, outer


class ElementPairs(Rule):
    """Distances (inner, outer) by pairs of elements, each named once, in order of their atomic numbers."""

    def read(self, value: Any, field: Field) -> dict[tuple[str, str], tuple[float, float]]:  # noqa: ARG002
        """Return a table, sorted in each name."""
        from ase.data import atomic_numbers

        if not isinstance(value, Mapping):
            raise ParameterError(
                f'`pairs` must map pairs of elements to distances, such as {{("Si", "O"): (0.5, 1.1)}}, got {value!r}.'
            )
        result: dict[tuple[str, str], tuple[float, float]] = {}
        for names, given in value.items():
            known = isinstance(names, tuple | list) and len(names) == 2
            known = known and all(isinstance(name, str) and atomic_numbers.get(name, 0) > 0 for name in names)
            if not known:
                raise ParameterError(f'`pairs` must name two elements each, such as ("Si", "O"), got {names!r}.')
            a, b = sorted(names, key=lambda name: atomic_numbers[name])
            if (a, b) in result:
                raise ParameterError(f"`pairs` must name each pair once, got {a}-{b} twice.")
            result[a, b] = _distances(f"{a}-{b}", given)
        return result

    def write(self, value: Any) -> list[Any]:
        """Return a row for each pair."""
        return [[*names, *distances] for names, distances in value.items()]

    def back(self, stored: Any) -> dict[tuple[str, str], tuple[float, float]]:
        """Return the table."""
        return {(a, b): (inner, outer) for a, b, inner, outer in stored}


@dataclass(frozen=True)
class ZBL(Record):
    """Universal screened repulsion of nuclei: a baseline that keeps atoms apart where no label says so.

    V(r) = S(r) · e²/4πε₀ · Z_i Z_j/r · φ(r/a), a = 0.4685 Å/(Z_i^0.23 + Z_j^0.23), φ(x) = 0.18175 e^(-3.1998 x) +
    0.50986 e^(-0.94229 x) + 0.28022 e^(-0.4029 x) + 0.02817 e^(-0.20162 x) (Ziegler, Biersack and Littmark, The
    Stopping and Range of Ions in Matter (1985), chapter 2). S is 1 up to `inner`, 0 from `outer` on and between them
    the quintic polynomial whose first two derivatives vanish at both ends. Each atom has half the energy of its pairs.

    Parameters
    ----------
    inner, outer
        Distances for all pairs of elements, Å; both or neither. None: 0 and 1.25 sums of the two atoms' covalent radii
        (Cordero et al. (2008)), so that the repulsion fades slowly, from the nuclei to beyond the bond.
    pairs
        Distances (inner, outer), Å, of some pairs of elements in place of these, such as
        ``{("Si", "Si"): (0.7, 1.4)}``.

    Raises
    ------
    ParameterError
        A distance breaks its rule, or a pair is unknown.
    """

    inner: Annotated[float | None, Rule(), "Å"] = None
    outer: Annotated[float | None, Rule(), "Å"] = None
    pairs: Annotated[Mapping[tuple[str, str], tuple[float, float]], ElementPairs()] = field(
        default_factory=dict, hash=False
    )

    def check(self) -> None:
        """Refuse one distance without the other, and those that are none."""
        if (self.inner is None) != (self.outer is None):
            raise ParameterError(
                f"`inner` and `outer` belong together, got {self.inner!r} and {self.outer!r}; give both or neither."
            )
        if self.inner is not None and self.outer is not None:
            for name, value in zip(("inner", "outer"), _distances("all pairs", (self.inner, self.outer)), strict=True):
                object.__setattr__(self, name, value)

    # ---- what a baseline has to offer

    def reach(self, species: Sequence[int]) -> float:
        """Return the largest outer distance among these elements, Å."""
        z = np.asarray(species, dtype=np.int64)
        longest = float(self._tables[1][z[:, None], z].max())
        # Not a number where an element has no radius, which `distances` names.
        return longest if math.isfinite(longest) else max(outer for _, outer in self.distances(species).values())

    def evaluate(self, batch: Batch, *, names: Sequence[str] | None = None) -> Mean:  # noqa: ARG002
        """Return energies, forces and stresses.

        Raises
        ------
        ParameterError
            The batch's pairs do not reach as far as the repulsion does, or an element has no covalent radius.
        """
        needed = self.reach(np.unique(batch.numbers).tolist())
        if batch.cutoff < needed:
            raise ParameterError(
                f"the pairs of a batch must reach as far as the ZBL baseline, {needed:.4g} Å, found a cutoff of "
                f"{batch.cutoff:.4g} Å; make the batch with the model's `cutoff_`."
            )
        inner, outer, screening = self._tables
        energy, gradient = np.zeros(batch.n_atoms), np.empty((len(batch.first), 3))
        _repel(batch.vectors, batch.first, batch.second, batch.numbers, inner, outer, screening, energy, gradient)
        forces, stress = gather_pairs(batch, gradient)
        return Mean(batch.sum_per_structure(energy), energy, forces, stress)

    def describe(self, species: Sequence[int]) -> str:
        """Name it with the distances of these elements."""
        given = [f"{a}-{b} {i:.2f} to {o:.2f} Å" for (a, b), (i, o) in self.distances(species).items()]
        return f"ZBL, fading over {', '.join(given)}"

    # ---- distances

    def distances(self, species: Sequence[int]) -> dict[tuple[str, str], tuple[float, float]]:
        """Return inner and outer distance of each pair of these elements, Å.

        Raises
        ------
        ParameterError
            No distances were given for an element that has no covalent radius.
        """
        from ase.data import chemical_symbols

        inner, outer, _ = self._tables
        result = {}
        for a, b in combinations_with_replacement(sorted({int(z) for z in species}), 2):
            names = (chemical_symbols[a], chemical_symbols[b])
            if not np.isfinite(outer[a, b]):
                raise ParameterError(
                    f"ZBL has no distances for the pair {names[0]}-{names[1]}, as elements beyond Cm have no covalent "
                    f"radius; give them with pairs={{{names!r}: (inner, outer)}}."
                )
            result[names] = (float(inner[a, b]), float(outer[a, b]))
        return result

    @cached_property
    def _tables(self) -> tuple[Float[np.ndarray, "z z"], Float[np.ndarray, "z z"], Float[np.ndarray, "z z"]]:
        """Inner and outer distance and screening length, Å, by two atomic numbers."""
        from ase.data import atomic_numbers, covalent_radii

        z = np.arange(HEAVIEST + 1, dtype=float)
        screening = SCREENING / np.maximum(z[:, None] ** 0.23 + z**0.23, 1.0)
        if self.inner is not None and self.outer is not None:
            inner, outer = np.full_like(screening, self.inner), np.full_like(screening, self.outer)
        else:
            radii = np.where((z >= 1) & (z <= _KNOWN), covalent_radii[: HEAVIEST + 1], np.nan)
            inner, outer = (share * (radii[:, None] + radii) for share in (INNER, OUTER))
        for names, distances in self.pairs.items():
            a, b = (atomic_numbers[name] for name in names)
            inner[[a, b], [b, a]], outer[[a, b], [b, a]] = distances
        return inner, outer, screening


@njit(cache=True, nogil=True, fastmath=FAST)
def _repel(
    vectors: Any, first: Any, second: Any, numbers: Any, inner: Any, outer: Any, screening: Any, energy: Any, out: Any
) -> Any:
    """Add half of every pair's energy to its first atom, and write d(that half)/d(pair vector)."""
    for p in range(len(first)):
        i, j = numbers[first[p]], numbers[second[p]]
        x, y, z = vectors[p, 0], vectors[p, 1], vectors[p, 2]
        r = math.sqrt(x * x + y * y + z * z)
        if r >= outer[i, j]:
            out[p, 0] = out[p, 1] = out[p, 2] = 0.0
            continue
        s = r / screening[i, j]
        a, b = 0.18175 * math.exp(-3.19980 * s), 0.50986 * math.exp(-0.94229 * s)
        c, d = 0.28022 * math.exp(-0.40290 * s), 0.02817 * math.exp(-0.20162 * s)
        bare = 0.5 * COULOMB * i * j / r
        value = bare * (a + b + c + d)
        slope = -value / r - bare * (3.19980 * a + 0.94229 * b + 0.40290 * c + 0.20162 * d) / screening[i, j]
        if r > inner[i, j]:
            width = outer[i, j] - inner[i, j]
            t = (r - inner[i, j]) / width
            switch = 1.0 - t * t * t * (10.0 - 15.0 * t + 6.0 * t * t)
            slope = slope * switch - value * 30.0 * t * t * (1.0 - t) * (1.0 - t) / width
            value *= switch
        energy[first[p]] += value
        scale = slope / r
        out[p, 0], out[p, 1], out[p, 2] = scale * x, scale * y, scale * z
