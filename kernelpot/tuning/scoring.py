"""One candidate, fitted to a part of the training set and scored by what it left out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, TypedDict

import numpy as np
from jaxtyping import Int
from scipy.linalg import LinAlgError

from kernelpot.data.batch import Batch
from kernelpot.data.labels import Labels, resolve
from kernelpot.data.noise import KINDS
from kernelpot.data.stream import chunks, species_of
from kernelpot.errors import KernelpotError, ParameterError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.inducing import mean_vectors
from kernelpot.features.vectors import gather_pairs
from kernelpot.linalg.subsets import alike, equal_vectors, folds
from kernelpot.potentials.fitting import judged
from kernelpot.potentials.noise_search import ROUNDING
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.potentials.terms import composition_groups
from kernelpot.progress import shown
from kernelpot.record import OneOf, Record, Whole
from kernelpot.tuning.halving import Settings, Trial

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.descriptors.protocol import Descriptor


SHARES = (0.25, 0.5, 1.0)
"""Share of the structures on each rung."""

INDUCING_SHARES = (0.5, 0.75, 1.0)
"""Share of the inducing environments on each rung.

They cost little, and too few mislead: over twelve settings on mlearn Si, the rank correlation of the loss of 54
structures with that of all 214 (300 environments) is 0.64 with 300, 0.57 with 150, and -0.03 with 75.
"""

STILL = 1e-6
"""RMS of forces (eV/Å) or stresses (eV/Å³) below which they are zero by symmetry and score nothing."""

TIMED_ATOMS = 400
"""Atoms, about, on which prediction is timed."""

COST_POWER = 0.7
"""Guessed growth of a fit's time with the number of inducing environments."""

FEWEST = 40
"""Structures of the smallest part, where there are as many: fewer rank settings by chance."""


@dataclass(frozen=True, eq=False)
class Parts:
    """A training set with the order in which its units join."""

    # What stays together, and counts as one witness: duplicates, and what resembles each other most
    unit: Int[np.ndarray, " structures"]
    family: Int[np.ndarray, " structures"]  # `config_type` of each structure, as a number
    families: tuple[str, ...]  # Their names; "" where there is none
    order: Int[np.ndarray, " units"]  # Units, in the order of joining

    @classmethod
    def of(cls, structures: Sequence[Atoms], descriptor: Descriptor, *, n_folds: int, seed: int) -> Parts:
        """Find by a descriptor what stays together for so many folds, and shuffle it within families."""
        if descriptor.species is None:
            descriptor = descriptor.with_species(species_of(structures))
        n_atoms = np.array([len(atoms) for atoms in structures])
        means = mean_vectors(descriptor, structures)
        same = equal_vectors(means, n_atoms)
        unit = alike(means, same, min(n_folds, int(same.max()) + 1))
        names, family = np.unique([str(atoms.info.get("config_type", "")) for atoms in structures], return_inverse=True)
        return cls(unit, family, tuple(str(name) for name in names), joining(unit, family, seed))

    def members(self, n: int) -> Int[np.ndarray, " members"]:
        """Return the structures of the first units that hold at least n structures, or of all."""
        sizes = np.bincount(self.unit)[self.order]
        count = min(len(sizes), int(np.searchsorted(np.cumsum(sizes), n)) + 1)
        result: np.ndarray = np.flatnonzero(np.isin(self.unit, self.order[:count]))
        return result

    def folds(self, members: Int[np.ndarray, " members"], n_folds: int, *, seed: int) -> Int[np.ndarray, " members"]:
        """Assign members to folds of whole units."""
        units = np.unique(self.unit[members], return_inverse=True)[1]
        return folds(units, min(n_folds, int(units.max()) + 1), seed=seed)

    def families_out(self, members: Int[np.ndarray, " members"]) -> Int[np.ndarray, " members"]:
        """Assign members to folds of one family each."""
        names, fold = np.unique(self.family[members], return_inverse=True)
        if len(names) < 2:
            raise ParameterError(
                '`objective="groups"` needs at least two groups of structures, named in `atoms.info["config_type"]`, '
                f'got {self.families[0]!r} alone; use "cv".'
            )
        result: np.ndarray = fold
        return result


def joining(
    unit: Int[np.ndarray, " structures"], family: Int[np.ndarray, " structures"], seed: int
) -> Int[np.ndarray, " units"]:
    """Order units so that every stretch from the start holds each family in proportion, at least once."""
    units, first = np.unique(unit, return_index=True)
    shuffled = np.random.default_rng(seed).permutation(len(units))
    of_family = family[first][shuffled]
    rank = np.empty(len(units))
    for f in np.unique(of_family):
        mine = np.flatnonzero(of_family == f)
        rank[mine] = np.arange(len(mine)) / len(mine)
    result: np.ndarray = units[shuffled[np.argsort(rank, kind="stable")]]
    return result


class FitOptions(TypedDict, total=False):
    """How `tune` may be told to order, fit and score candidates."""

    objective: str
    n_inducing: int
    max_inducing: int
    n_folds: int
    order: str
    folds: Sequence[int] | Sequence[str] | None
    after: float


@dataclass(frozen=True)
class HowToFit(Record):
    """How candidates are fitted and scored: names of labels, what makes everything repeatable, and `FitOptions`."""

    keys: Mapping[str, str | None] | None
    seed: Annotated[int, Whole()]
    objective: Annotated[str, OneOf(("cv", "groups", "both"))] = "cv"
    n_inducing: Annotated[int, Whole(1)] = 500  # on the last rung, where settings do not say
    max_inducing: Annotated[int, Whole(1)] = 2000  # beyond the last rung
    n_folds: Annotated[int, Whole(2)] = 8
    order: Annotated[str, OneOf(("even", "descent"))] = "even"
    folds: Sequence[int] | Sequence[str] | None = None  # What each structure is left out with
    after: float = 0.0  # Fits like the last that time is kept for

    def check(self) -> None:
        """Compare the two numbers of inducing environments."""
        if self.max_inducing < self.n_inducing:
            raise ParameterError(
                f"`max_inducing` must be at least `n_inducing`, {self.n_inducing}, got {self.max_inducing}."
            )


@dataclass(frozen=True, eq=False)
class Scorer:
    """Fits candidates on rungs, each of more structures and inducing environments than the one below."""

    structures: Sequence[Atoms]  # The training set
    parts: Parts  # Its units
    kinds: tuple[str, ...]  # Kinds of labels that count
    build: Callable[[Settings], SparseGP]  # Makes an unfitted model of settings and n_inducing
    how: HowToFit  # How that is fitted and scored

    @cached_property
    def rungs(self) -> list[tuple[Int[np.ndarray, " members"], Int[np.ndarray, " members"]]]:
        """Members of each rung with their folds."""
        n = len(self.structures)
        parts = [self.parts.members(max(math.ceil(share * n), min(n, FEWEST))) for share in SHARES]
        if self.how.objective == "groups":
            return [(members, self.parts.families_out(members)) for members in parts]
        return [(members, self._frames_out(members)) for members in parts]

    def _frames_out(self, members: Int[np.ndarray, " members"]) -> Int[np.ndarray, " members"]:
        """Return folds of members: those that were given, where a part holds at least two of them."""
        if self.how.folds is not None:
            names, fold = np.unique(np.asarray(self.how.folds)[members], return_inverse=True)
            if len(names) > 1:
                return fold.astype(np.int64)
        return self.parts.folds(members, self.how.n_folds, seed=self.how.seed)

    @cached_property
    def beyond(self) -> list[Int[np.ndarray, " members"] | None]:
        """Compositions or groups that are left out on each rung; None where there are too few, or they do not count."""
        if self.how.objective != "both":
            return [None] * len(self.rungs)
        return [composition_groups(some, species_of(some)) for some in map(self._some, range(len(self.rungs)))]

    def _some(self, rung: int) -> list[Atoms]:
        return [self.structures[k] for k in self.rungs[rung][0]]

    @property
    def costs(self) -> list[float]:
        """Guessed cost of a fit on each rung."""
        sizes = [len(members) for members, _ in self.rungs]
        return [n * share**COST_POWER for n, share in zip(sizes, INDUCING_SHARES, strict=True)]

    def inducing(self, settings: Settings, rung: int) -> int:
        """Return the limit of inducing environments on a rung; beyond the last it doubles with each."""
        most = int(settings.get("n_inducing", self.how.n_inducing))
        fewest = min(most, 50 * len({int(z) for atoms in self.structures for z in atoms.numbers}))
        if rung >= len(SHARES):
            return int(min(most * 2 ** (rung - len(SHARES) + 1), max(most, self.how.max_inducing)))
        return max(fewest, round(INDUCING_SHARES[rung] * most))

    def __call__(self, settings: Settings, rung: int) -> Trial:
        """Fit and score a candidate; a fit that fails is a trial of infinite loss."""
        place = min(rung, len(SHARES) - 1)
        some, fold, beyond = self._some(place), self.rungs[place][1], self.beyond[place]
        ways = [fold] if beyond is None else [fold, beyond]
        limit = self.inducing(settings, rung)
        start = time.perf_counter()
        try:
            with shown(enabled=False):
                model = self.build({**settings, "n_inducing": limit})
                features, scores = judged(model, some, resolve(some, self.how.keys), ways)
                speed = self._microseconds(features, some)
        except (KernelpotError, LinAlgError, MemoryError, FloatingPointError) as error:
            seconds = time.perf_counter() - start
            reason = str(error) or type(error).__name__
            return Trial(settings, rung, len(some), limit, {}, math.inf, seconds, failure=reason)
        seconds = time.perf_counter() - start
        losses = [sum(math.log(max(one[k], ROUNDING)) for k in self.kinds if k in one) for one in scores]
        loss, further = sum(losses) / len(losses), scores[1] if len(scores) > 1 else {}
        return Trial(
            settings, rung, len(some), features.n_inducing, scores[0], loss, seconds, speed, beyond=further
        )  # fmt: skip

    def warm_up(self, settings: Settings) -> None:
        """Let the loops of the engine be compiled, on two structures, so that the first trial is not charged for it."""
        small = sorted(self.structures, key=len)[:: max(1, len(self.structures) - 1)][:2]
        try:
            with shown(enabled=False):
                model = self.build({**settings, "n_inducing": 50})
                features, _ = judged(model, small, resolve(small, self.how.keys), [np.arange(len(small))])
                self._microseconds(features, small)
        except (KernelpotError, LinAlgError):
            return  # The trials say what is wrong.

    @staticmethod
    def _microseconds(features: FeatureMap, structures: Sequence[Atoms]) -> float:
        """Time the prediction of a few structures, µs per atom; how long it takes does not depend on the weights."""
        chosen, n = [], 0
        for atoms in structures:
            if n >= TIMED_ATOMS:
                break
            chosen.append(atoms)
            n += len(atoms)
        form, times = features.form(np.ones(features.n_columns)), []
        for _ in range(2):
            start = time.perf_counter()
            for piece in chunks(chosen):
                batch = Batch.from_structures(chosen[slice(*piece)], features.cutoff)
                gather_pairs(batch, features.energies_and_pairs(form, batch)[1])
            times.append(time.perf_counter() - start)
        return 1e6 * min(times) / n


def telling_kinds(labels: Labels) -> tuple[str, ...]:
    """Return the kinds of labels that are there and are not zero by symmetry."""
    here = [kind for kind in KINDS if labels.present(kind).any()]
    values = {"forces": labels.all_forces, "stress": labels.stress.ravel()}
    values = {kind: v[np.isfinite(v)] for kind, v in values.items()}
    size = {kind: float(np.sqrt(np.mean(v**2))) if len(v) else 0.0 for kind, v in values.items()}
    return tuple(kind for kind in here if kind == "energy" or size[kind] > STILL) or tuple(here)
