"""What a choice over chunks is asked for, and a name for it under which its progress is kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from kernelpot.design.criteria import Criterion
from kernelpot.design.precision import Precision
from kernelpot.linalg.store import digest
from kernelpot.pools.block_store import BlockStore
from kernelpot.pools.parts import Room, room


@dataclass(frozen=True, eq=False)
class Job:
    """A checked request.

    Parameters
    ----------
    store
        The blocks.
    candidates
        Positions in the catalogue that may be chosen, all different.
    n
        How many to choose.
    criterion
        What is improved.
    start
        Information before the choice.
    epsilon, per_part, mix, memory, workers, scheduler, seed
        As in `select_chunks`.
    """

    store: BlockStore
    candidates: Int[np.ndarray, " candidates"]
    n: int
    criterion: Criterion
    start: Precision
    epsilon: float | None
    per_part: int
    mix: str | None
    memory: float
    workers: int
    scheduler: str | None
    seed: int

    @cached_property
    def room(self) -> Room:
        """Memory for one part; on a cluster, each of its workers has all of `memory`."""
        return room(self.store, self.memory, self.workers)

    def folder(self, method: str) -> Path:
        """Where the progress of this very request is kept."""
        criterion = (self.criterion.name, self.criterion.value(self.start))
        key = digest(
            [method, self.store.fingerprint(), self.n, self.epsilon, self.per_part, self.seed, *criterion],
            # A criterion is known by its gradient where the choice starts; that of D is C itself.
            self.criterion.gradient(self.start),
            self.start.factor,
            self.candidates,
        )
        return self.store.folder / "rounds" / f"{method}-{key}"
