"""One candidate, fitted on one rung and scored by what it left out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from scipy.linalg import LinAlgError

from kernelpot.data.labels import Labels
from kernelpot.data.noise import KINDS
from kernelpot.errors import KernelpotError
from kernelpot.potentials.noise_search import ROUNDING
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.progress import shown
from kernelpot.tuning.subsets import FEWEST, Parts
from kernelpot.tuning.trial import Settings, Trial

if TYPE_CHECKING:
    from ase import Atoms

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


@dataclass(frozen=True, eq=False)
class Scorer:
    """Fits candidates on rungs, each of more structures and inducing environments than the one below.

    Attributes
    ----------
    structures
        The training set.
    parts
        Its units.
    kinds
        Kinds of labels that count.
    build
        Makes an unfitted model of settings and n_inducing.
    n_inducing
        Inducing environments on the last rung, where settings do not say.
    max_inducing
        Most inducing environments beyond the last rung.
    objective
        "cv" or "groups".
    n_folds, seed, keys
        Folds, what is random, names of labels.
    """

    structures: Sequence[Atoms]
    parts: Parts
    kinds: tuple[str, ...]
    build: Callable[[Settings], SparseGP]
    n_inducing: int
    max_inducing: int
    objective: str
    n_folds: int
    seed: int
    keys: Mapping[str, str | None] | None

    @cached_property
    def rungs(self) -> list[tuple[Int[np.ndarray, " members"], Int[np.ndarray, " members"]]]:
        """Members of each rung with their folds."""
        n = len(self.structures)
        parts = [self.parts.members(max(math.ceil(share * n), min(n, FEWEST))) for share in SHARES]
        if self.objective == "groups":
            return [(members, self.parts.families_out(members)) for members in parts]
        return [(members, self.parts.folds(members, self.n_folds, seed=self.seed)) for members in parts]

    @property
    def costs(self) -> list[float]:
        """Guessed cost of a fit on each rung."""
        sizes = [len(members) for members, _ in self.rungs]
        return [n * share**COST_POWER for n, share in zip(sizes, INDUCING_SHARES, strict=True)]

    def inducing(self, settings: Settings, rung: int) -> int:
        """Return the limit of inducing environments on a rung; beyond the last it doubles with each."""
        most = int(settings.get("n_inducing", self.n_inducing))
        fewest = min(most, 50 * len({int(z) for atoms in self.structures for z in atoms.numbers}))
        if rung >= len(SHARES):
            return int(min(most * 2 ** (rung - len(SHARES) + 1), max(most, self.max_inducing)))
        return max(fewest, round(INDUCING_SHARES[rung] * most))

    def __call__(self, settings: Settings, rung: int) -> Trial:
        """Fit and score a candidate; a fit that fails is a trial of infinite loss."""
        members, fold = self.rungs[min(rung, len(SHARES) - 1)]
        some = [self.structures[k] for k in members]
        limit = self.inducing(settings, rung)
        start = time.perf_counter()
        try:
            with shown(enabled=False):
                model = self.build({**settings, "n_inducing": limit})
                model.fit(some, keys=self.keys, folds=fold.tolist())
                speed = _microseconds(model, some)
        except (KernelpotError, LinAlgError, MemoryError, FloatingPointError) as error:
            seconds = time.perf_counter() - start
            reason = str(error) or type(error).__name__
            return Trial(settings, rung, len(some), limit, {}, math.inf, seconds, failure=reason)
        seconds = time.perf_counter() - start
        rmse = model.cross_validation_
        loss = sum(math.log(max(rmse[kind], ROUNDING)) for kind in self.kinds if kind in rmse)
        return Trial(settings, rung, len(some), model.n_inducing_, rmse, loss, seconds, speed)

    def warm_up(self, settings: Settings) -> None:
        """Let the loops of the engine be compiled, on two structures, so that the first trial is not charged for it."""
        small = sorted(self.structures, key=len)[:: max(1, len(self.structures) - 1)][:2]
        try:
            with shown(enabled=False):
                model = self.build({**settings, "n_inducing": 50})
                model.fit(small, keys=self.keys, folds=list(range(len(small))))
                model.predict(small, uncertainty=False)
        except (KernelpotError, LinAlgError):
            return  # The trials say what is wrong.


def telling_kinds(labels: Labels) -> tuple[str, ...]:
    """Return the kinds of labels that are there and are not zero by symmetry."""
    here = [kind for kind in KINDS if labels.present(kind).any()]
    forces = np.concatenate([np.ravel(f) for f in labels.forces if f is not None] or [np.zeros(0)])
    values = {"forces": forces, "stress": labels.stress[np.isfinite(labels.stress)]}
    size = {kind: float(np.sqrt(np.mean(v**2))) if len(v) else 0.0 for kind, v in values.items()}
    return tuple(kind for kind in here if kind == "energy" or size[kind] > STILL) or tuple(here)


def _microseconds(model: SparseGP, structures: Sequence[Atoms]) -> float:
    """Time the prediction of a few structures, µs per atom."""
    chosen, n = [], 0
    for atoms in structures:
        if n >= TIMED_ATOMS:
            break
        chosen.append(atoms)
        n += len(atoms)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        model.predict(chosen, uncertainty=False)
        times.append(time.perf_counter() - start)
    return 1e6 * min(times) / n
