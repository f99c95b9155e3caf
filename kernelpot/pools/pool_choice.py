"""A choice from a pool in chunks, with where each structure stands and what is guaranteed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.choice import Choice
from kernelpot.design.criteria import Criterion
from kernelpot.pools.block_store import BlockStore


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
