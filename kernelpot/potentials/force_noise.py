"""Noises of a kernel fit to energies and forces, by its errors on structures that are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_solve, lapack

from kernelpot.data.labels import Labels
from kernelpot.data.noise import Noise
from kernelpot.errors import ParameterError
from kernelpot.features.derivative_map import DerivativeMap
from kernelpot.linalg.dense import Triangle, factorise
from kernelpot.potentials.force_system import Plan, System
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


@dataclass(frozen=True, eq=False)
class LeftOut:
    """A small system whose every structure can be left out.

    Attributes
    ----------
    prior
        Covariance of the labels without noise.
    system
        Targets and noises.
    rows
        Rows of each structure that has any, with its number of atoms and how many of the rows are energies.
    """

    prior: Float[np.ndarray, "n n"]
    system: System
    rows: list[tuple[Int[np.ndarray, " own"], int, int]]

    @classmethod
    def of(cls, system: System) -> LeftOut:
        """Make the covariance whole."""
        n, layout = system.layout.n_rows, system.layout
        prior = np.zeros((n, n))
        system.fill(Triangle.within(prior))
        prior = np.tril(prior) + np.tril(prior, -1).T
        rows = []
        for s, atoms in enumerate(system.composition.sum(axis=1).astype(int).tolist()):
            energy = [int(layout.energy[s])] if layout.energy[s] >= 0 else []
            forces = np.arange(n)[layout.force_rows(s)] if layout.forces[s] >= 0 else np.zeros(0, dtype=np.int64)
            if energy or len(forces):
                rows.append((np.concatenate([np.array(energy, dtype=np.int64), forces]), atoms, len(energy)))
        return cls(prior, system, rows)

    def errors(self, noise: Noise) -> dict[str, Float[np.ndarray, " labels"]]:
        """Return errors of the labels of each structure given all others: energies per atom, and force components.

        With C = K + Λ they are (C⁻¹_ss)⁻¹ (C⁻¹ y)_s for the rows s of a structure (Rasmussen and Williams (2006), eq.
        5.12, in blocks).

        Raises
        ------
        numpy.linalg.LinAlgError
            C is not positive definite to round-off.
        """
        lower = self.prior.copy()
        lower[np.diag_indices(len(lower))] += self.system.variance(noise)
        factorise(lower)
        alpha = cho_solve((lower.T, False), self.system.targets, check_finite=False)
        inverse = lapack.dpotri(lower.T, lower=0, overwrite_c=1)[0].T
        energies, forces = [], []
        for own, atoms, n_energies in self.rows:
            block = np.tril(inverse[np.ix_(own, own)])
            error = np.linalg.solve(block + np.tril(block, -1).T, alpha[own])
            energies.append(error[:n_energies] / atoms)
            forces.append(error[n_energies:])
        return {"energy": np.concatenate(energies), "forces": np.concatenate(forces)}


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

    Parameters
    ----------
    maps
        Terms of the local energy.
    structures, labels
        Structures with their labels, in one order.
    kinds
        Those that become labels.
    memory_gb
        Most memory for the covariances of the part, 10⁹ bytes; only the fewest structures that can be compared may take
        more.
    seed
        Of the part's draw.

    Raises
    ------
    ParameterError
        There are too few structures, or every noise leaves the covariance singular.
    """
    part = _part(labels, kinds, most_labels(memory_gb), seed)
    chosen, few = [structures[k] for k in part], labels.take(part)
    left_out = LeftOut.of(System.of(maps, chosen, few, Plan.of(chosen, few, kinds, maps[0].species)))

    def score(point: Exponents) -> float:
        try:
            found = left_out.errors(_noise(kinds, point))
        except np.linalg.LinAlgError:
            return np.inf
        return sum(float(np.log(max(np.sqrt(np.mean(e**2)), ROUNDING))) for e in found.values() if len(e))

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
    """Walk to the lowest neighbour on a lattice until there is none.

    Parameters
    ----------
    score
        To minimise.
    start
        Where to begin.
    tie
        Of all places looked at whose score exceeds the lowest by no more, that with the largest sum is taken.

    Returns
    -------
    tuple
        Place, score, and how many places were looked at.
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
    """Return how many labels there is time and memory for: the prior, and a factor of every pair at a time."""
    matrices = 1 + min(count(), NEIGHBOURS)
    return min(MOST_LABELS, int(np.sqrt(memory_gb * 1e9 / (8.0 * matrices))))


def _part(labels: Labels, kinds: Sequence[str], most: int, seed: int) -> list[int]:
    """Draw structures with labels until these are enough."""
    sizes = np.zeros(len(labels), dtype=np.int64)
    for kind in kinds:
        sizes += labels.present(kind) * (1 if kind == "energy" else 3 * labels.n_atoms)
    usable = np.flatnonzero(sizes > 0)
    if len(usable) < FEWEST:
        raise ParameterError(
            f'`noise="cv"` needs at least {FEWEST} structures with labels, found {len(usable)}; give a Noise.'
        )
    order = usable[np.random.default_rng(seed).permutation(len(usable))]
    n = max(FEWEST, int(np.searchsorted(np.cumsum(sizes[order]), most, side="right")))
    return sorted(order[:n].tolist())


def _noise(kinds: Sequence[str], point: Exponents) -> Noise:
    given = {kind: UNIT * 10.0**exponent for kind, exponent in zip(kinds, point, strict=True)}
    return Noise(energy=given.get("energy"), forces=given.get("forces"))
