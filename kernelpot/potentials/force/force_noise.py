"""Noises of a kernel fit to energies and forces, by its errors on structures that are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from kernelpot.data.labels import Labels
from kernelpot.data.noise import Noise
from kernelpot.errors import ParameterError
from kernelpot.features.force_kernel import DerivativeMap
from kernelpot.potentials.force.force_system import System
from kernelpot.progress import say
from kernelpot.run import count, ordered

if TYPE_CHECKING:
    from ase import Atoms

MOST_LABELS = 6000
"""Labels that noises are compared on: an evaluation takes their number cubed."""

FEWEST = 4
"""Structures below which leaving one out says nothing."""

START = {"energy": 0.0, "forces": 1.5}
"""Where the search begins: exponents of ten over `UNIT`."""

UNIT = 1e-4
"""eV/atom and eV/Å."""

STEP = 0.5
"""Of the exponents."""

LIMITS = (-2.0, 5.0)
"""Least and largest exponent: labels of calculations are no smoother than 1e-6."""

TIE = 0.02
"""Scores that are this close are alike, and the larger noises are taken."""

NEIGHBOURS = 8
"""Of a pair of noises, which are compared side by side."""

ROUNDING = 1e-10
"""Errors never count as smaller, so that their logarithms stay finite."""

Exponents = tuple[float, ...]


def choose_noise(
    maps: Sequence[DerivativeMap],
    structures: Sequence[Atoms],
    labels: Labels,
    kinds: Sequence[str],
    *,
    memory_gb: float = 16.0,
    seed: int = 0,
) -> Noise:
    """Return the noises with the least left-out errors of a part of the structures.

    The sum of the logarithms of the kinds' root mean square errors is lowered on a lattice of half powers of ten, from
    usual noises on, until no neighbour is better. Of noises whose errors are alike the largest are taken, as smaller
    ones would make the model surer of itself than the errors warrant.
    """
    sizes = np.zeros(len(labels), dtype=np.int64)
    for kind in kinds:
        sizes += labels.present(kind) * (1 if kind == "energy" else 3 * labels.n_atoms)
    usable = np.flatnonzero(sizes > 0)
    if len(usable) < FEWEST:
        raise ParameterError(
            f'`noise="cv"` needs at least {FEWEST} structures with labels, found {len(usable)}; give a Noise.'
        )
    order = usable[np.random.default_rng(seed).permutation(len(usable))]
    most = int(np.searchsorted(np.cumsum(sizes[order]), most_labels(memory_gb), side="right"))
    part = sorted(order[: max(FEWEST, most)].tolist())
    system = System.of(maps, [structures[k] for k in part], labels.take(part), kinds)

    def score(point: Exponents) -> float:
        try:
            found = system.left_out(_noise(kinds, point))
        except np.linalg.LinAlgError:
            return np.inf
        return sum(float(np.log(max(float(left.rmse), ROUNDING))) for left in found.values() if len(left))

    best, value, n = descend(score, tuple(START[kind] for kind in kinds), TIE)
    if not np.isfinite(value):
        raise ParameterError(
            f"the covariance of the labels is singular to round-off with every noise up to {_noise(kinds, best)}; "
            "lower the kernel's amplitude, or give `noise`."
        )
    noise = _noise(kinds, best)
    say(f"cv: noise {noise}, the best of {n} tried by leaving out each of {len(part)} structures")
    return noise


def descend(score: Callable[[Exponents], float], start: Exponents, tie: float = 0.0) -> tuple[Exponents, float, int]:
    """Walk to the lowest neighbour on a lattice until there is none; return place, score, and places looked at.

    Of all places looked at whose score exceeds the lowest by no more than `tie`, that with the largest sum is taken.
    """
    known: dict[Exponents, float] = {start: score(start)}
    here = start
    while True:
        moves = product((-STEP, 0.0, STEP), repeat=len(start))
        places = [tuple(a + b for a, b in zip(here, move, strict=True)) for move in moves]
        new = [p for p in places if p not in known and all(LIMITS[0] <= a <= LIMITS[1] for a in p)]
        known |= zip(new, ordered(score, new), strict=True)
        best = min(known, key=lambda place: known[place])
        if not np.isfinite(known[best]):
            # Where noises are too small for round-off, larger ones are not.
            best = tuple(min(a + STEP, LIMITS[1]) for a in here)
        if best == here:
            break
        here = best
    lowest = known[here]
    if np.isfinite(lowest):
        here = max((place for place in known if known[place] <= lowest + tie), key=lambda p: (sum(p), -known[p]))
    return here, known[here], len(known)


def most_labels(memory_gb: float) -> int:
    """Return how many labels there is time and memory for: the prior, and a factor of every pair at a time.

    The fewest structures that can be compared may take more.
    """
    matrices = 1 + min(count(), NEIGHBOURS)
    return min(MOST_LABELS, int(np.sqrt(memory_gb * 1e9 / (8.0 * matrices))))


def _noise(kinds: Sequence[str], point: Exponents) -> Noise:
    given = {kind: UNIT * 10.0**exponent for kind, exponent in zip(kinds, point, strict=True)}
    return Noise(energy=given.get("energy"), forces=given.get("forces"))
