"""What a choice over chunks is asked for, how its pool is divided into parts that fit in memory, and its answer."""

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
from kernelpot.errors import ParameterError
from kernelpot.linalg.store import digest
from kernelpot.pools.block_store import BASE_GIB, BlockStore

MIXES = ("structures", "chunks")
MOST_PASSES = 16
"""Parts beyond which whole chunks are shared out by default, since every part would read nearly all chunks."""

_GIB = 2.0**30


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
    """Name the structures that were chosen, by their positions in the catalogue."""
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
        unit=criterion.unit,
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
    """A checked request; `candidates` are different positions in the catalogue, the rest is as in `select_chunks`."""

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
    def part(self) -> float:
        """Bytes for the blocks of one part; on a cluster, each of its workers has all of `memory`."""
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


def weights(store: BlockStore) -> Float[np.ndarray, " structures"]:
    """Bytes that every structure takes in a search: its rows in float64, small matrices G and H, and bookkeeping."""
    h = store.catalogue.heights.astype(np.float64)
    padded = np.where(h <= 4, 4, np.ceil(h / 8) * 8)
    return h * (8.0 * store.d + 40.0) + 24.0 * padded**2 + 300.0


def check_memory(memory: float, d: int) -> None:
    """Refuse what is too little whatever the blocks are, before these are made."""
    least = (_fixed(d) / _GIB) + BASE_GIB
    if memory < least:
        raise ParameterError(
            f"`memory` must be at least {np.ceil(100 * least) / 100:.2f} GiB, got {memory:g}; give more"
        )


def _fixed(d: int) -> float:
    """Bytes of factors, C and its updates, columns of past picks (twice while they grow), and one chunk of products."""
    return 8.0 * (16.0 * d * d + 3 * 8192.0 * d)


def room(store: BlockStore, memory: float, processes: int) -> float:
    """Say how many bytes the blocks of one part may take, with what a search keeps for each.

    `memory` is GiB for all processes together; 0 processes is this one alone.
    """
    catalogue, d = store.catalogue, store.d
    rows = np.bincount(catalogue.chunk, weights=catalogue.heights)
    item = 4 if store.manifest["settings"]["dtype"] == "float32" else 8
    reading = rows.max() * (d * 2.0 * item + 32.0)
    everywhere = len(catalogue) * 450.0 + BASE_GIB * _GIB
    per_process = reading + _fixed(d) + everywhere
    n = max(processes, 1)
    left = memory * _GIB - n * per_process - (everywhere if processes else 0.0)
    least = float(weights(store).max())
    if left / n < least:
        needed = (n * (per_process + least) + (everywhere if processes else 0.0)) / _GIB
        raise ParameterError(
            f"`memory` must be at least {np.ceil(100 * needed) / 100:.2f} GiB for {n} process(es), got {memory:g}; "
            "give more, use fewer workers, or write smaller chunks"
        )
    return left / n


def divide(
    store: BlockStore, which: Int[np.ndarray, " some"], part: float, *, mix: str | None, seed: int, level: int
) -> tuple[list[Int[np.ndarray, " members"]], str]:
    """Divide candidates at random into as few parts as fit; return members of every part in rising order, and the mix.

    "structures" sends every structure to a part at random, and each part reads nearly all chunks; "chunks" sends whole
    chunks, and everything is read once. None takes the first while there are no more than 16 parts. Every level of
    rounds is divided in another way.
    """
    if mix is not None and mix not in MIXES:
        raise ParameterError(f"`mix` must be one of {', '.join(MIXES)}, got {mix!r}")
    size = weights(store)[which]
    if size.sum() <= part:
        return [which], mix or MIXES[0]
    rng = np.random.default_rng([seed, level])
    m = int(np.ceil(size.sum() / part))
    if (mix or ("structures" if m <= MOST_PASSES else "chunks")) == "chunks":
        return _by_chunks(store.catalogue.chunk[which], which, size, part, rng), "chunks"
    order = rng.permutation(len(which))
    while True:
        owner = np.empty(len(which), dtype=np.int64)
        owner[order] = np.arange(len(which)) * m // len(which)
        if np.bincount(owner, weights=size, minlength=m).max() <= part or m >= len(which):
            return [which[owner == p] for p in range(m)], "structures"
        m += 1


def _by_chunks(
    chunk: Int[np.ndarray, " some"],
    which: Int[np.ndarray, " some"],
    size: Float[np.ndarray, " some"],
    part: float,
    rng: np.random.Generator,
) -> list[Int[np.ndarray, " members"]]:
    """Fill one part after another with chunks in random order; a chunk that is too large goes on in the next."""
    parts: list[list[int]] = [[]]
    filled = 0.0
    for k in rng.permutation(np.unique(chunk)):
        members = np.flatnonzero(chunk == k)
        total = size[members].sum()
        if filled and filled + total > part and total <= part:
            parts.append([])
            filled = 0.0
        for s in members:
            if filled and filled + size[s] > part:
                parts.append([])
                filled = 0.0
            parts[-1].append(int(s))
            filled += size[s]
    return [which[np.sort(np.array(members))] for members in parts]
