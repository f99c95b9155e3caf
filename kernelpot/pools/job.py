"""What a choice over chunks is asked for, and a name for it under which its progress is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.choice import Choice
from kernelpot.design.criteria import Criterion
from kernelpot.design.precision import Precision
from kernelpot.linalg.store import digest
from kernelpot.pools.block_store import BlockStore
from kernelpot.pools.greedi import Room, room


@dataclass(frozen=True, eq=False)
class PoolChoice(Choice):
    """Which structures of a store to label, in order of choice; `indices` count through the whole source.

    Parameters
    ----------
    files
        File of each chosen structure; empty where the source was a list.
    frames
        Number of each in its file.
    guarantee
        What is known of the value before it was computed, in words.
    n_chunks
        Chunks in the store.
    n_parts
        Parts that the pool was divided into in the first round, or batches of a stochastic choice.
    """

    files: tuple[str, ...] = ()
    frames: tuple[int, ...] = ()
    guarantee: str = ""
    n_chunks: int = 0
    n_parts: int = 1

    def __str__(self) -> str:
        """Return a short table for people."""
        chunks, parts = (
            f"{n} {word}{'s' if n != 1 else ''}" for n, word in ((self.n_chunks, "chunk"), (self.n_parts, "part"))
        )
        return f"{super().__str__()}\n{chunks}, {parts}; {self.guarantee}"


def make_choice(
    store: BlockStore,
    which: Sequence[int] | Int[np.ndarray, " n"],
    curve: Float[np.ndarray, " n+1"],
    *,
    criterion: Criterion,
    method: str,
    n_distinct: int,
    guarantee: str,
    n_parts: int,
) -> PoolChoice:
    """Name the chosen structures.

    Parameters
    ----------
    store
        Where they come from.
    which
        Positions in its catalogue.
    curve, criterion, method, n_distinct, guarantee, n_parts
        As in `PoolChoice`.
    """
    catalogue, which = store.catalogue, np.asarray(which, dtype=np.int64)
    paths = [str(Path(entry["path"])) for entry in store.manifest["settings"]["source"] if "path" in entry]
    return PoolChoice(
        indices=catalogue.index[which],
        curve=np.asarray(curve),
        criterion=criterion.name,
        method=method,
        efficiency_bound=None,
        symbol=criterion.symbol,
        larger_is_better=criterion.larger_is_better,
        description=store.description,
        n_candidates=len(catalogue),
        n_distinct=n_distinct,
        groups=tuple(catalogue.names[g] for g in catalogue.group[which]),
        files=tuple(paths[f] for f in catalogue.file[which]) if paths else (),
        frames=tuple(int(k) for k in catalogue.frame[which]),
        guarantee=guarantee,
        n_chunks=len(store.chunks.numbers()),
        n_parts=n_parts,
    )


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
